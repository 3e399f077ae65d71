"""The types that travel between the parts.

Letters used in every shape: B images, G ground-truth objects (padded), A priors, P proposals, N detections,
C classes, K logits. Boxes are ``xyxy`` float absolute pixels, continuous (width = x2 - x1). Labels are 0..C-1;
background exists only inside a softmax loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import FovealError
from .masks.rle import Masks


# ------------------------------------------------------------------------------------------------- public
@dataclass(frozen=True)
class Images:
    """A batch of pictures as the network sees them.

    ``pixels`` holds raw RGB values where it is ``uint8`` (training data stays so until the last moment) and
    normalized values where it is floating point. Outside ``sizes`` it is padding: zero once normalized.
    """

    pixels: Tensor  # (B, 3, H, W)
    sizes: Tensor  # (B, 2) height, width of the part of ``pixels`` that is picture
    frame: Tensor  # (B, 4) sx, sy, ox, oy: network x = original x * sx + ox
    original: Tensor  # (B, 2) height, width of the upright file
    proposals: Tensor | None = None  # (B, P, 4) boxes from outside, in network pixels
    proposals_valid: Tensor | None = None  # (B, P)
    seen: int = 0  # images trained on so far, for losses with a schedule of their own

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    def to(self, device: torch.device | str) -> Images:
        def move(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return replace(
            self,
            pixels=move(self.pixels),
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
        """The batch with proposals from outside: (P, 4) of each image, in the pixels of its original file."""
        padded, valid = (t.to(self.pixels.device, non_blocking=True) for t in pad_boxes(boxes))
        return replace(self, proposals=self.to_network(padded) * valid[..., None], proposals_valid=valid)


@dataclass(frozen=True)
class Target:
    """The objects of one image, in network pixels. ``crowd``, ``difficult`` and ``ignore`` are flags (G,)."""

    boxes: Tensor  # (G, 4)
    labels: Tensor  # (G,) int64
    crowd: Tensor | None = None  # (G,) bool
    difficult: Tensor | None = None  # (G,) bool
    ignore: Tensor | None = None  # (G,) bool: a region where the detector may answer what it likes
    masks: Masks | None = None  # G of them; one without a pixel: nobody drew it

    def __len__(self) -> int:
        return int(self.boxes.shape[0])


@dataclass(frozen=True)
class Detections:
    """The answer for one image: boxes in original pixels, clipped, sorted by falling score."""

    boxes: Tensor  # (N, 4)
    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    names: tuple[str, ...] = ()  # class names, indexed by label
    masks: Masks | None = None  # N of them, in original pixels; ``masks.dense()`` are bitmaps (N, H, W)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __getitem__(self, index: Any) -> Detections:
        rows = index.cpu() if isinstance(index, Tensor) else index
        masks = None if self.masks is None else self.masks[rows]
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index], masks=masks)

    def above(self, score: float) -> Detections:
        """Those at or above a score: for showing, never for evaluation."""
        return self[self.scores >= score]

    def only(self, classes: Sequence[str]) -> Detections:
        """Those of the named classes; an unknown name raises ``KeyError``."""
        unknown = [c for c in classes if c not in self.names]
        if unknown:
            raise KeyError(f"class {unknown[0]!r} is not one of {', '.join(self.names)}")
        wanted = torch.tensor([self.names.index(c) for c in classes], device=self.labels.device)
        return self[torch.isin(self.labels, wanted)]

    def cpu(self) -> Detections:
        return replace(self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())

    def to_list(self) -> list[dict[str, Any]]:
        """``[{"label", "score", "box": [x1, y1, x2, y2]}]``, the form of ``predict --json``; where there are masks with
        ``"mask": {"size": [height, width], "counts": text}``, COCO's run lengths."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        found: list[dict[str, Any]] = [
            {"label": self.names[k] if self.names else k, "score": s, "box": b} for b, s, k in rows
        ]
        return self._with_masks(found, "mask")

    def _with_masks(self, rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        """Each row with its mask as COCO's run lengths, where there are masks."""
        if self.masks is None:
            return rows
        return [row | {key: mask} for row, mask in zip(rows, self.masks.to_coco(), strict=True)]

    def to_hf(self) -> dict[str, Tensor]:
        """The form of ``transformers``' ``post_process_object_detection``."""
        return {"scores": self.scores, "labels": self.labels, "boxes": self.boxes}

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results, with ``segmentation`` where there are masks. ``category_ids[label]`` is the data set's own id;
        without it, label + 1."""
        ids = category_ids or range(1, 1 + max(len(self.names), int(self.labels.max()) + 1 if len(self) else 1))
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        found: list[dict[str, Any]] = [
            {
                "image_id": image_id,
                "category_id": ids[k],
                "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                "score": s,
            }
            for b, s, k in rows
        ]
        return self._with_masks(found, "segmentation")

    @classmethod
    def from_hf(cls, result: Mapping[str, Tensor], names: Sequence[str] = ()) -> Detections:
        """Back from :meth:`to_hf`, sorted by falling score. Names may be missing."""
        order = result["scores"].float().argsort(descending=True, stable=True)
        boxes = result["boxes"].reshape(-1, 4).float()
        return cls(boxes[order], result["scores"].float()[order], result["labels"].long()[order], tuple(names))

    @classmethod
    def from_coco(
        cls, results: Sequence[Mapping[str, Any]], names: Sequence[str] = (), category_ids: Sequence[int] | None = None
    ) -> Detections:
        """Back from :meth:`to_coco`: the results of one image, sorted by falling score, without masks.

        ``category_ids[label]`` is the data set's own id; without it, label + 1. Raises :class:`FovealError` for results
        of several images and for an unknown category.
        """
        if len({row["image_id"] for row in results}) > 1:
            raise FovealError("these results are of several images", fix="Give those of one image_id")
        most = max((int(row["category_id"]) for row in results), default=0)
        label = {k: i for i, k in enumerate(category_ids or range(1, 1 + max(len(names), 0 if names else most)))}
        unknown = [row["category_id"] for row in results if row["category_id"] not in label]
        if unknown:
            raise FovealError(f"category_id {unknown[0]} is not one of {len(label)} known ones")
        rows = sorted(results, key=lambda row: -row["score"])
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([float(row["score"]) for row in rows])
        labels = torch.tensor([label[row["category_id"]] for row in rows], dtype=torch.int64)
        return cls(boxes.float(), scores, labels, tuple(names))

    def to_supervision(self) -> Any:
        """``supervision.Detections`` (needs ``pip install foveal[supervision]``)."""
        import supervision as sv

        labels = self.labels.cpu().numpy()
        return sv.Detections(
            xyxy=self.boxes.float().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=labels,
            mask=None if self.masks is None else self.masks.dense(),
            data={"class_name": np.array([self.names[k] for k in labels], dtype=str)} if self.names else {},
        )

    @classmethod
    def from_supervision(cls, other: Any, names: Sequence[str]) -> Detections:
        """Back from ``supervision.Detections``, sorted by falling score; scores that are missing become 1."""
        n = len(other.xyxy)
        scores = torch.ones(n) if other.confidence is None else torch.as_tensor(other.confidence).float()
        labels = torch.zeros(n) if other.class_id is None else torch.as_tensor(other.class_id)
        boxes = torch.as_tensor(other.xyxy).reshape(-1, 4).float()
        masks = None if other.mask is None else Masks.of_dense(other.mask)
        return cls(boxes, scores, labels.long(), tuple(names), masks)[scores.argsort(descending=True, stable=True)]


# -------------------------------------------------------------------------------------------------- inner
def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B tensors (P, 4) -> (B, P, 4) and valid (B, P), padded with zeros to the longest, to one column at least."""
    most = max(1, max(len(rows) for rows in boxes))
    padded, valid = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most, dtype=torch.bool)
    for i, rows in enumerate(boxes):
        padded[i, : len(rows)] = rows
        valid[i, : len(rows)] = True
    return padded, valid


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the largest image (at least one column, so nothing is ever empty)."""

    boxes: Tensor  # (B, G, 4); padding is all zero
    labels: Tensor  # (B, G) int64; padding is 0
    valid: Tensor  # (B, G) bool: a real object to learn
    ignore: Tensor  # (B, G) bool: a region to leave out of the loss (never valid at the same time)
    any_ignore: bool = False  # known on the host, so that nobody has to ask the device
    masks: Tensor | None = None  # (B, G, M, 3) int32: column, first row, row after the last of each run; padding is 0

    @classmethod
    def pad(cls, targets: Sequence[Target]) -> Targets:
        """Pads with NumPy-free host work only; call it in the loader, then ``.to(device)``."""
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
        return cls(boxes, labels, valid, ignore, bool(ignore.any()), _padded_runs([t.masks for t in targets], g))

    def to(self, device: torch.device | str) -> Targets:
        fields = {k: getattr(self, k).to(device, non_blocking=True) for k in ("boxes", "labels", "valid", "ignore")}
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Targets(**fields, any_ignore=self.any_ignore, masks=masks)

    def repeated(self, times: int) -> Targets:
        """The batch several times in a row, without masks: for matching the layers of a decoder at once."""
        fields = {k: torch.cat([getattr(self, k)] * times) for k in ("boxes", "labels", "valid", "ignore")}
        return Targets(**fields, any_ignore=self.any_ignore)


def _padded_runs(masks: Sequence[Masks | None], objects: int) -> Tensor | None:
    """The runs of all masks, padded to the mask that has most of them: (B, G, M, 3); None where there are no masks."""
    if all(m is None for m in masks):
        return None
    most = max(int(np.diff(m.starts).max(initial=1)) for m in masks if m is not None)
    runs = np.zeros((len(masks), objects, most, 3), np.int32)
    for own, m in zip(runs, masks, strict=True):
        if m is not None:
            owner = m.owner
            own[owner, np.arange(len(owner)) - m.starts[owner]] = np.stack([m.x, m.top, m.bottom], 1)
    return torch.from_numpy(runs)


@dataclass(frozen=True)
class Priors:
    """Where predictions stand: anchors, points, cells, proposals, queries."""

    boxes: Tensor  # (A, 4), or (B, A, 4) where they differ between images
    counts: tuple[int, ...]  # how many of the A belong to each level, in order
    valid: Tensor | None = None  # (B, A) bool; None: all
    grid: Tensor | None = None  # (A, 5) sides of cell and canvas and the cell's reach, where a coder needs them

    def batched(self, batch: int) -> Tensor:
        """(B, A, 4), a view."""
        return self.boxes if self.boxes.dim() == 3 else self.boxes.expand(batch, -1, -1)

    def places(self, batch: int) -> Tensor:
        """What a coder is given: the boxes (B, A, 4), with the grid behind them (B, A, 9) where there is one."""
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
    """What a head says of every prior, all levels concatenated along A."""

    logits: Tensor  # (B, A, K)
    deltas: Tensor  # (B, A, 4), or (B, A, C, 4) where the box depends on the class
    quality: Tensor | None = None  # (B, A)


@dataclass(frozen=True)
class Match:
    """Which object each prior answers for. ``gt`` is always a valid index; its meaning is in the two masks."""

    gt: Tensor  # (B, A) int64
    positive: Tensor  # (B, A) bool
    ignored: Tensor  # (B, A) bool: neither positive nor negative
    extra_objects: tuple[Tensor, Tensor] | None = None  # (B, G) prior of each object; (B, G) bool: another took it

    def chunk(self, parts: int) -> list[Match]:
        """The inverse of ``repeated``: a match for each of so many equal parts of the batch."""
        gt, positive, ignored = (t.chunk(parts) for t in (self.gt, self.positive, self.ignored))
        extra_objects = (
            [None] * parts
            if self.extra_objects is None
            else zip(*(t.chunk(parts) for t in self.extra_objects), strict=True)
        )
        return [Match(*row) for row in zip(gt, positive, ignored, extra_objects, strict=True)]


@dataclass(frozen=True)
class Boxes:
    """A padded batch of scored boxes in network pixels: what ``suppress`` returns (proposals, detections)."""

    boxes: Tensor  # (B, N, 4)
    scores: Tensor  # (B, N)
    labels: Tensor  # (B, N) int64
    valid: Tensor  # (B, N) bool; the valid ones come first, by falling score
    masks: Tensor | None = None  # (B, N, m, m) probabilities inside each box
