"""Assignment by IoU thresholds: Faster R-CNN, RetinaNet and the RoI heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import UsageError
from ...types import Match, Priors, Targets
from .matcher import DecodedOutputs, Matcher, best_overlaps, finalize_match, mask_invalid


@dataclass(frozen=True)
class IoUMatcher(Matcher):
    """Every prior is assigned to the object it overlaps most, if it overlaps it enough.

    IoU >= ``positive``: positive. ``background <= IoU < negative``: background. Everything else is ignored.
    With ``low_quality``, the priors that overlap an object more than all others do (ties included) are positive
    too, and assigned to *their own* best object, if their own best IoU is at least ``low_quality_floor``. An object
    that no prior touches makes none positive.

    Sources: the defaults are those of torchvision and detectron2. The RetinaNet of Detectron sets everything under .4
    back to background: ``low_quality_floor=0.4``. py-faster-rcnn's RPN: ``positive=.7, negative=.3``. Fast R-CNN's
    heads: ``positive=.5, negative=.5, low_quality=False``, with ``background=0.1`` for its hard-mining heuristic.

    Priors with ``priors.valid`` false (across the border) are ignored and never an object's best. Priors that are not
    positive and have at least half of their area in a region of ``targets.ignore`` are ignored.
    """

    positive: float = 0.5  # IoU from which a prior is positive
    negative: float = 0.4  # IoU below which a prior is background
    low_quality: bool = True  # the best priors of each object are positive whatever the overlap ...
    low_quality_floor: float = 0.0  # ... from this IoU on
    background: float = 0.0  # IoU from which a prior is background; below it is ignored

    def __post_init__(self) -> None:
        if not 0 <= self.background <= self.negative <= self.positive or self.positive <= 0:
            raise UsageError(
                f"IoUMatcher: expected 0 <= background <= negative <= positive, got {self.background}, "
                f"{self.negative}, {self.positive}"
            )

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: it does not grow with the number of objects. No device sync."""
        boxes, objects = mask_invalid(priors, targets)
        iou, gt, best = best_overlaps(boxes, objects, self.low_quality)
        positive = iou >= self.positive
        if best is not None:
            positive |= best if self.low_quality_floor <= 0 else best & (iou >= self.low_quality_floor)
        background = iou < self.negative  # an IoU of NaN is neither positive nor background
        if self.background > 0:
            background &= iou >= self.background
        return finalize_match(gt, positive, background.logical_or_(positive).logical_not_(), priors, targets)
