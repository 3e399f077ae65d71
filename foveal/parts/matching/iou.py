"""Assignment by IoU thresholds: Faster R-CNN, RetinaNet and the RoI heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import UsageError
from ...types import Match, Priors, Targets
from .matcher import DecodedOutputs, Matcher, finalize_match, mask_invalid, match_on_device, match_on_host


@dataclass(frozen=True)
class IoUMatcher(Matcher):
    """Every prior answers for the object it overlaps most, if it overlaps it enough.

    IoU >= ``positive``: positive. ``background <= IoU < negative``: background. Everything else is ignored.
    With ``low_quality``, the priors that overlap an object more than all others do (ties included) are positive
    too, for *their own* best object, if their own best IoU is at least ``low_quality_floor``. An object that no
    prior touches forces nothing.

    Sources: torchvision and detectron2 are the defaults. The RetinaNet of Detectron sets everything under .4
    back to background: ``low_quality_floor=0.4``. py-faster-rcnn's RPN: ``positive=.7, negative=.3``. Fast R-CNN's
    heads: ``positive=.5, negative=.5, low_quality=False``, with ``background=0.1`` for its hard-mining heuristic.

    Priors with ``priors.valid`` false (across the border) are ignored and never an object's best. Priors that lie
    by half or more in a region of ``targets.ignore`` and are not positive are ignored.
    """

    positive: float = 0.5  # IoU from which a prior is an object
    negative: float = 0.4  # IoU under which a prior is background
    low_quality: bool = True  # the best priors of each object are positive whatever the overlap ...
    low_quality_floor: float = 0.0  # ... from this IoU on
    background: float = 0.0  # IoU from which a prior is background; below it is ignored

    def __post_init__(self) -> None:
        if not 0 <= self.background <= self.negative <= self.positive or self.positive <= 0:
            raise UsageError(
                f"IoUMatcher wants 0 <= background <= negative <= positive, got {self.background}, "
                f"{self.negative}, {self.positive}"
            )

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: it does not grow with the number of objects. No host sync on an accelerator."""
        boxes, objects = mask_invalid(priors, targets)
        host = boxes.device.type == "cpu" and not torch.compiler.is_compiling()
        iou, gt, best = (match_on_host if host else match_on_device)(boxes, objects, self.low_quality)
        positive = iou >= self.positive
        if best is not None:
            positive |= best if self.low_quality_floor <= 0 else best & (iou >= self.low_quality_floor)
        rest = iou < self.negative  # not a number is neither
        if self.background > 0:
            rest &= iou >= self.background
        return finalize_match(gt, positive, rest.logical_or_(positive).logical_not_(), priors, targets)
