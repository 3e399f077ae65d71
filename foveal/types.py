"""The types that travel between the parts, and the glossary of the package.

    prior        what a prediction is relative to: an anchor (RPN, RetinaNet, YOLO), a default box (SSD), a location
                 (FCOS), a grid cell (YOLOv1), a proposal or RoI (second stage), an object query (DETR)
    match        the assignment of ground-truth objects to priors: each prior is positive (assigned to object ``gt``),
                 negative (background) or ignored (neither, as near an ignored region or between two IoU thresholds)
    sample       the priors whose losses count: all, a balanced random part (RPN, RoI heads), the hardest (SSD, OHEM)
    normalizer   what a summed loss is divided by: the sampled or positive priors, the images, a constant
    logits       raw class outputs of a head, before softmax or sigmoid; scores are probabilities
    deltas       raw box outputs of a head; a coder encodes boxes as deltas and decodes deltas to boxes
    quality      a second score of a prior beside its classes: centerness (FCOS), objectness (YOLO)
    level        one feature map of a pyramid; its stride is the pixels of the image that one of its cells spans
    proposals    class-agnostic boxes that a second stage classifies: an RPN's, or external (precomputed) ones
    candidate    a (prior, class) pair that enters non-maximum suppression; detections are what is left of them
    crowd        a region of many objects annotated as one (COCO): ignored, like difficult objects where asked
    frozen       parameters that are not trained, or norms whose statistics stay as they are
    iteration    one optimizer step; ``step`` counts them

Letters of every shape: B images, G ground-truth objects (padded), A priors, P proposals, N detections, C classes, K
logits. Boxes: ``xyxy`` float absolute pixels, continuous. Labels: 0..C-1; background is only inside a softmax loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .masks.rle import Masks, pad_runs


def on_cpu(tensor: Tensor) -> bool:
    """Whether the values of the tensor can be read without a device sync: on a CPU, and not while compiling."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def inference_batch(device: torch.device) -> int:
    """Images in a forward pass of inference: 8 on a GPU and 1 on a CPU, where that is fastest."""
    return 1 if device.type == "cpu" else 8


