"""The base classes of every detector: ``Spec``, all its settings as a value, and ``Detector``, the module it builds."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import torch
from torch import Tensor, nn

from ..files.aliases import ImageArray
from ..parts.resizing import IMAGENET_PIXELS, Input, PixelStatistics
from ..recipe import Recipe
from ..types import Boxes, Detections, Images, Targets, inference_batch
from .arrays import Boxes4, attach_proposals, decoded, from_tensors, pad_targets
from .task import BoxTask, Outputs, merge_classes, single_value_explained, to_detections

if TYPE_CHECKING:
    from ..parts.backbones.base import BackboneSpec
    from ..parts.heads.roi import RoIHeadSpec
    from ..parts.pooling.roi_align import Pool
    from ..parts.priors.cells import Cells
    from ..parts.selective_search import ProposalSource


@dataclass(frozen=True)
class Spec(ABC):
    """A detector as a value: all its settings. Subclasses add the fields and build the module.

    Training, evaluation and checkpoints use the properties below. A subclass may replace one with a field of the same
    name, which needs a default (without one the dataclass would take the property for the default).
    """

    def __init_subclass__(cls) -> None:
        for name in vars(cls).get("__annotations__", {}):
            if name not in vars(cls) and isinstance(getattr(cls, name, None), property):
                raise TypeError(f"{cls.__name__}.{name} has no default, and a field of this name needs one")

    @property
    @abstractmethod
    def input(self) -> Input:
        """The resize rule of prediction and evaluation."""

    @property
    @abstractmethod
    def fit(self) -> Recipe:
        """The recipe it is trained by."""

    @property
    def backbone(self) -> BackboneSpec | None:
        """The network that makes the feature maps; None: it has no spec of its own."""
        return None

    @property
    def tasks(self) -> Mapping[str, BoxTask]:
        """The stages of classification and box regression by field name: ``task``, or ``rpn`` and ``roi``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, BoxTask)}

    @property
    def source(self) -> ProposalSource | None:
        """Where external proposals come from; None: the detector needs none."""
        return None

    @property
    def pool(self) -> Pool | None:
        """The pool that extracts the features of each proposal, in a two-stage detector."""
        return None

    @property
    def roi_head(self) -> RoIHeadSpec | None:
        """The head of the second stage of Fast R-CNN and its successors."""
        return None

    @property
    def grid(self) -> Cells | None:
        """The anchors of a YOLO detector, which lie in every cell of a grid."""
        return None

    @property
    def zero_initialized(self) -> tuple[str, ...]:
        """Paths of parts that are initialized with zeros on purpose, and work so until a stage fits them."""
        return ()

    @property
    def weights_file(self) -> str | None:
        """The file that :meth:`load_pretrained` reads, if any."""
        return None if self.backbone is None else self.backbone.weights_file

    @property
    def pixels(self) -> PixelStatistics | None:
        """(mean, std) of the pixels that those weights were trained on, RGB on the scale 0..1; None: no weights."""
        return None if self.backbone is None or self.backbone.weights is None else self.backbone.pixels

    def with_pixels(self, pixels: PixelStatistics | None = None) -> Self:
        """The same with numbers in ``input.mean`` and ``input.std``, which a detector and a stored run always have.

        Where unset they become ``pixels``; None: those of its backbone's weights, or ImageNet's without weights.
        """
        if None not in (self.input.mean, self.input.std):
            return self
        known: Any = self  # every subclass is a dataclass
        return replace(known, input=self.input.with_pixels(pixels or self.pixels or IMAGENET_PIXELS))  # type: ignore[no-any-return]

    def notes(self, *, training: bool = False) -> list[str]:
        """What the user should know of the files it was made from, a sentence each; ``training``: for training."""
        return []

    @abstractmethod
    def build(self, classes: Sequence[str]) -> Detector:
        """The detector with random weights, for these class names."""

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the weights file that the spec names, if any, into a detector that it built.

        Called when training starts, not when a checkpoint is loaded. Raises :class:`FovealError` for a wrong file.
        """
        if self.backbone is not None:
            self.backbone.load_pretrained(detector.get_submodule("backbone"))


class Detector(nn.Module, ABC):
    """``detector(images)`` detects, ``detector(images, targets)`` returns losses, ``detect=True`` with targets both.

    ``images`` is an :class:`Images` batch, or torchvision's form: a list of (3, H, W) tensors in 0..1. ``targets`` is a
    :class:`Targets` batch in network pixels, or with the list form a list of ``{"boxes": (G, 4), "labels": (G,)}`` in
    the pixels of those images (labels 0-based, without background).
    """

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        *,
        source: ProposalSource | None = None,
        has_proposals: bool = False,
        class_agnostic: bool = False,
        mask_threshold: float | None = None,
    ) -> None:
        """``source``: of external proposals, where the detector needs them. ``has_proposals``: it makes its own.

        ``class_agnostic``: one class for all objects, as in a proposal network used as a detector. ``mask_threshold``:
        a pixel whose probability is above this belongs to a mask; None: the detector has no masks.
        """
        super().__init__()
        self.spec, self.classes = spec.with_pixels(), tuple(classes)
        self.source, self.has_proposals, self.class_agnostic = source, has_proposals, class_agnostic
        self.mask_threshold, self.has_masks = mask_threshold, mask_threshold is not None
        self.trained_on = ""  # hashes of the images that trained its weights, which whoever loads them knows

    # --------------------------------------------------------------------- what an assembly defines
    @property
    @abstractmethod
    def threshold(self) -> float:
        """The score threshold of its detections."""

    @abstractmethod
    def outputs(self, images: Images) -> Outputs:
        """Features, predictions and priors of a batch of normalized images."""

    @abstractmethod
    def losses(
        self,
        outputs: Outputs,
        images: Images,
        targets: Targets,
        rng: torch.Generator | None,
        learning: str | None = None,
    ) -> dict[str, Tensor]:
        """Named scalars whose plain sum is the loss. ``learning``: the only task with losses (``rpn`` or ``roi``)."""

    @abstractmethod
    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        """Detections in network pixels."""

    def proposals(self, outputs: Outputs, images: Images, *, training: bool = False) -> Boxes:
        """Proposals in network pixels, where :attr:`has_proposals`; ``training``: as many as a training step uses."""
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
        learning: str | None = None,
    ) -> dict[str, Tensor]: ...
    @overload
    def forward(
        self,
        images: Images | list[Tensor],
        targets: Targets | list[dict[str, Tensor]],
        *,
        detect: Literal[True],
        rng: torch.Generator | None = None,
        learning: str | None = None,
    ) -> tuple[dict[str, Tensor], list[Detections]]: ...

    def forward(
        self,
        images: Images | list[Tensor],
        targets: Targets | list[dict[str, Tensor]] | None = None,
        *,
        detect: bool = False,
        rng: torch.Generator | None = None,
        learning: str | None = None,
    ) -> list[Detections] | dict[str, Tensor] | tuple[dict[str, Tensor], list[Detections]]:
        """See the class. ``rng`` drives the sampling inside a step; None: torch's global generator.

        ``learning``: the task whose losses alone count in a stage of alternating training; None: all.
        """
        if not isinstance(images, Images):
            images = from_tensors(images, self.spec.input, self.source, self.device)
        batch = self.normalize(images)
        if isinstance(targets, list):
            classes = None if self.class_agnostic else len(self.classes)
            targets = pad_targets(targets, batch, classes, masks=self.has_masks)
        with single_value_explained():
            outputs = self.outputs(batch)
        losses: dict[str, Tensor] = {}
        with torch.autocast(batch.pixels.device.type, enabled=False):
            if targets is not None:
                targets = merge_classes(targets) if self.class_agnostic else targets
                losses = self.losses(outputs, batch, targets, rng, learning)
            if targets is not None and not detect:
                return losses
            detections = to_detections(self.detections(outputs, batch), batch, self.classes, self.mask_threshold)
        return detections if targets is None else (losses, detections)

    @torch.no_grad()
    def propose(self, images: Images, *, training: bool = False) -> list[Detections]:
        """The :meth:`proposals` of each image in original pixels, labeled ``object``, by descending score."""
        batch = self.normalize(images)
        outputs = self.outputs(batch)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            return to_detections(self.proposals(outputs, batch, training=training), batch, ("object",))

    # --------------------------------------------------------------------------------- people's images
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def prepare(self, arrays: Sequence[ImageArray], proposals: Sequence[Boxes4] | None = None) -> Images:
        """Upright RGB images (H, W, 3) uint8 -> a normalized batch on the detector's device.

        ``proposals`` (P, 4) of each, in its own pixels, are for a detector with a :attr:`source`; None: the source
        makes them.
        """
        batch = self.spec.input.batch(list(arrays)).to(self.device)
        return batch if self.source is None else attach_proposals(batch, arrays, self.source, proposals)

    def normalize(self, images: Images) -> Images:
        """Raw uint8 pixels become normalized ones; a batch that already is normalized stays as it is."""
        return self.spec.input.normalize(images) if images.pixels.dtype == torch.uint8 else images

    @torch.no_grad()
    def predict_arrays(
        self, arrays: Sequence[ImageArray], batch: int | None = None, proposals: Sequence[Boxes4] | None = None
    ) -> list[Detections]:
        """Detections of upright RGB images (H, W, 3) uint8, on the CPU, in evaluation mode.

        ``batch``: most images in a forward pass; None: 8 on a GPU and 1 on a CPU, where that is fastest. ``proposals``:
        see :meth:`prepare`.
        """
        found: dict[int, Detections] = {}
        kept = {id(tensor): tensor for tensor in self.state_dict(keep_vars=True).values()}
        shared = not any(part.training for part in self.modules())  # else a copy: other threads may use this one
        detector = self if shared else copy.deepcopy(self, kept).eval()
        for indices in in_batches(arrays, self.spec.input, batch or inference_batch(self.device)):
            given = None if proposals is None else [proposals[i] for i in indices]
            images = detector.prepare([arrays[i] for i in indices], given)
            found |= {i: detections.cpu() for i, detections in zip(indices, detector(images), strict=True)}
        return [found[i] for i in range(len(arrays))]

    def predict(self, source: Any) -> Any:
        """Detections of one image (path, array, PIL image, tensor), or a list of them for a list or a folder."""
        several, groups = decoded(source)
        detections = [d for group in groups for d in self.predict_arrays(group)]
        return detections if several else detections[0]


def in_batches(arrays: Sequence[ImageArray], rule: Input, size: int) -> Iterator[list[int]]:
    """Indices of images (H, W, 3) in batches of at most ``size``, of equal canvases: none is padded for another one."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, array in enumerate(arrays):
        shape = array.shape[:2] if array.ndim == 3 and array.size else (1, 1)  # any other is refused later
        groups.setdefault(rule.canvas([rule.size(*shape)]), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def network_pixels(module: nn.Module, images: Images) -> Tensor:
    """(B, 3, H, W) in the number format of the weights; channels-last, and in training the layout of the weights."""
    weight = next(p for p in module.parameters() if p.dim() == 4)
    plain = torch.is_grad_enabled() and not weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.contiguous_format if plain else torch.channels_last
    return images.pixels if images.frozen_maps else images.pixels.to(dtype=weight.dtype, memory_format=layout)


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode inside, and each of its parts as before afterwards."""
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True
