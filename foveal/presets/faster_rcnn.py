"""Faster R-CNN presets, and its region proposal network alone."""

from __future__ import annotations

from dataclasses import replace

from ..assembly.proposers import Counts
from ..assembly.task import BoxTask
from ..detectors.faster_rcnn import ROI_TASK, RPN_TASK, FasterRCNN, alternating
from ..detectors.rpn import RPN
from ..parts.backbones.timm import Timm
from ..parts.backbones.torchvision import Torchvision
from ..parts.heads.dense import RPNHead
from ..parts.heads.roi import Predictor, ResNetTail, RoIConv, RoIMLP, VGGTail
from ..parts.heads.timm import TimmTail
from ..parts.losses.box import SmoothL1
from ..parts.losses.classification import Focal
from ..parts.losses.normalizers import Positives, Sampled
from ..parts.necks.fpn import FPN, SingleLevel
from ..parts.pooling.roi_align import CropResize, RoIAlign, RoIPool
from ..parts.postprocess import NMS
from ..parts.priors.anchors import Anchors
from ..parts.resizing import Resize
from ..parts.samplers import All, Balanced
from ..recipe import SGD, Constant, Recipe, Steps
from .recipes import FLIP, ONE, ONE_REGION, TV_REGION

__all__ = [
    "faster_rcnn_inception_resnet_v2",
    "faster_rcnn_luminoth",
    "faster_rcnn_mobilenet_v3_large_320_fpn",
    "faster_rcnn_mobilenet_v3_large_fpn",
    "faster_rcnn_r50_c4",
    "faster_rcnn_r50_fpn",
    "faster_rcnn_r50_fpn_paper",
    "faster_rcnn_r50_fpn_v2",
    "faster_rcnn_r101_c4",
    "faster_rcnn_r101_fpn",
    "faster_rcnn_vgg16",
    "faster_rcnn_vgg16_alternating",
    "faster_rcnn_vgg16_focal_rpn",
    "faster_rcnn_x101_fpn",
    "rpn_r50_fpn",
]


HALF = (0.5, 0.5, 0.5)  # mean and standard deviation for networks that expect pixels from -1 to 1

# ------------------------------------------------------------------------------------ Faster R-CNN with FPN
_TV_HEAD = RoIMLP(1024, predictor=Predictor(cls_std=None, box_std=None))

# torchvision's fasterrcnn_resnet50_fpn: 37.0 AP.
faster_rcnn_r50_fpn = FasterRCNN(
    anchors=Anchors(rounding="corners", grid="floor"),
    roi_head=_TV_HEAD,
    fit=TV_REGION,
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

# The same for images of 320 to 640 px: 22.8 AP.
faster_rcnn_mobilenet_v3_large_320_fpn = replace(
    faster_rcnn_mobilenet_v3_large_fpn, input=Resize(320, 640), test_proposals=Counts(150, 150)
)

_DETECTRON_ROI = replace(ROI_TASK, box_loss=SmoothL1(beta=1.0, normalizer=ROI_TASK.box_loss.normalizer))

# The FPN paper's form with Detectron's anchors and losses. 36.7 AP (1x).
faster_rcnn_r50_fpn_paper = FasterRCNN(
    anchors=Anchors(rounding="stride", center=0.5), roi=_DETECTRON_ROI, fit=ONE_REGION
)
faster_rcnn_r101_fpn = replace(faster_rcnn_r50_fpn_paper, backbone=Torchvision("resnet101"))  # 39.4 AP (Detectron, 1x)
# The same on ResNeXt-101 32x8d.
faster_rcnn_x101_fpn = replace(faster_rcnn_r50_fpn_paper, backbone=Torchvision("resnext101_32x8d"))

# --------------------------------------------------------------------------------- Faster R-CNN, one level
_LEGACY_ANCHORS = Anchors(((128, 256, 512),), rounding="stride", center=0.5, inside=True)

# The original (Ren et al. 2015): VGG-16, RoIPool, 73.2 mAP on VOC 2007 test after 07+12.
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
    # 60,000 + 20,000 iterations of one image: 16 epochs of VOC 2007 trainval; difficult objects are left out
    fit=Recipe(
        epochs=16,
        batch=1,
        lr=0.001,
        solver=SGD(0.9, 5e-4),
        schedule=Steps((0.75,)),
        augment=FLIP,
        difficult="drop",
        warmup_steps=0,
        bias_lr=2.0,
        bias_decay=False,
    ),
)

_RPN_1, _HEAD_1, _RPN_2, _HEAD_2 = alternating("backbone")

