"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, ICCV 2017): Faster R-CNN with a third branch for masks.

backbone -> FPN -> RPN -> RoIAlign 7 -> classes and boxes;   RoIAlign 14 of the final boxes -> masks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..assembly.two_stage import TwoStage
from ..parts.heads.mask import MaskHead
from ..parts.pooling.roi_align import RoIAlign
from .faster_rcnn import FasterRCNN


@dataclass(frozen=True)
class MaskRCNN(FasterRCNN):
    """Everything of a Faster R-CNN, and ``mask``. It learns from data with masks and refuses boxes alone."""

    mask: MaskHead = MaskHead()  # the third branch

    def build(self, classes: Sequence[str]) -> TwoStage:
        """The detector with random weights."""
        detector = super().build(classes)
        pool, boxes = self.mask.pool, detector.pool
        if isinstance(pool, RoIAlign) and pool.levels is None and isinstance(boxes, RoIAlign):
            pool = replace(pool, levels=boxes.levels)  # the levels that there are
        detector.mask_head = self.mask.build(detector.neck.channels[0], len(classes), pool)
        detector.mask_threshold = self.mask.threshold
        return detector
