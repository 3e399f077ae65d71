"""Mask R-CNN presets (He et al. 2017)."""

from __future__ import annotations

from dataclasses import replace

from ..detectors.mask_rcnn import MaskRCNN
from ..parts.heads.mask import MaskHead
from .faster_rcnn import _TV_HEAD, faster_rcnn_r50_fpn, faster_rcnn_r50_fpn_v2
from .recipes import TV_REGION

__all__ = ["mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_v2"]

# -------------------------------------------------------------------------------------- Mask R-CNN with FPN
# torchvision's maskrcnn_resnet50_fpn: boxes 37.9, masks 34.6 AP. Time and memory of a training run: not measured.
mask_rcnn_r50_fpn = MaskRCNN(
    anchors=faster_rcnn_r50_fpn.anchors,
    roi_head=_TV_HEAD,
    fit=TV_REGION,
)

# torchvision's maskrcnn_resnet50_fpn_v2: as its Faster R-CNN v2, batch norm in the mask head too. Boxes 47.4, masks
# 41.8 AP.
mask_rcnn_r50_fpn_v2 = replace(
    mask_rcnn_r50_fpn,
    backbone=faster_rcnn_r50_fpn_v2.backbone,
    neck=faster_rcnn_r50_fpn_v2.neck,
    rpn_head=faster_rcnn_r50_fpn_v2.rpn_head,
    roi_head=faster_rcnn_r50_fpn_v2.roi_head,
    mask=MaskHead(norm="batch"),
)