# The same trained as in the paper, in four steps that end with shared convolutions: 69.9 mAP on VOC 2007 test
# after 07 trainval, 73.2 after 07+12; time and memory not measured. The RPN takes 80,000 iterations of one image, the
# head 40,000 of two: 16 epochs of VOC 2007 trainval each, the head's here by one image at half the rate.
#   foveal train faster_rcnn_vgg16_alternating --data VOC2007 --split train=trainval,val=test 'backbone.weights="vgg16"'
faster_rcnn_vgg16_alternating = replace(
    faster_rcnn_vgg16,
    fit=replace(
        faster_rcnn_vgg16.fit,
        val_every=16,
        stages=(_RPN_1, replace(_HEAD_1, lr=0.0005), _RPN_2, replace(_HEAD_2, lr=0.0005)),
    ),
)


def with_focal(rpn: BoxTask) -> BoxTask:
    focal, box_loss = Focal(alpha=0.25, gamma=2.0, prior=0.01), SmoothL1(beta=1 / 9, normalizer=Positives())
    return replace(rpn, sampler=All(), cls_loss=focal, box_loss=box_loss)


# Focal loss in the RPN: every anchor counts, with its normalizer and prior bias.
faster_rcnn_vgg16_focal_rpn = replace(faster_rcnn_vgg16, rpn=with_focal(faster_rcnn_vgg16.rpn))

# ResNet-50 to conv4, conv5 as the head (He et al. 2016; Detectron): 34.8 AP (1x).
faster_rcnn_r50_c4 = FasterRCNN(
    backbone=Torchvision("resnet50", returns=(4,)),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=1024),
    anchors=Anchors(((32, 64, 128, 256, 512),), rounding="stride", center=0.5, inside=True),
    pool=RoIAlign(14, ratio=0),
    roi_head=ResNetTail("resnet50"),
    roi=_DETECTRON_ROI,
    train_proposals=Counts(12000, 2000),
    test_proposals=Counts(6000, 1000),
    # 180,000 iterations of 8 images, steps at 120,000 and 160,000
    fit=replace(ONE, batch=8, lr=0.01),
)

# The same on ResNet-101: 34.9 AP on COCO test-dev with multi-scale testing and context ("+++").
faster_rcnn_r101_c4 = replace(
    faster_rcnn_r50_c4, backbone=Torchvision("resnet101", returns=(4,)), roi_head=ResNetTail("resnet101")
)

# Luminoth's defaults: 12 anchors, crop and resize to 14 then pool to 7, 256 samples; score threshold .5.
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
    fit=Recipe(epochs=12, batch=1, lr=3e-4, solver=SGD(0.9, 5e-4), schedule=Constant(), augment=FLIP, warmup_steps=0),
)

# G-RMI's (Huang et al. 2017) in its authors' configuration at stride 16: Inception-ResNet-v2 (timm) to its last
# stage, crops of 17 x 17 into that stage, 12 anchors, box losses weighted by 2. 34.7 AP published; not measured here.
#   foveal train faster_rcnn_inception_resnet_v2 --data COCO 'backbone.weights="FILE"'   # timm's weights
faster_rcnn_inception_resnet_v2 = FasterRCNN(
    input=Resize(600, 1024, 1, HALF, HALF),
    backbone=Timm("inception_resnet_v2", padded=True),
    levels=(4,),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=512),
    anchors=faster_rcnn_luminoth.anchors,
    pool=CropResize(17, pool=1),
    roi_head=TimmTail("inception_resnet_v2"),
    rpn=replace(RPN_TASK, box_loss=SmoothL1(beta=1 / 9, normalizer=Sampled(), weight=2.0)),
    roi=replace(
        ROI_TASK,
        sampler=Balanced(64, 0.25),
        box_loss=SmoothL1(beta=1.0, normalizer=Sampled(), weight=2.0),
        select=replace(ROI_TASK.select, score=0.0),
        suppress=NMS(0.6, per="class", top=100),
    ),
    train_proposals=Counts(12000, 300),
    test_proposals=Counts(12000, 300),
    # steps at 900,000 and 1,200,000 iterations of one image: 12 epochs of COCO are 1,420,000
    fit=replace(faster_rcnn_luminoth.fit, solver=SGD(0.9, 0.0), schedule=Steps((0.64, 0.85)), clip=10.0),
)

# ------------------------------------------------------------------------------------------- the RPN alone
# 58.0 AR at 1000 proposals (Detectron2).
rpn_r50_fpn = RPN(anchors=Anchors(center=0.5), fit=ONE_REGION)
