"""Named detectors. Variants are ``dataclasses.replace``; the comment above each says what it is and what to expect.

Where torchvision has a form of a detector, the plain name is that form and the paper's is ``..._paper``. AP is
published COCO val2017 unless said; what the ``*_mini`` presets reach in minutes is in ``docs/results.md``.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from foveal.data.transforms import HorizontalFlip, Jitter, MultiScale, PhotometricDistortion
from foveal.detectors.base import Spec
from foveal.detectors.faster_rcnn import ROI_TASK, RPN_TASK, FasterRCNN
from foveal.detectors.fcos import FCOS
from foveal.detectors.region import Counts
from foveal.detectors.retinanet import RetinaNet
from foveal.detectors.rpn import RPN
from foveal.detectors.yolo import BLACK, V1_TASK, V2_OBJECTNESS, V2_TASK, V3_TASK, WHITE, YOLO
from foveal.errors import UsageError
from foveal.fit import SGD, AdamW, Constant, Cosine, Fit, Steps
from foveal.parts.backbones import Torchvision
from foveal.parts.box_losses import L1, GIoU, IoU, SmoothL1
from foveal.parts.cells import Cells
from foveal.parts.coders import LTRB
from foveal.parts.darknet import Darknet
from foveal.parts.grid_head import GridHead
from foveal.parts.heads import PointTower, Predictor, ResNetTail, RoIConv, RoIMLP, RPNHead, Tower, VGGTail
from foveal.parts.inputs import Letterbox, Resize, Stretch
from foveal.parts.losses import Focal
from foveal.parts.matchers import IoUMatcher
from foveal.parts.necks import FPN, Identity, SingleLevel
from foveal.parts.normalizers import Positives, PositivesPerImage
from foveal.parts.points import Centreness, PointMatcher
from foveal.parts.pooling import CropResize, RoIAlign, RoIPool
from foveal.parts.priors import Anchors, PyramidAnchors
from foveal.parts.samplers import All, Balanced
from foveal.parts.small import SmallResNet
from foveal.parts.suppress import NMS, Select
from foveal.parts.yolo import CellHead, Passthrough, Upsampling
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

# ---------------------------------------------------------------------------------------------------- YOLO
# Darknet's recipe: batches of 64, a burn-in that rises with the fourth power, crops that move every side.
_DARKNET = Fit(
    batch=64,
    lr=1e-3,
    solver=SGD(0.9, 5e-4),
    warmup_steps=1000,
    warmup_factor=0.0,
    warmup_power=4.0,
    norm_decay=False,
    bias_decay=False,
    difficult="drop",
    augment=(
        Jitter(0.3),
        HorizontalFlip(),
        PhotometricDistortion(0.0, contrast=(1 / 1.5, 1.5), saturation=(1 / 1.5, 1.5), hue=36.0, p=1.0),
    ),
)
_SCALES = MultiScale(tuple(range(320, 609, 32)))
_DARKNET_VOC = replace(  # 80,200 updates on VOC 2007 + 2012, steps at 40,000 and 60,000
    _DARKNET, epochs=310, schedule=Steps((0.4988, 0.7481)), augment=(*_DARKNET.augment, _SCALES)
)
_DARKNET_COCO = replace(  # 500,200 updates on COCO, steps at 400,000 and 450,000
    _DARKNET, epochs=273, schedule=Steps((0.7997, 0.8996)), augment=(*_DARKNET.augment, _SCALES), difficult="learn"
)
_V1_CELLS = Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells")
_V1_FIT = replace(  # 40,000 updates on VOC 2007 + 2012: .001, up to .01 by update 600, down at 20,000 and 30,000
    _DARKNET,
    epochs=155,
    lr=0.01,
    schedule=Steps((0.5, 0.75)),
    warmup_steps=600,
    warmup_factor=0.1,
    warmup_power=1.0,
    augment=(Jitter(0.2), *_DARKNET.augment[1:]),
)

# The paper's: 24 convolutions without batch norm and two connected layers. 63.4 mAP on VOC 2007 test.
yolo_v1 = YOLO(
    input=Stretch(448, 448, mean=BLACK, std=WHITE),
    backbone=Darknet("yolov1-plain"),
    levels=(6,),
    neck=SingleLevel(),
    head=GridHead(side=7, hidden=4096),
    cells=_V1_CELLS,
    task=V1_TASK,
    fit=_V1_FIT,
)

# As today's files have it: batch norm, a local layer in place of the hidden one, three boxes a cell.
yolo_v1_local = replace(
    yolo_v1,
    backbone=Darknet("yolov1"),
    head=GridHead(side=7, hidden=None, local=256),
    cells=Cells((((1.0, 1.0),) * 3,), unit="cells"),
)

# Eight convolutions straight into the output layer (the paper's "fast" one, with other layers, had 52.7 mAP).
yolo_v1_tiny = replace(yolo_v1, backbone=Darknet("yolov1-tiny"), head=GridHead(side=7, hidden=None, dropout=0.0))

# Darknet-19, a passed-through finer map, five shapes: 76.8 mAP on VOC 2007 test at 416, 78.6 at 544.
yolo_v2 = YOLO(
    backbone=Darknet("darknet19"),
    levels=(4, 5),
    neck=Passthrough(64, 1024),
    head=CellHead((1024,)),
    cells=Cells(
        (((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071)),),
        unit="cells",
    ),
    task=V2_TASK,
    fit=_DARKNET_VOC,
)

# The same with the shapes of COCO: 21.6 AP on test-dev.
yolo_v2_coco = replace(
    yolo_v2,
    cells=Cells(
        (((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828)),),
        unit="cells",
    ),
    fit=_DARKNET_COCO,
)

# Eight convolutions, no finer map; its own shapes.
yolo_v2_tiny = replace(
    yolo_v2,
    backbone=Darknet("yolov2-tiny"),
    levels=(5,),
    neck=SingleLevel(),
    cells=Cells((((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)),), unit="cells"),
)

# The same for COCO: 512 channels in the last block, shapes as of yolo_v2_coco; its objectness learns 1.
yolo_v2_tiny_coco = replace(
    yolo_v2_coco,
    backbone=Darknet("yolov2-tiny"),
    levels=(5,),
    neck=SingleLevel(),
    head=CellHead((512,)),
    task=replace(V2_TASK, quality=replace(V2_OBJECTNESS, target="one")),
)

# Darknet-53, three levels, nine shapes, on COCO: 31.0 AP on test-dev at 416, 33.0 at 608 (55.3 and 57.9 AP50).
yolo_v3 = YOLO(backbone=Darknet("darknet53"), fit=_DARKNET_COCO)

# With pooling over windows of 5, 9 and 13 at the coarsest level, at 608.
yolo_v3_spp = replace(yolo_v3, neck=Upsampling(pooled=True), input=Letterbox(608, 608, mean=BLACK, std=WHITE))

# Two levels on seven convolutions.
yolo_v3_tiny = replace(
    yolo_v3,
    backbone=Darknet("yolov2-tiny"),
    levels=(4, 5),
    neck=Upsampling((128, 256), (0, 1)),
    head=CellHead((256, 512)),
    cells=Cells((((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319)))),
)

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

# YOLO on the same small backbone; `foveal anchors PRESET --data DATA` finds the shapes for a data set.
_GREY = Letterbox(320, 320)

# One level of stride 16 with a finer one passed through; softmax classes, objectness that learns the overlap.
yolo_v2_mini = YOLO(
    input=_GREY,
    backbone=_SMALL_BODY,
    levels=(3, 4),
    neck=Passthrough(narrow=32, channels=128, depth=1),
    head=CellHead((128,), prior=0.01),
    cells=Cells((((1.0, 1.0), (2.0, 1.5), (1.5, 2.5), (4.0, 3.0), (6.0, 6.5)),), unit="cells"),
    task=replace(V2_TASK, select=Select(score=0.01, per_level=1000)),
    fit=_SMALL_FIT,
)

# Three levels, nine shapes.
yolo_v3_mini = YOLO(
    input=_GREY,
    backbone=_SMALL_BODY,
    neck=Upsampling((32, 64, 128), (1, 1, 1)),
    head=CellHead(prior=0.01),
    cells=Cells(
        (
            ((12.0, 12.0), (18.0, 26.0), (28.0, 18.0)),
            ((32.0, 32.0), (36.0, 56.0), (60.0, 40.0)),
            ((72.0, 72.0), (100.0, 140.0), (160.0, 110.0)),
        )
    ),
    task=replace(V3_TASK, select=Select(score=0.01, per_level=1000)),
    fit=_SMALL_FIT,
)

# Two boxes for each of 10 x 10 cells, from layers that see the whole picture.
yolo_v1_mini = YOLO(
    input=Stretch(320, 320),
    backbone=SmallResNet((32, 64, 128, 64)),
    levels=(5,),
    neck=Identity(),
    head=GridHead(side=10, hidden=512),
    cells=Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells"),
    task=replace(V1_TASK, select=Select(score=0.01, per_level=1000)),
    fit=_SMALL_FIT,
)

# Proposals alone: one class, "object".
rpn_mini = RPN(
    input=_SMALL,
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=FPN(96, extra="pool", norm="group"),
    anchors=PyramidAnchors(scale=4.0, octaves=2),
    fit=_SMALL_FIT,
)


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
