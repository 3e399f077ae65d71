"""The small presets, for a few hundred images and minutes on one machine: from scratch, and on EfficientNet-Lite0."""

from __future__ import annotations

from dataclasses import replace

from ..assembly.proposers import Counts
from ..detectors.fast_rcnn import FAST_TASK, FastRCNN
from ..detectors.faster_rcnn import ROI_TASK, FasterRCNN, alternating
from ..detectors.fcos import FCOS
from ..detectors.mask_rcnn import MaskRCNN
from ..detectors.rcnn import BOX_RIDGE, CLASS_SVMS, CLASSES, FINE_TUNE, RCNN
from ..detectors.retinanet import RetinaNet
from ..detectors.rpn import RPN
from ..detectors.spp_net import SPPNet
from ..detectors.ssd import SSD
from ..detectors.yolo import V1_TASK, V2_TASK, V3_TASK, YOLO
from ..parts.backbones.small import SmallResNet
from ..parts.backbones.timm import Timm
from ..parts.coders import Delta
from ..parts.heads.dense import PointTower, Tower
from ..parts.heads.mask import MaskHead
from ..parts.heads.rcnn import RCNNHead
from ..parts.heads.roi import RoIMLP
from ..parts.heads.ssd import PerLevel, PredictionModule
from ..parts.heads.yolo import CellHead
from ..parts.losses.box import GIoU
from ..parts.losses.centerness import Centerness
from ..parts.losses.classification import Focal
from ..parts.losses.normalizers import Positives
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.dssd import Deconvolution
from ..parts.necks.fpn import FPN, Identity
from ..parts.necks.ssd import Extra, Extras
from ..parts.necks.yolo import Passthrough, Upsampling
from ..parts.pooling.roi_align import RoIAlign
from ..parts.pooling.warp import Warp
from ..parts.postprocess import Select
from ..parts.priors.anchors import PyramidAnchors
from ..parts.priors.cells import Cells
from ..parts.priors.default_boxes import PyramidBoxes
from ..parts.resizing import Letterbox, Resize, Stretch
from ..parts.samplers import Balanced
from ..parts.selective_search import SelectiveSearch
from ..recipe import SGD, Cosine, OnImages, Recipe, Ridge, WindowSampling
from .faster_rcnn import with_focal
from .recipes import FLIP, LITE_FIT, SMALL_FIT

__all__ = [
    "dssd_mini",
    "fast_rcnn_mini",
    "faster_rcnn_lite",
    "faster_rcnn_mini",
    "faster_rcnn_mini_alternating",
    "faster_rcnn_mini_focal_rpn",
    "fcos_lite",
    "fcos_mini",
    "mask_rcnn_lite",
    "mask_rcnn_mini",
    "rcnn_mini",
    "retinanet_lite",
    "retinanet_mini",
    "rpn_mini",
    "spp_net_mini",
    "ssd_lite",
    "ssd_mini",
    "yolo_v1_mini",
    "yolo_v2_mini",
    "yolo_v3_mini",
]

# --------------------------------------------------------------------------------------------------- small
_SMALL = Resize(320, 533)
_SMALL_BODY = SmallResNet()

# Two-layer towers of 96 channels; anchors from 3 strides up, since images are small. Group norm in the neck normalizes
# the features of any backbone.
retinanet_mini = RetinaNet(
    input=_SMALL,
    backbone=_SMALL_BODY,
    neck=FPN(96, extra="p6p7-p5", norm="group"),
    head=Tower(depth=2),
    anchors=PyramidAnchors(scale=3.0, octaves=3),
    task=replace(
        RetinaNet().task,
        matcher=IoUMatcher(0.5, 0.4, low_quality=True),
        cls_loss=Focal(normalizer=Positives()),
        box_loss=GIoU(normalizer=Positives(), weight=2.0),
        select=Select(score=0.01, per_level=1000),
    ),
    fit=SMALL_FIT,
)

# Two-layer towers of 96 channels, center-ness, no anchors.
fcos_mini = FCOS(
    input=_SMALL,
    backbone=_SMALL_BODY,
    neck=FPN(96, extra="p6p7-p5", norm="group"),
    head=PointTower(depth=2),
    task=replace(FCOS().task, quality=Centerness(), select=Select(score=0.05, per_level=1000)),
    fit=SMALL_FIT,
)