# ------------------------------------------------------------------------------------------------- public
@dataclass(frozen=True)
class Images:
    """A batch of images as the network sees them.

    ``pixels`` holds raw RGB values where it is ``uint8`` (training data stays so until the last moment) and
    normalized values where it is floating point. Outside ``sizes`` it is padding: zero once normalized.
    """

    pixels: Tensor  # (B, 3, H, W)
    sizes: Tensor  # (B, 2) height, width of the image within ``pixels``; the rest is padding
    frame: Tensor  # (B, 4) sx, sy, ox, oy: network x = original x * sx + ox
    original: Tensor  # (B, 2) height, width of the upright file
    proposals: Tensor | None = None  # (B, P, 4) external proposals, in network pixels
    proposals_valid: Tensor | None = None  # (B, P)
    seen: int = 0  # images trained on so far, for losses with a schedule of their own
    frozen_maps: tuple[Tensor, ...] = ()  # of the backbone's frozen layers, (B, h, w, c) each; then ``pixels`` is blank

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width that the images are padded to."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def to(self, device: torch.device | str) -> Images:
        def move(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return replace(
            self,
            pixels=move(self.pixels),
            frozen_maps=tuple(map(move, self.frozen_maps)),
            sizes=move(self.sizes),
            frame=move(self.frame),
            original=move(self.original),
            proposals=None if self.proposals is None else move(self.proposals),
            proposals_valid=None if self.proposals_valid is None else move(self.proposals_valid),
        )

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes (B, N, 4) in network pixels -> the same boxes in the pixels of the original files."""
        scale, offset = self.frame[:, None, :2].repeat(1, 1, 2), self.frame[:, None, 2:].repeat(1, 1, 2)
        return (boxes - offset) / scale

    def to_network(self, boxes: Tensor) -> Tensor:
        """The inverse of :meth:`to_original`."""
        scale, offset = self.frame[:, None, :2].repeat(1, 1, 2), self.frame[:, None, 2:].repeat(1, 1, 2)
        return boxes * scale + offset

    def with_proposals(self, boxes: Sequence[Tensor]) -> Images:
        """The batch with external proposals: (P, 4) of each image, in the pixels of its original file."""
        padded, valid = (t.to(self.pixels.device, non_blocking=True) for t in pad_boxes(boxes))
        return replace(self, proposals=self.to_network(padded) * valid[..., None], proposals_valid=valid)


@dataclass(frozen=True)
class Target:
    """The objects of one image, in network pixels. ``crowd``, ``difficult`` and ``ignore`` are flags (G,)."""

    boxes: Tensor  # (G, 4)
    labels: Tensor  # (G,) int64
    crowd: Tensor | None = None  # (G,) bool
    difficult: Tensor | None = None  # (G,) bool
    ignore: Tensor | None = None  # (G,) bool: a region whose predictions count neither as right nor as wrong
    masks: Masks | None = None  # G of them; an empty one: the object has no mask

    def __len__(self) -> int:
        return int(self.boxes.shape[0])


@dataclass(frozen=True)
class Detections:
    """The detections of one image: boxes in original pixels, clipped, sorted by falling score."""

    boxes: Tensor  # (N, 4)
    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    names: tuple[str, ...] = ()  # class names, indexed by label
    masks: Masks | None = None  # N of them, in original pixels; ``masks.dense()`` are bitmaps (N, H, W)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __getitem__(self, index: Any) -> Detections:
        on_cpu = index.cpu() if isinstance(index, Tensor) else index
        masks = None if self.masks is None else self.masks[on_cpu]
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index], masks=masks)

    def above(self, score: float) -> Detections:
        """The detections with at least this score: for drawing, never for evaluation."""
        return self[self.scores >= score]

    def only(self, classes: Sequence[str]) -> Detections:
        """The detections of the named classes; an unknown name raises ``KeyError``."""
        unknown = [c for c in classes if c not in self.names]
        if unknown:
            raise KeyError(f"class {unknown[0]!r} is not one of {', '.join(self.names)}")
        labels = torch.tensor([self.names.index(c) for c in classes], device=self.labels.device)
        return self[torch.isin(self.labels, labels)]

    def cpu(self) -> Detections:
        return replace(self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())

    def to_list(self) -> list[dict[str, Any]]:
        """``[{"label", "score", "box": [x1, y1, x2, y2]}]``, the form of ``predict --json``; where there are masks with
        ``"mask": {"size": [height, width], "counts": text}``, COCO's run lengths."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        records = [{"label": self.names[k] if self.names else k, "score": s, "box": b} for b, s, k in rows]
        from .files import interop

        return interop.with_masks(records, self.masks, "mask")

    def to_hf(self) -> dict[str, Tensor]:
        """The form of ``transformers``' ``post_process_object_detection``."""
        return {"scores": self.scores, "labels": self.labels, "boxes": self.boxes}

    @classmethod
    def from_hf(cls, result: Mapping[str, Tensor], names: Sequence[str] = ()) -> Detections:
        """Back from :meth:`to_hf`, sorted by falling score. Names may be missing."""
        order = result["scores"].float().argsort(descending=True, stable=True)
        boxes = result["boxes"].reshape(-1, 4).float()
        return cls(boxes[order], result["scores"].float()[order], result["labels"].long()[order], tuple(names))

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results, with ``segmentation`` where there are masks. ``category_ids[label]`` is the dataset's own id;
        without it, label + 1."""
        ids = category_ids or range(1, 1 + max(len(self.names), int(self.labels.max()) + 1 if len(self) else 1))
        from .files import interop

        records = interop.to_coco(self.boxes, self.scores, [ids[k] for k in self.labels.tolist()], image_id)
        return interop.with_masks(records, self.masks, "segmentation")

    @classmethod
    def from_coco(
        cls, results: Sequence[Mapping[str, Any]], names: Sequence[str] = (), category_ids: Sequence[int] | None = None
    ) -> Detections:
        """Back from :meth:`to_coco`: the results of one image, sorted by falling score, without masks.

        ``category_ids[label]`` is the dataset's own id; without it, label + 1. Raises :class:`FovealError` for results
        of several images and for an unknown category.
        """
        from .files import interop

        return cls(*interop.from_coco(results, len(names), category_ids), tuple(names))

    def to_supervision(self) -> Any:
        """``supervision.Detections`` (needs ``pip install foveal[supervision]``)."""
        from .files import interop

        return interop.to_supervision(self.boxes, self.scores, self.labels, self.masks, self.names)

    @classmethod
    def from_supervision(cls, other: Any, names: Sequence[str]) -> Detections:
        """Back from ``supervision.Detections``, sorted by falling score; missing scores become 1, labels 0."""
        from .files import interop

        boxes, scores, labels = interop.from_supervision(other)
        masks = None if other.mask is None else Masks.of_dense(other.mask)
        return cls(boxes, scores, labels, tuple(names), masks)[scores.argsort(descending=True, stable=True)]


# -------------------------------------------------------------------------------------------------- inner
def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B tensors (P, 4) -> (B, P, 4) and valid (B, P), padded with zeros to the longest, to one column at least."""
    longest = max(1, max(len(one) for one in boxes))
    padded, valid = torch.zeros(len(boxes), longest, 4), torch.zeros(len(boxes), longest, dtype=torch.bool)
    for i, one in enumerate(boxes):
        padded[i, : len(one)] = one
        valid[i, : len(one)] = True
    return padded, valid


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the largest image (at least one column, so nothing is ever empty)."""

    boxes: Tensor  # (B, G, 4); padding is all zero
    labels: Tensor  # (B, G) int64; padding is 0
    valid: Tensor  # (B, G) bool: a real object to learn
    ignore: Tensor  # (B, G) bool: a region to leave out of the loss (never valid at the same time)
    any_ignore: bool = False  # known on the CPU, so that no device sync is needed
    masks: Tensor | None = None  # (B, G, M, 3) int32: column, first row, row after the last of each run; padding is 0

    @classmethod
    def pad(cls, targets: Sequence[Target]) -> Targets:
        """Pads on the CPU; call it in the loader, then ``.to(device)``."""
        g = max(1, max(len(t) for t in targets))
        boxes = torch.zeros(len(targets), g, 4)
        labels = torch.zeros(len(targets), g, dtype=torch.int64)
        valid = torch.zeros(len(targets), g, dtype=torch.bool)
        ignore = torch.zeros(len(targets), g, dtype=torch.bool)
        for i, t in enumerate(targets):
            n = len(t)
            boxes[i, :n], labels[i, :n] = t.boxes, t.labels
            if t.ignore is not None:
                ignore[i, :n] = t.ignore
            valid[i, :n] = ~ignore[i, :n]
        runs = pad_runs([t.masks for t in targets], g) if any(t.masks is not None for t in targets) else None
        masks = None if runs is None else torch.from_numpy(runs)
        return cls(boxes, labels, valid, ignore, bool(ignore.any()), masks)

    def to(self, device: torch.device | str) -> Targets:
        fields = {k: getattr(self, k).to(device, non_blocking=True) for k in ("boxes", "labels", "valid", "ignore")}
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Targets(**fields, any_ignore=self.any_ignore, masks=masks)

    def repeated(self, times: int) -> Targets:
        """The batch repeated along B, without masks: for matching all decoder layers at once."""
        fields = {k: torch.cat([getattr(self, k)] * times) for k in ("boxes", "labels", "valid", "ignore")}
        return Targets(**fields, any_ignore=self.any_ignore)


@dataclass(frozen=True)
class Priors:
    """What predictions are relative to: anchors, points, cells, proposals, queries."""

    boxes: Tensor  # (A, 4), or (B, A, 4) where they differ between images
    counts: tuple[int, ...]  # how many of the A belong to each level, in order
    valid: Tensor | None = None  # (B, A) bool; None: all
    grid: Tensor | None = None  # (A, 5) sides of cell and canvas, and ``scale_xy``, where a coder needs them

    def batched(self, batch: int) -> Tensor:
        """(B, A, 4), a view."""
        return self.boxes if self.boxes.dim() == 3 else self.boxes.expand(batch, -1, -1)

    def places(self, batch: int) -> Tensor:
        """The input of a coder: the boxes (B, A, 4), with the grid behind them (B, A, 9) where there is one."""
        if self.grid is None:
            return self.batched(batch)
        return torch.cat([self.boxes, self.grid], -1).expand(batch, -1, -1)

    def repeated(self, times: int) -> Priors:
        """As :meth:`Targets.repeated`."""
        boxes = self.boxes if self.boxes.dim() == 2 else torch.cat([self.boxes] * times)
        valid = None if self.valid is None else torch.cat([self.valid] * times)
        return replace(self, boxes=boxes, valid=valid)


@dataclass(frozen=True)
class Predictions:
    """The raw outputs of a head for every prior, all levels concatenated along A."""

    logits: Tensor  # (B, A, K)
    deltas: Tensor  # (B, A, 4), or (B, A, C, 4) where the box depends on the class
    quality: Tensor | None = None  # (B, A)


@dataclass(frozen=True)
class Match:
    """The object each prior is assigned to. ``gt`` is always a valid index; its meaning is in the two masks."""

    gt: Tensor  # (B, A) int64
    positive: Tensor  # (B, A) bool
    ignored: Tensor  # (B, A) bool: neither positive nor negative
    extra_objects: tuple[Tensor, Tensor] | None = None  # (B, G) prior of each object; (B, G) bool: taken by another

    def chunk(self, parts: int) -> list[Match]:
        """The inverse of ``repeated``: the matches of ``parts`` equal parts of the batch."""
        gt, positive, ignored = (t.chunk(parts) for t in (self.gt, self.positive, self.ignored))
        none, extra = [None] * parts, self.extra_objects
        objects = none if extra is None else zip(*(t.chunk(parts) for t in extra), strict=True)
        return [Match(*part) for part in zip(gt, positive, ignored, objects, strict=True)]


@dataclass(frozen=True)
class Boxes:
    """A padded batch of scored boxes in network pixels: what ``suppress`` returns (proposals, detections)."""

    boxes: Tensor  # (B, N, 4)
    scores: Tensor  # (B, N)
    labels: Tensor  # (B, N) int64
    valid: Tensor  # (B, N) bool; the valid ones come first, by falling score
    masks: Tensor | None = None  # (B, N, m, m) probabilities inside each box
    rows: Tensor | None = None  # (B, N) int64: the candidate that each box was, where they come from candidates
