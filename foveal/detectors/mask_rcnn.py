"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, ICCV 2017): Faster R-CNN with a third branch for masks.

backbone -> FPN -> RPN -> RoIAlign 7 -> classes and boxes;   RoIAlign 14 of the final boxes -> masks
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..parts.heads.mask import MaskBranch, MaskHead
from ..parts.pooling.roi_align import Pool, RoIAlign
from .faster_rcnn import FasterRCNN


@dataclass(frozen=True)
class MaskRCNN(FasterRCNN):
    """A Faster R-CNN with ``mask``. It needs training data with masks."""

    mask: MaskHead = MaskHead()  # the third branch

    def _build_mask_head(self, channels: int, classes: int, pool: Pool) -> MaskBranch:
        mask_pool = self.mask.pool
        if isinstance(mask_pool, RoIAlign) and mask_pool.levels is None and isinstance(pool, RoIAlign):
            mask_pool = replace(mask_pool, levels=pool.levels)  # the levels that there are
        return self.mask.build(channels, classes, mask_pool)