# A pyramid of 96 channels, six anchors per cell, two fully connected layers of 256.
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
    fit=SMALL_FIT,
)

# The same in the first paper's four steps of 12 epochs, each validated at its end; before the third the AP is
# meaningless. Score and minutes on the generated shapes: not measured.
faster_rcnn_mini_alternating = replace(
    faster_rcnn_mini, fit=replace(SMALL_FIT, val_every=12, stages=alternating("backbone", "neck"))
)

# Faster R-CNN's small form without an RPN: 500 proposals of selective search, computed at the original image size.
fast_rcnn_mini = FastRCNN(
    input=_SMALL,
    proposals=SelectiveSearch(top=500, width=320, min_side=10),
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=FPN(96, extra=None, norm="group"),
    pool=RoIAlign(7),
    roi_head=RoIMLP(256),
    roi=replace(FAST_TASK, select=Select(score=0.01, per_level=None), suppress=ROI_TASK.suppress),
    fit=SMALL_FIT,
)

# Faster R-CNN with focal loss in the RPN: one difference, three overrides.
faster_rcnn_mini_focal_rpn = replace(faster_rcnn_mini, rpn=with_focal(faster_rcnn_mini.rpn))

# Faster R-CNN's small form and masks of 16 x 16 from two convolutions of 64 channels. Needs data with masks. From
# scratch, on two CPU cores: python benchmarks/minis.py --presets mask_rcnn_mini --minutes 13 (scores: docs/results.md).
mask_rcnn_mini = MaskRCNN(
    input=_SMALL,
    backbone=_SMALL_BODY,
    levels=faster_rcnn_mini.levels,
    neck=faster_rcnn_mini.neck,
    anchors=faster_rcnn_mini.anchors,
    roi_head=faster_rcnn_mini.roi_head,
    roi=faster_rcnn_mini.roi,
    train_proposals=faster_rcnn_mini.train_proposals,
    test_proposals=faster_rcnn_mini.test_proposals,
    mask=MaskHead(RoIAlign(8, ratio=2), convs=2, channels=64, rows=32),
    fit=SMALL_FIT,
)

# YOLO on the same small backbone; `foveal anchors PRESET --data DATA` finds the shapes for a dataset.
_GRAY = Letterbox(320, 320)

# Two boxes per cell of 16 px. The paper's fully connected layers need far more images than minutes allow, so the head
# is convolutional; head=GridHead(side=20) restores the fully connected one.
yolo_v1_mini = YOLO(
    input=Stretch(320, 320),
    backbone=SmallResNet((32, 64, 128), blocks=(1, 1, 2)),
    levels=(4,),
    neck=Identity(),
    head=CellHead((128,)),
    cells=Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells"),
    task=replace(V1_TASK, select=Select(score=0.01, per_level=1000)),
    fit=SMALL_FIT,
)

# One level of stride 16 with a passthrough of a finer one; softmax classes, objectness that predicts the IoU.
yolo_v2_mini = YOLO(
    input=_GRAY,
    backbone=_SMALL_BODY,
    levels=(3, 4),
    neck=Passthrough(narrow=32, channels=128, depth=1),
    head=CellHead((128,), prior=0.01),
    cells=Cells((((1.0, 1.0), (2.0, 1.5), (1.5, 2.5), (4.0, 3.0), (6.0, 6.5)),), unit="cells"),
    task=replace(V2_TASK, select=Select(score=0.01, per_level=1000)),
    fit=SMALL_FIT,
)

# Two levels as in YOLOv3-tiny, six shapes.
yolo_v3_mini = YOLO(
    input=_GRAY,
    backbone=_SMALL_BODY,
    levels=(3, 4),
    neck=Upsampling((64, 128), (1, 1)),
    head=CellHead(prior=0.01),
    cells=Cells((((14.0, 14.0), (24.0, 32.0), (36.0, 24.0)), ((48.0, 48.0), (72.0, 96.0), (128.0, 112.0)))),
    task=replace(V3_TASK, select=Select(score=0.01, per_level=1000)),
    fit=SMALL_FIT,
)

