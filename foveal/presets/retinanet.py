"""RetinaNet presets (Lin et al. 2017)."""

from __future__ import annotations

from dataclasses import replace

from ..detectors.retinanet import RetinaNet
from ..parts.backbones.torchvision import Torchvision
from ..parts.heads.dense import Tower
from ..parts.losses.box import L1, GIoU
from ..parts.losses.classification import Focal
from ..parts.losses.normalizers import PositivesPerImage
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import FPN
from ..parts.postprocess import NMS
from ..parts.priors.anchors import Anchors
from .recipes import ONE, TV

__all__ = ["retinanet_r50_fpn", "retinanet_r50_fpn_paper", "retinanet_r50_fpn_v2", "retinanet_r101_fpn_paper"]


# ---------------------------------------------------------------------------------------------- RetinaNet
# The paper's form (Detectron, 1x): 35.7 AP with ResNet-50 at 800 px after 90,000 iterations of 16 images on 8 GPUs.
retinanet_r50_fpn_paper = RetinaNet(fit=ONE)

# The same on ResNet-101: 37.7 AP (Detectron, 1x).
retinanet_r101_fpn_paper = replace(retinanet_r50_fpn_paper, backbone=Torchvision("resnet101"))

_TV_SIZES = tuple(tuple(int(s * 2 ** (o / 3)) for o in range(3)) for s in (32, 64, 128, 256, 512))

# torchvision's retinanet_resnet50_fpn: P6 from P5, L1, the best anchors are always positive. 36.4 AP.
retinanet_r50_fpn = RetinaNet(
    neck=FPN(256, extra="p6p7-p5"),
    anchors=Anchors(_TV_SIZES, rounding="corners", grid="floor"),
    task=replace(
        RetinaNet().task,
        matcher=IoUMatcher(0.5, 0.4, low_quality=True),
        cls_loss=Focal(normalizer=PositivesPerImage()),
        box_loss=L1(normalizer=PositivesPerImage()),
        suppress=NMS(0.5, per="class", top=300),
    ),
    fit=TV,
)

# torchvision's retinanet_resnet50_fpn_v2: P6 from C5, group norm in the towers, GIoU, trainable batch norm. 41.5 AP.
retinanet_r50_fpn_v2 = replace(
    retinanet_r50_fpn,
    backbone=Torchvision("resnet50", norm="batch"),
    neck=FPN(256, extra="p6p7-c5"),
    head=Tower(depth=4, norm="group"),
    task=replace(retinanet_r50_fpn.task, box_loss=GIoU(normalizer=PositivesPerImage())),
)
