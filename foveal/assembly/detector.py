"""What every detector is and does, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from .. import boxes as box_ops
from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray
from ..masks.paste import paste
from ..masks.rle import Masks
from ..parts.resizing import Input
from ..parts.selective_search import ProposalSource
from ..recipe import Recipe
from ..types import Boxes, Detections, Images, Predictions, Priors, Target, Targets

Boxes4 = np.ndarray[Any, np.dtype[np.float32]]  # (P, 4) xyxy


@dataclass(frozen=True)
class Spec(ABC):
    """A detector as a value: all its settings. Subclasses add the fields and say how to build it."""

    @property
    @abstractmethod
    def input(self) -> Input:
        """The resize rule of prediction and evaluation."""

    @property
    @abstractmethod
    def fit(self) -> Recipe:
        """The recipe it is trained by."""

    @property
    def source(self) -> ProposalSource | None:
        """Where proposals come from that the detector does not make itself; None: it needs none."""
        return None

    @abstractmethod
    def build(self, classes: Sequence[str]) -> Detector:
        """The detector with random weights, for these class names."""

    @abstractmethod
    def load_pretrained(self, detector: Detector) -> None:
        """Reads the weights file that the spec names, if any. Called when training starts, never on loading a run."""


@dataclass(frozen=True)
class Outputs:
    """Everything a forward pass knows before the task looks at it."""

    features: list[Tensor]  # (B, c, H, W) each, finest first
    layers: list[Predictions]  # one entry a decoder layer; the last is the answer
    priors: Priors


class Detector(nn.Module, ABC):
    """``detector(images)`` detects, ``detector(images, targets)`` returns losses, ``detect=True`` with targets both.

    ``images`` is an :class:`Images` batch, or torchvision's form: a list of (3, H, W) tensors in 0..1. ``targets`` is a
    :class:`Targets` batch in network pixels, or with the list form a list of ``{"boxes": (G, 4), "labels": (G,)}`` in
    the pixels of those images (labels 0-based, without background).
    """

    has_proposals = False
    source: ProposalSource | None = None  # of the proposals that come from outside, where the detector needs such
    mask_threshold = 0.5  # a pixel whose probability is above this belongs to a mask
    class_agnostic = False  # one class for all objects: a proposal network used as a detector
    learning: str | None = None  # the task whose losses alone count: so says the stage of the fitting
    frozen_norms: tuple[nn.Module, ...] = ()  # norms whose statistics stay: this stage trains other parts

    def __init__(self, spec: Spec, classes: Sequence[str]) -> None:
        super().__init__()
        self.spec = spec
        self.classes = tuple(classes)

    def train(self, mode: bool = True) -> Self:
        """As ever, but :attr:`frozen_norms` norms stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_norms:
            module.eval()
        return self

    @property
    def has_masks(self) -> bool:
        """Whether it learns and finds masks beside boxes; then its targets need them."""
        return False

    # --------------------------------------------------------------------- what an assembly has to say
    @property
    @abstractmethod
    def threshold(self) -> float:
        """The score below which it keeps no detection."""

    @abstractmethod
    def outputs(self, images: Images) -> Outputs:
        """Features, predictions and priors of a batch of normalized images."""

    @abstractmethod
    def losses(
        self, outputs: Outputs, images: Images, targets: Targets, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Named scalars whose plain sum is the loss."""

    @abstractmethod
    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        """Detections in network pixels."""

    def proposals(self, outputs: Outputs, images: Images, *, training: bool = False) -> Boxes:
        """Proposals in network pixels, where :attr:`has_proposals`; ``training``: as many as a training step takes."""
        raise TypeError(f"{type(self.spec).__name__} has no proposals")

    # ------------------------------------------------------------------------------------ the one call
    @overload
    def forward(self, images: Images | list[Tensor], targets: None = None) -> list[Detections]: ...
    @overload
    def forward(
        self,
        images: Images | list[Tensor],
        targets: Targets | list[dict[str, Tensor]],
        *,
        detect: Literal[False] = False,
        rng: torch.Generator | None = None,
    ) -> dict[str, Tensor]: ...
    @overload
    def forward(
        self,
        images: Images | list[Tensor],
        targets: Targets | list[dict[str, Tensor]],
        *,
        detect: Literal[True],
        rng: torch.Generator | None = None,
    ) -> tuple[dict[str, Tensor], list[Detections]]: ...

    def forward(
        self,
        images: Images | list[Tensor],
        targets: Targets | list[dict[str, Tensor]] | None = None,
        *,
        detect: bool = False,
        rng: torch.Generator | None = None,
    ) -> list[Detections] | dict[str, Tensor] | tuple[dict[str, Tensor], list[Detections]]:
        """See the class. ``rng`` drives what is drawn inside a step (sampling); None: torch's global generator."""
        batch = self.normalize(self._from_tensors(images) if isinstance(images, list) else images)
        if isinstance(targets, list):
            targets = self._pad_targets(targets, batch)
        outputs = self._outputs(batch)
        losses: dict[str, Tensor] = {}
        with torch.autocast(batch.pixels.device.type, enabled=False):
            if targets is not None:
                losses = self.losses(outputs, batch, self._merged(targets), rng)
            if targets is not None and not detect:
                return losses
            found = self._answer(self.detections(outputs, batch), batch, self.classes)
        return found if targets is None else (losses, found)

    @torch.no_grad()
    def propose(self, images: Images, *, training: bool = False) -> list[Detections]:
        """The :meth:`proposals` of each image in original pixels, labeled ``object``, by falling score."""
        batch = self.normalize(images)
        outputs = self.outputs(batch)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            return self._answer(self.proposals(outputs, batch, training=training), batch, ("object",))

    # --------------------------------------------------------------------------------- people's border
    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def prepare(self, arrays: Sequence[ImageArray], proposals: Sequence[Boxes4] | None = None) -> Images:
        """Upright RGB pictures (H, W, 3) uint8 -> a normalized batch on the detector's device.

        ``proposals`` (P, 4) of each, in its own pixels, are for a detector with a :attr:`source`; None asks that.
        """
        images = self.spec.input.batch(list(arrays)).to(self.device)
        return self._with_proposals(images, arrays, proposals)

    def _with_proposals(
        self, images: Images, arrays: Sequence[ImageArray], given: Sequence[Boxes4] | None = None
    ) -> Images:
        source = self.source
        if source is None:
            return images
        boxes = [source(a).boxes[: source.top] for a in arrays] if given is None else given
        return images.with_proposals([torch.from_numpy(np.array(b, np.float32).reshape(-1, 4)) for b in boxes])

    def normalize(self, images: Images) -> Images:
        """Raw uint8 pixels become normalized ones; a batch that already is stays as it is."""
        return self.spec.input.normalize(images) if images.pixels.dtype == torch.uint8 else images

    @torch.no_grad()
    def predict_arrays(
        self,
        arrays: Sequence[ImageArray],
        batch: int | None = None,
        proposals: Sequence[Boxes4] | None = None,
    ) -> list[Detections]:
        """Detections of upright RGB pictures (H, W, 3) uint8. On a processor one picture at a time is fastest.

        ``proposals``: see :meth:`prepare`.
        """
        size = batch or (1 if self.device.type == "cpu" else 8)
        found: list[Detections] = []
        with in_evaluation(self):
            for start in range(0, len(arrays), size):
                given = None if proposals is None else proposals[start : start + size]
                found += [d.cpu() for d in self(self.prepare(arrays[start : start + size], given))]
        return found

    def predict(self, source: Any) -> Any:
        """Detections of one picture (path, array, PIL image, tensor), or a list of them for a list or a folder."""
        from ..data.images.load import as_rgb, find_images

        if isinstance(source, (str, Path)) and Path(source).is_dir():
            source = find_images(Path(source))
        if isinstance(source, (list, tuple)):  # a few at a time: decoded pictures are large
            parts = (source[i : i + 8] for i in range(0, len(source), 8))
            return [found for part in parts for found in self.predict_arrays([as_rgb(s) for s in part])]
        return self.predict_arrays([as_rgb(source)])[0]

    # ------------------------------------------------------------------------------------------ inside
    def _outputs(self, images: Images) -> Outputs:
        """Raises :class:`UsageError` where a norm has one value alone: a 1 x 1 map of a batch of one picture."""
        try:
            return self.outputs(images)
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 value per channel"):
                raise
            raise UsageError(
                "a norm has a single value of each channel to look at: one picture, and a map of 1 x 1",
                fix="Use larger images or, in training, batches of two or more",
            ) from error

    def _pixels(self, images: Images) -> Tensor:
        """What the backbone gets: its own number format; channels-last, but in training as its weights lie."""
        weight = next(p for p in self.parameters() if p.dim() == 4)
        plain = torch.is_grad_enabled() and not weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.contiguous_format if plain else torch.channels_last
        return images.pixels.to(dtype=weight.dtype, memory_format=layout)

    def _merged(self, targets: Targets) -> Targets:
        if not self.class_agnostic:
            return targets
        return merge_classes(targets)

    def _from_tensors(self, images: list[Tensor]) -> Images:
        """Torchvision's form: values are taken as given, not rounded to bytes."""
        batch = self.spec.input.batch_tensors(images).to(self.device)
        if self.source is None:
            return batch
        arrays = [(t.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy() for t in images]
        return self._with_proposals(batch, arrays)

    def _pad_targets(self, targets: list[dict[str, Tensor]], images: Images) -> Targets:
        """Raises :class:`FovealError` for targets that are not of torchvision's form with our labels."""
        if len(targets) != len(images.pixels):
            raise FovealError(f"{len(targets)} targets for {len(images.pixels)} pictures")
        for i, t in enumerate(targets):
            boxes, labels = t["boxes"], t["labels"]
            if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
                shapes = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
                raise FovealError(f"targets[{i}] has {shapes}, expected (G, 4) and (G,)")
            top = len(self.classes)
            if not self.class_agnostic and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < top:
                raise FovealError(
                    f"targets[{i}] has labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {top - 1}",
                    fix="Use 0-based labels without one for background",
                )
        none: Sequence[Masks | None] = [None] * len(targets)
        masks = self._given_masks(targets, images) if self.has_masks else none
        rows = zip(targets, masks, strict=True)
        padded = Targets.pad([Target(t["boxes"].float().cpu(), t["labels"].cpu(), masks=m) for t, m in rows])
        padded = padded.to(images.pixels.device)
        moved = images.to_network(padded.boxes) * padded.valid[..., None]
        return replace(padded, boxes=moved)

    def _given_masks(self, targets: list[dict[str, Tensor]], images: Images) -> list[Masks]:
        """Masks (G, H, W) of the pictures as they were given -> masks in network pixels."""
        found = []
        sizes, frames = images.original.tolist(), images.frame.tolist()
        for i, (t, size, frame) in enumerate(zip(targets, sizes, frames, strict=True)):
            shape = tuple(t["masks"].shape) if "masks" in t else None
            if shape != (len(t["boxes"]), *size):
                raise FovealError(f"targets[{i}] has masks {shape}, expected {(len(t['boxes']), *size)}: bitmaps")
            found.append(Masks.of_dense(t["masks"].cpu()).in_frame(*frame))
        return found

    def _answer(self, found: Boxes, images: Images, names: tuple[str, ...]) -> list[Detections]:
        """Network pixels -> original pixels, clipped to the file, one object an image. The one transfer to the host."""
        boxes = box_ops.clip(images.to_original(found.boxes), images.original)
        counts = cast(list[int], found.valid.sum(1).tolist())
        masks = self._masks(found, boxes, images, counts)
        return [
            Detections(boxes[i, :n], found.scores[i, :n], found.labels[i, :n], names, masks[i])
            for i, n in enumerate(counts)
        ]

    def _masks(self, found: Boxes, boxes: Tensor, images: Images, counts: list[int]) -> Sequence[Masks | None]:
        """The masks of each picture, made on the host: only the small ones travel."""
        if found.masks is None:
            return [None] * len(counts)
        small, places = found.masks.cpu(), boxes.float().cpu()
        sizes = [(int(h), int(w)) for h, w in images.original.tolist()]
        return [paste(small[i, :n], places[i, :n], sizes[i], self.mask_threshold) for i, n in enumerate(counts)]


def merge_classes(targets: Targets) -> Targets:
    """All objects as the one class ``object``: what a proposal network learns."""
    return Targets(
        targets.boxes,
        torch.zeros_like(targets.labels),
        targets.valid,
        targets.ignore,
        targets.any_ignore,
        targets.masks,
    )


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode inside, and each of its parts as before afterwards."""
    learning = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in learning:
            part.training = True