# SSD on the backbone's three maps and two more; default boxes of 3 and 4.2 strides.
ssd_mini = SSD(
    input=Stretch(256, 256),
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=Extras((Extra(64, 128), Extra(64, 128)), norm="group"),
    priors=PyramidBoxes(),
    task=replace(SSD().task, coder=Delta((10, 10, 5, 5))),
    fit=SMALL_FIT,
)

# The same with a deconvolution path of 64 channels and a block before each prediction, trained in one stage.
dssd_mini = replace(
    ssd_mini,
    neck=replace(ssd_mini.neck, deconv=Deconvolution(64, norm="group")),
    head=PerLevel(module=PredictionModule(32, 64, norm="group")),
)

# Proposals alone: one class, "object".
rpn_mini = RPN(
    input=_SMALL,
    backbone=_SMALL_BODY,
    levels=(3, 4, 5),
    neck=FPN(96, extra="pool", norm="group"),
    anchors=PyramidAnchors(scale=4.0, octaves=2),
    fit=SMALL_FIT,
)


_PROPOSALS = SelectiveSearch(top=300, width=320, min_side=10)
_FIT = Recipe(
    epochs=12,
    batch=64,
    lr=0.02,
    solver=SGD(0.9, 5e-4),
    schedule=Cosine(),
    warmup_steps=100,
    val_every=12,
    augment=FLIP,
)

# R-CNN from scratch on crops of 96 px; score and minutes on the generated shapes: not measured yet.
rcnn_mini = RCNN(
    proposals=_PROPOSALS,
    backbone=SmallResNet(),
    pool=Warp(96, 7),
    cells=3,
    head=RCNNHead(256, depth=1, dropout=0.0),
    fit=replace(
        _FIT,
        stages=(
            replace(FINE_TUNE, draw=WindowSampling(per_image=32)),
            CLASS_SVMS,
            replace(BOX_RIDGE, solver=Ridge(alpha=100.0)),
        ),
    ),
)

# SPP-Net from scratch: there is no ImageNet backbone to freeze, so the first stage trains it too. On 500 generated
# images of 160 px it reaches an AP50 of .633 in 16 minutes on a shared machine, half of them for proposals:
#   foveal train spp_net_mini --data SHAPES input.short=160 input.long=267
spp_net_mini = SPPNet(
    input=Resize(320, 533),
    proposals=_PROPOSALS,
    backbone=SmallResNet(),
    levels=(3,),
    head=RCNNHead(256, depth=1, dropout=0.0),
    fit=replace(
        _FIT,
        batch=4,
        stages=(
            OnImages(trains=("backbone", "roi_head.trunk", CLASSES)),
            CLASS_SVMS,
            replace(BOX_RIDGE, solver=Ridge(alpha=100.0, iou=0.5)),
        ),
    ),
)

# --------------------------------------------------------------------------------------- EfficientNet-Lite0
# The same detectors on an ImageNet network whose weights come by pip (foveal[pretrained]). The stages up to stride 16
# are frozen: on 154 photos (voc2012-catdogcar, one CPU thread, 15 minutes) that takes retinanet_lite's voc10 mAP from
# .39 to .59, and a backbone that learns at a fifth of a doubled learning rate to .61.
_LITE = Timm("tf_efficientnet_lite0", weights="imagenet", frozen_stages=2)

retinanet_lite = replace(retinanet_mini, backbone=_LITE, fit=LITE_FIT)  # the one to start with for a few hundred photos

fcos_lite = replace(fcos_mini, backbone=_LITE, fit=LITE_FIT)  # no anchors, .06 below retinanet_lite on those photos

faster_rcnn_lite = replace(faster_rcnn_mini, backbone=_LITE, fit=LITE_FIT)  # a head of its own for each proposal

mask_rcnn_lite = replace(mask_rcnn_mini, backbone=_LITE, fit=LITE_FIT)  # needs data with masks

ssd_lite = replace(ssd_mini, input=Stretch(320, 320), backbone=_LITE, fit=LITE_FIT)  # the fastest of them
