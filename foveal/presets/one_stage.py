"""RetinaNet and FCOS."""

from __future__ import annotations

from dataclasses import replace

from foveal.detectors.fcos import FCOS
from foveal.detectors.retinanet import RetinaNet
from foveal.parts.backbones import Torchvision
from foveal.parts.box_losses import L1, GIoU, IoU
from foveal.parts.coders import LTRB
from foveal.parts.heads import PointTower, Tower
from foveal.parts.losses import Focal
from foveal.parts.matchers import IoUMatcher
from foveal.parts.necks import FPN
from foveal.parts.normalizers import PositivesPerImage
from foveal.parts.points import Centreness, PointMatcher
from foveal.parts.priors import Anchors
from foveal.parts.suppress import NMS, Select
from foveal.presets.recipes import ONE, TV

__all__ = [
    "fcos_r50_fpn",
    "fcos_r50_fpn_improved",
    "fcos_r50_fpn_paper",
    "retinanet_r50_fpn",
    "retinanet_r50_fpn_paper",
    "retinanet_r50_fpn_v2",
    "retinanet_r101_fpn_paper",
]

# ---------------------------------------------------------------------------------------------- RetinaNet
# The paper's form (Detectron, 1x): 35.7 AP with ResNet-50 at 800 px after 90,000 updates of 16 images on 8 GPUs.
retinanet_r50_fpn_paper = RetinaNet(fit=ONE)

# The same on ResNet-101: 37.7 AP (Detectron, 1x).
retinanet_r101_fpn_paper = replace(retinanet_r50_fpn_paper, backbone=Torchvision("resnet101"))

_TV_SIZES = tuple(tuple(int(s * 2 ** (o / 3)) for o in range(3)) for s in (32, 64, 128, 256, 512))

# torchvision's retinanet_resnet50_fpn: P6 from P5, L1, best anchors always count. 36.4 AP.
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

# torchvision's retinanet_resnet50_fpn_v2: P6 from C5, group norm in the towers, GIoU, batch norm that learns. 41.5 AP.
retinanet_r50_fpn_v2 = replace(
    retinanet_r50_fpn,
    backbone=Torchvision("resnet50", norm="batch"),
    neck=FPN(256, extra="p6p7-c5"),
    head=Tower(depth=4, norm="group"),
    task=replace(retinanet_r50_fpn.task, box_loss=GIoU(normalizer=PositivesPerImage())),
)

# --------------------------------------------------------------------------------------------------- FCOS
# The authors' improved form: centre sampling, GIoU. 38.7 AP (their 1x).
fcos_r50_fpn_improved = FCOS(fit=ONE)

# The paper's first form: points anywhere inside an object, -ln IoU, exp(s x) pixels. 37.1 AP (1x).
fcos_r50_fpn_paper = replace(
    fcos_r50_fpn_improved,
    head=PointTower(sides="exp", scales=True, quality_on="classes"),
    task=replace(
        fcos_r50_fpn_improved.task, matcher=PointMatcher(radius=None), box_loss=IoU("log"), coder=LTRB(normalize=False)
    ),
)

# torchvision's fcos_resnet50_fpn: corners as points, no scales, sqrt(class x centre-ness) above .2. 39.2 AP.
fcos_r50_fpn = FCOS(
    head=PointTower(),
    points=Anchors(((8,), (16,), (32,), (64,), (128,)), (1.0,), rounding="corners", grid="floor"),
    task=replace(fcos_r50_fpn_improved.task, quality=Centreness(), select=Select(score=0.2, per_level=1000)),
    fit=TV,
)
