"""One image through a detector with the trace on: its stages, what each decided, and the detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..assembly.arrays import Boxes4
from ..assembly.detector import Detector, in_evaluation
from ..assembly.one_stage import OneStage
from ..assembly.proposers import FromRPN
from ..assembly.task import BoxTask, clip, merge_classes
from ..assembly.trace import Sampling, Selection, Trace, tracing
from ..assembly.two_stage import TwoStage
from ..data.loader.shared_records import network_targets
from ..data.records.dataset import Record
from ..errors import UsageError
from ..files.aliases import ImageArray
from ..types import Detections, Images, Targets
from .attention import recorded_attention
from .reasons import Fates, fates_of

SEED = 0  # of the samplers: each inspection of an image samples the same priors


@dataclass(frozen=True, eq=False)
class TracedStage:
    """One stage of classification and box regression, as it ran on one image."""

    name: str  # "task", "rpn" or "roi"
    task: BoxTask
    selection: Selection
    sampling: Sampling | None  # None: the image came without objects
    targets: Targets | None  # as the stage learns them: an RPN knows one class

    @cached_property
    def fates(self) -> Fates:
        """What became of each of its candidates."""
        return fates_of(self.task, self.selection)

    def boxes(self, label: int) -> Tensor:
        """The boxes (A, 4) that it predicts at every prior for a class, in pixels of the original image, clipped."""
        selection, images = self.selection, self.selection.images
        index = torch.arange(selection.predictions.logits.shape[1], device=images.sizes.device)[None]
        boxes = self.task.decoded(selection.predictions, selection.priors, index, torch.full_like(index, label))
        return clip(images.to_original(clip(boxes, images.sizes)), images.original)[0]


@dataclass(frozen=True, eq=False)
class TracedImage:
    """All that a detector decided about one image. Record and targets are None where its objects are not known."""

    detector: Detector
    images: Images  # a batch of one
    stages: tuple[TracedStage, ...]  # first the RPN, where there is one
    detections: Detections  # in pixels of the original image
    trace: Trace
    record: Record | None = None
    targets: Targets | None = None  # a row for each object of the record, in its order
    attention: NDArray[np.float32] | None = None  # (Q, h, w) of a DETR's queries over its map

    @property
    def classes(self) -> tuple[str, ...]:
        return self.detector.classes


@torch.no_grad()
def trace_image(
    detector: Detector, array: ImageArray, record: Record | None = None, proposals: Boxes4 | None = None
) -> TracedImage:
    """Runs a detector on an upright RGB image (H, W, 3) uint8 with the trace on, in evaluation mode.

    ``record``: its objects, whose labels index the detector's classes; with them the training side is traced too, on
    the same outputs: which priors match, and which of them the sampler takes. ``proposals`` (P, 4) in pixels of the
    image: for a detector that takes external ones. Raises :class:`UsageError` for a detector without stages.
    """
    images = detector.prepare([array], None if proposals is None else [proposals])
    targets = None if record is None else record_targets(detector, record, images)
    with in_evaluation(detector), tracing(losses=False) as trace, recorded_attention(detector) as attention:
        if targets is None:
            detections = detector(images)[0]
        else:
            rng = torch.Generator(images.pixels.device).manual_seed(SEED)
            detections = detector(images, targets, detect=True, rng=rng)[1][0]
    stages = _stages(detector, images, targets, trace)
    maps = attention[0][0].float().cpu().numpy() if attention else None
    return TracedImage(detector, images, stages, detections.cpu(), trace, record, targets, maps)


def record_targets(detector: Detector, record: Record, images: Images) -> Targets:
    """The objects of a record as targets, all of them in their order; what training drops is ignored here."""
    fit = detector.spec.fit
    fit = replace(fit, difficult="learn" if fit.difficult == "learn" else "ignore", crowd="ignore")
    targets = network_targets([record], images, fit)
    if not detector.has_masks:
        return targets
    none = torch.zeros(*targets.labels.shape, 1, 3, dtype=torch.int32, device=targets.labels.device)
    return replace(targets, masks=none)  # the mask loss decides nothing that is traced


def _stages(detector: Detector, images: Images, targets: Targets | None, trace: Trace) -> tuple[TracedStage, ...]:
    selections: Sequence[Selection] = trace.selections
    samplings: list[Sampling | None] = [*trace.samplings, None, None]
    known = targets if targets is None or not detector.class_agnostic else merge_classes(targets)
    if isinstance(detector, OneStage):
        return (TracedStage("task", detector.task, selections[-1], samplings[0], known),)
    if isinstance(detector, TwoStage):
        proposer, second = detector.proposer, ("roi", detector.roi, selections[-1])
        if isinstance(proposer, FromRPN) and images.proposals is None:
            merged = None if targets is None else merge_classes(targets)
            first = TracedStage("rpn", proposer.counted(False), selections[-2], samplings[0], merged)
            return first, TracedStage(*second, samplings[1], known)
        return (TracedStage(*second, samplings[0], known),)
    raise UsageError(f"{type(detector.spec).__name__} is neither a one-stage nor a two-stage detector")
