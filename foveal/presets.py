"""Named detectors. Variants are ``dataclasses.replace``; the comment above each says what it is and what to expect.

Where torchvision has a form of a detector, the plain name is that form and the paper's is ``..._paper``. AP is
published COCO val2017 unless said; what the ``*_mini`` presets reach in minutes is in ``docs/results.md``.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from foveal.data.transforms import HorizontalFlip
from foveal.detectors.base import Spec
from foveal.detectors.faster_rcnn import ROI_TASK, RPN_TASK, FasterRCNN
from foveal.detectors.fcos import FCOS
from foveal.detectors.region import Counts
from foveal.detectors.retinanet import RetinaNet
from foveal.detectors.rpn import RPN
from foveal.detectors.ssd import SSD
from foveal.errors import UsageError
from foveal.fit import SGD, AdamW, Constant, Cosine, Fit, Steps
from foveal.parts.backbones import Torchvision
from foveal.parts.box_losses import L1, GIoU, IoU, SmoothL1
from foveal.parts.coders import LTRB, Delta
from foveal.parts.default_boxes import PyramidBoxes
from foveal.parts.dssd import Deconvolution, Prediction
from foveal.parts.heads import PointTower, Predictor, ResNetTail, RoIConv, RoIMLP, RPNHead, Tower, VGGTail
from foveal.parts.inputs import Resize, Stretch
from foveal.parts.level_heads import PerLevel
from foveal.parts.losses import Focal
from foveal.parts.matchers import IoUMatcher
from foveal.parts.necks import FPN, SingleLevel
from foveal.parts.normalizers import Positives, PositivesPerImage
from foveal.parts.points import Centreness, PointMatcher
from foveal.parts.pooling import CropResize, RoIAlign, RoIPool
from foveal.parts.priors import Anchors, PyramidAnchors
from foveal.parts.samplers import All, Balanced
from foveal.parts.small import SmallResNet
from foveal.parts.ssd import Extra, Extras
from foveal.parts.suppress import NMS, Select
from foveal.task import BoxTask

# ------------------------------------------------------------------------------------------------ recipes
# Detectron's 1x: 90,000 updates of 16 images are 12 epochs of COCO; the steps are at 60,000 and 80,000.
_FLIP = (HorizontalFlip(),)
_ONE = Fit(
    epochs=12,
    batch=16,
    lr=0.01,
    solver=SGD(0.9, 1e-4),
    schedule=Steps((2 / 3, 8 / 9)),
    augment=_FLIP,
    warmup_factor=1 / 3,
)
_ONE_REGION = replace(_ONE, lr=0.02)
# torchvision's references: 26 epochs, steps after 16 and 22, linear warm-up of 1,000 updates.
_TV = replace(_ONE, epochs=26, schedule=Steps((16.0, 22.0)), warmup_steps=1000, warmup_factor=0.001)
_TV_REGION = replace(_TV, lr=0.02)
# A few hundred images, one machine, minutes.
_SMALL_FIT = Fit(
    epochs=12,
    batch=4,
    lr=5e-4,
    solver=AdamW(weight_decay=1e-4),
    schedule=Cosine(),
    warmup_steps=100,
    clip=10.0,
    ema=0.998,
    augment=_FLIP,
)

# ---------------------------------------------------------------------------------------------- RetinaNet
# The paper's form (Detectron, 1x): 35.7 AP with ResNet-50 at 800 px after 90,000 updates of 16 images on 8 GPUs.
retinanet_r50_fpn_paper = RetinaNet(fit=_ONE)

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
    fit=_TV,
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
fcos_r50_fpn_improved = FCOS(fit=_ONE)

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
    fit=_TV,
)

# ------------------------------------------------------------------------------------ Faster R-CNN with FPN
_TV_HEAD = RoIMLP(1024, predictor=Predictor(cls_std=None, box_std=None))

# torchvision's fasterrcnn_resnet50_fpn: 37.0 AP.
faster_rcnn_r50_fpn = FasterRCNN(
    anchors=Anchors(rounding="corners", grid="floor"),
    roi_head=_TV_HEAD,
    fit=_TV_REGION,
)

# torchvision's fasterrcnn_resnet50_fpn_v2: batch norm everywhere, two RPN convolutions, four in the head. 46.7 AP.
faster_rcnn_r50_fpn_v2 = replace(
    faster_rcnn_r50_fpn,
    backbone=Torchvision("resnet50", norm="batch"),
    neck=FPN(256, extra="pool", norm="batch"),
    rpn_head=RPNHead(depth=2),
    roi_head=RoIConv(predictor=Predictor(cls_std=None, box_std=None)),
)

# torchvision's fasterrcnn_mobilenet_v3_large_fpn: 15 anchors on each of three levels of stride 32, 32, 64. 32.8 AP.
faster_rcnn_mobilenet_v3_large_fpn = replace(
    faster_rcnn_r50_fpn,
    backbone=Torchvision("mobilenet_v3_large", returns=("features.13", "features.16"), frozen_stages=3, eps=1e-5),
    anchors=Anchors(((32, 64, 128, 256, 512),) * 3, rounding="corners", grid="floor"),
    rpn=replace(RPN_TASK, select=replace(RPN_TASK.select, score=0.05)),
)

# The same for pictures of 320 to 640 px: 22.8 AP.
faster_rcnn_mobilenet_v3_large_320_fpn = replace(
    faster_rcnn_mobilenet_v3_large_fpn, input=Resize(320, 640), test_proposals=Counts(150, 150)
)

# The FPN paper's form with Detectron's anchors and losses. 36.7 AP (1x).
_DETECTRON_ROI = replace(ROI_TASK, box_loss=SmoothL1(beta=1.0, normalizer=ROI_TASK.box_loss.normalizer))
faster_rcnn_r50_fpn_paper = FasterRCNN(
    anchors=Anchors(rounding="stride", centre=0.5), roi=_DETECTRON_ROI, fit=_ONE_REGION
)
faster_rcnn_r101_fpn = replace(faster_rcnn_r50_fpn_paper, backbone=Torchvision("resnet101"))  # 39.4 AP (Detectron, 1x)
faster_rcnn_x101_fpn = replace(faster_rcnn_r50_fpn_paper, backbone=Torchvision("resnext101_32x8d"))

# --------------------------------------------------------------------------------- Faster R-CNN, one level
_LEGACY_ANCHORS = Anchors(((128, 256, 512),), rounding="stride", centre=0.5, inside=True)

# The first one (Ren et al. 2015): VGG-16, RoIPool, 73.2 mAP on VOC 2007 test after 07+12.
faster_rcnn_vgg16 = FasterRCNN(
    input=Resize(600, 1000, multiple=1),
    backbone=Torchvision("vgg16", returns=(4,), frozen_stages=2, ceil=True),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=512),
    anchors=_LEGACY_ANCHORS,
    pool=RoIPool(7),
    roi_head=VGGTail(4096),
    roi=replace(
        ROI_TASK,
        sampler=Balanced(128, 0.25),
        box_loss=_DETECTRON_ROI.box_loss,
        suppress=NMS(0.3, per="class", top=100),
    ),
    rpn=replace(RPN_TASK, select=replace(RPN_TASK.select, min_size=16.0)),
    train_proposals=Counts(12000, 2000),
    test_proposals=Counts(6000, 300),
    # 60,000 + 20,000 updates of one image: 16 epochs of VOC 2007 trainval; difficult objects are left out
    fit=Fit(
        epochs=16,
        batch=1,
        lr=0.001,
        solver=SGD(0.9, 5e-4),
        schedule=Steps((0.75,)),
        augment=_FLIP,
        difficult="drop",
        warmup_steps=0,
        bias_lr=2.0,
        bias_decay=False,
    ),
)


def _with_focal(rpn: BoxTask) -> BoxTask:
    focal, box_loss = Focal(alpha=0.25, gamma=2.0, prior=0.01), SmoothL1(beta=1 / 9, normalizer=Positives())
    return replace(rpn, sampler=All(), cls_loss=focal, box_loss=box_loss)


# Focal loss in the RPN as it should be: every anchor counts, own normaliser, prior bias.
faster_rcnn_vgg16_focal_rpn = replace(faster_rcnn_vgg16, rpn=_with_focal(faster_rcnn_vgg16.rpn))

# ResNet-50 to conv4, conv5 as the head (He et al. 2016; Detectron): 34.8 AP (1x).
faster_rcnn_r50_c4 = FasterRCNN(
    backbone=Torchvision("resnet50", returns=(4,)),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=1024),
    anchors=Anchors(((32, 64, 128, 256, 512),), rounding="stride", centre=0.5, inside=True),
    pool=RoIAlign(14, ratio=0),
    roi_head=ResNetTail("resnet50"),
    roi=_DETECTRON_ROI,
    train_proposals=Counts(12000, 2000),
    test_proposals=Counts(6000, 1000),
    # 180,000 updates of 8 images, steps at 120,000 and 160,000
    fit=replace(_ONE, batch=8, lr=0.01),
)

# The same on ResNet-101: 34.9 AP on COCO test-dev with multi-scale tests and context ("+++").
faster_rcnn_r101_c4 = replace(
    faster_rcnn_r50_c4, backbone=Torchvision("resnet101", returns=(4,)), roi_head=ResNetTail("resnet101")
)

# Luminoth's defaults: 12 anchors, crop and resize to 14 then pool to 7, 256 rows; shows what is at least .5 sure.
faster_rcnn_luminoth = FasterRCNN(
    input=Resize(600, 1024, multiple=1),
    backbone=Torchvision("resnet101", returns=(4,)),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=512),
    anchors=Anchors(((64, 128, 256, 512),), inside=True),
    pool=CropResize(7, pool=2),
    roi_head=ResNetTail("resnet101"),
    roi=replace(
        ROI_TASK,
        sampler=Balanced(256, 0.25),
        box_loss=_DETECTRON_ROI.box_loss,
        select=replace(ROI_TASK.select, score=0.5),
        suppress=NMS(0.5, per="class", top=300),
    ),
    train_proposals=Counts(12000, 2000),
    test_proposals=Counts(12000, 2000),
    fit=Fit(epochs=12, batch=1, lr=3e-4, solver=SGD(0.9, 5e-4), schedule=Constant(), augment=_FLIP, warmup_steps=0),
)

# ------------------------------------------------------------------------------------------- the RPN alone
# 58.0 AR at 1000 proposals (Detectron2).
rpn_r50_fpn = RPN(anchors=Anchors(centre=0.5), fit=_ONE_REGION)

# --------------------------------------------------------------------------------------------------- small
_SMALL = Resize(320, 533)
_SMALL_BODY = SmallResNet()

# Two-layer towers of 96 channels. Group norm in the neck evens out whatever backbone comes before it.
retinanet_mini = RetinaNet(
    input=_SMALL,
    backbone=_SMALL_BODY,
    neck=FPN(96, extra="p6p7-p5", norm="group"),
    head=Tower(depth=2),
    anchors=PyramidAnchors(scale=4.0, octaves=3),
    task=replace(
        RetinaNet().task,
        matcher=IoUMatcher(0.5, 0.4, low_quality=True),
        cls_loss=Focal(normalizer=Positives()),
        box_loss=GIoU(normalizer=Positives(), weight=2.0),
        select=Select(score=0.01, per_level=1000),
    ),
    fit=_SMALL_FIT,
)

fcos_mini = FCOS(
    input=_SMALL,
    backbone=_SMALL_BODY,
    neck=FPN(96, extra="p6p7-p5", norm="group"),
    head=PointTower(depth=2),
    task=replace(FCOS().task, quality=Centreness(), select=Select(score=0.05, per_level=1000)),
    fit=_SMALL_FIT,
)

faster_rcnn_mini = FasterRCNN(
    input=_SMALL,
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=FPN(96, extra="pool", norm="group"),
    anchors=PyramidAnchors(scale=4.0, octaves=2),
    roi_head=RoIMLP(256),
    roi=replace(ROI_TASK, sampler=Balanced(128, 0.25), select=replace(ROI_TASK.select, score=0.01)),
    train_proposals=Counts(500, 500),
    test_proposals=Counts(300, 300),
    fit=_SMALL_FIT,
)

# The same with focal loss in the RPN: one difference, three overrides.
faster_rcnn_mini_focal_rpn = replace(faster_rcnn_mini, rpn=_with_focal(faster_rcnn_mini.rpn))

# Proposals alone: one class, "object".
rpn_mini = RPN(
    input=_SMALL,
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=FPN(96, extra="pool", norm="group"),
    anchors=PyramidAnchors(scale=4.0, octaves=2),
    fit=_SMALL_FIT,
)

# SSD on the backbone's three maps and two more; default boxes of 3 and 4.2 strides. It learns from nothing at 2e-3.
# `foveal train ssd_mini --data DIR --max-time 10m`
ssd_mini = SSD(
    input=Stretch(256, 256),
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=Extras((Extra(64, 128), Extra(64, 128)), norm="group"),
    priors=PyramidBoxes(),
    task=replace(SSD().task, coder=Delta((10, 10, 5, 5))),
    fit=replace(_SMALL_FIT, lr=2e-3),
)

# The same with a way back of 64 channels and a prediction block, trained in one stage.
dssd_mini = replace(
    ssd_mini,
    neck=replace(ssd_mini.neck, deconv=Deconvolution(64, norm="group")),
    head=PerLevel(module=Prediction(32, 64, norm="group")),
)

# The SSD family of the papers and of torchvision has a page of its own.
from foveal.presets_ssd import *  # noqa: E402, F403


def names() -> list[str]:
    """All presets, in the order of this file."""
    return [name for name, value in globals().items() if isinstance(value, Spec) and not name.startswith("_")]


def get(name: str) -> Spec:
    """The preset of that name. Raises ``UsageError`` with the nearest one."""
    value = globals().get(name)
    if isinstance(value, Spec) and not name.startswith("_"):
        return value
    near = difflib.get_close_matches(name, names(), 1)
    fix = f"Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no preset {name!r}", fix=f"{fix} `foveal models` lists them.".strip())
