"""The graph of a detector: normalized pixels in, boxes in network pixels out, captured by torch.export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..assembly.detector import Detector
from ..assembly.one_stage import OneStage
from ..assembly.proposers import FromRPN, detached
from ..assembly.task import without_validity
from ..assembly.two_stage import TwoStage
from ..errors import UsageError
from ..parts.resizing import Original, Resize
from ..types import Boxes, Images, Priors
from .parts import exportable

OUTPUTS = ("boxes", "scores", "labels", "valid")
_LARGEST = 8192  # pixels, of a side; and the largest batch


@dataclass(frozen=True)
class Axes:
    """Which axes of the input may vary. ``batch`` None: any number of images; ``size`` None: any height and width."""

    batch: int | None = None
    size: tuple[int, int] | None = None
    multiple: int = 1  # of which a varying height and width are multiples


class Graph(nn.Module):
    """``(pixels (B, 3, H, W), sizes (B, 2) int64[, proposals (B, P, 4), proposals_valid (B, P)])`` -> boxes (B, N, 4),
    scores (B, N), labels (B, N), valid (B, N)[, masks (B, N, S, S)]."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = exportable(detector)

    @property
    def inputs(self) -> tuple[str, ...]:
        external = isinstance(self.detector, TwoStage) and not isinstance(self.detector.proposer, FromRPN)
        return ("pixels", "sizes", "proposals", "proposals_valid") if external else ("pixels", "sizes")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (*OUTPUTS, "masks") if self.detector.has_masks else OUTPUTS

    def forward(
        self, pixels: Tensor, sizes: Tensor, proposals: Tensor | None = None, valid: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        images = Images(pixels, sizes, sizes, sizes, proposals, valid)  # frame and original are not used
        detector = self.detector
        if isinstance(detector, OneStage):
            features = detector.neck(detector.backbone(pixels))
            last = detector.head.layers(features, images)[-1]
            priors = without_validity(detector.priors(images, features, detector.strides))
            return _flat(detector.task.detect(last, priors, images))
        assert isinstance(detector, TwoStage)
        return self._two_stage(detector, images)

    def _two_stage(self, detector: TwoStage, images: Images) -> tuple[Tensor, ...]:
        features = detector.neck(detector.backbone(images.pixels))
        proposer, strides, sizes = detector.proposer, detector.strides, images.sizes
        boxes, valid = images.proposals, images.proposals_valid
        if isinstance(proposer, FromRPN):
            assert detector.rpn_head is not None
            last = detached(detector.rpn_head.layers(features, images)[-1])
            priors = without_validity(proposer.anchors(images, features, strides))
            proposed = proposer.task.detect(last, priors, images)
            boxes, valid = proposed.boxes, proposed.valid
        assert boxes is not None and valid is not None
        pooled = detector.pool(features, boxes, strides, sizes)
        predictions = detector.roi_head(pooled, boxes.shape[0])
        found = detector.roi.detect(predictions, Priors(boxes, (boxes.shape[1],), valid), images)
        if detector.mask_head is None:
            return _flat(found)
        masks = detector.mask_head(features, found.boxes, found.labels, strides)
        return (*_flat(found), masks.sigmoid())


def _flat(found: Boxes) -> tuple[Tensor, ...]:
    return found.boxes.float(), found.scores.float(), found.labels, found.valid


def axes_of(detector: Detector, batch: int | None = None, size: tuple[int, int] | None = None) -> Axes:
    """The axes for a detector: its fixed canvas, or any size that its input rule makes.

    Raises :class:`UsageError` for a size that the rule never makes.
    """
    rule = detector.spec.input
    canvas = rule.fixed_canvas
    if canvas is not None:
        if size not in (None, canvas):
            raise UsageError(
                f"the input rule makes canvases of {canvas[0]} x {canvas[1]} alone",
                where="--size",
                fix="Leave --size out, or set input.height and input.width",
            )
        return Axes(batch, canvas)
    multiple = rule.multiple if isinstance(rule, Resize) else 1
    if size is not None and (size[0] % multiple or size[1] % multiple or min(size) < 1):
        raise UsageError(f"{size[0]} x {size[1]} is not made of multiples of {multiple}", where="--size")
    return Axes(batch, size, multiple if not isinstance(rule, Original) else 1)


def capture(graph: Graph, axes: Axes) -> Any:
    """The exported program of a graph. Raises :class:`UsageError` where torch.export cannot follow it."""
    example, dynamic = _example(graph, axes)
    try:
        return torch.export.export(graph, example, dynamic_shapes=dynamic, strict=True)
    except Exception as error:  # of a dozen types, none of them public
        reason = str(error.__cause__ or error).strip().splitlines()
        raise UsageError(
            f"torch.export cannot follow this detector: {reason[0] if reason else type(error).__name__}"
        ) from error


def _example(graph: Graph, axes: Axes) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Inputs to trace with, and which of their axes vary."""
    from torch.export import Dim

    size = axes.size or (10 * axes.multiple, 12 * axes.multiple) if axes.multiple > 1 else axes.size or (224, 256)
    number = axes.batch or 2
    batch = Dim("batch", min=1, max=_LARGEST) if axes.batch is None else None
    sides: dict[int, Any] = {}
    if axes.size is None:
        least, most = max(2, 64 // axes.multiple), _LARGEST // axes.multiple
        height, width = Dim("height", min=least, max=most), Dim("width", min=least, max=most)
        sides = {2: axes.multiple * height, 3: axes.multiple * width} if axes.multiple > 1 else {2: height, 3: width}
    images = {} if batch is None else {0: batch}
    pixels = torch.randn(number, 3, *size).contiguous()
    example = [pixels, torch.tensor([size] * number)]
    dynamic: list[Any] = [{**images, **sides}, images]
    if len(graph.inputs) > 2:
        corner = torch.rand(number, 300, 2) * torch.tensor([size[1], size[0]]) * 0.6
        boxes = torch.cat([corner, corner + torch.rand(number, 300, 2) * 60 + 8], -1)
        count = Dim("proposals", min=2, max=_LARGEST)
        example += [boxes, torch.ones(number, 300, dtype=torch.bool)]
        dynamic += [{**images, 1: count}, {**images, 1: count}]
    return tuple(example), tuple(dynamic)
