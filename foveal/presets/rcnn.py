"""R-CNN and SPP-Net: detectors fitted in stages of several kinds."""

from __future__ import annotations

from dataclasses import replace

from foveal.detectors.rcnn import BOX_RIDGE, CLASS_SVMS, CLASSES, FINE_TUNE, RCNN, RCNN_FIT
from foveal.detectors.spp_net import SPP_FIT, SPPNet
from foveal.detectors.ssd import CAFFE_MEAN, LEVELS
from foveal.fit import SGD, Cosine, Draw, Fit, Ridge, Stage
from foveal.parts.backbones import Torchvision
from foveal.parts.caffe_nets import ZF5
from foveal.parts.image_pyramid import ImagePyramid
from foveal.parts.inputs import Original, Resize
from foveal.parts.proposal_sources import SelectiveSearch
from foveal.parts.small import SmallResNet
from foveal.parts.two_tap import TwoTaps
from foveal.parts.warp import Warp
from foveal.presets.recipes import FLIP

__all__ = ["rcnn_alexnet", "rcnn_mini", "rcnn_vgg16", "spp_net_mini", "spp_net_zf5", "spp_net_zf5_5_scales"]

# The paper's (Girshick et al. 2014): 54.2 mAP on VOC 2007 test after 07 trainval with the SVMs, 58.5 with the box
# regression too; not measured here. Start from an ImageNet CaffeNet: 'backbone.weights="FILE"'.
#   foveal train rcnn_alexnet --data VOC2007 --split train=trainval,val=test
rcnn_alexnet = RCNN(input=Original(mean=CAFFE_MEAN, std=LEVELS), fit=replace(RCNN_FIT, augment=FLIP))

# The same on VGG-16, in batches of 24 windows, as many updates: 62.2, and 66.0 with the box regression; not measured
# here.
rcnn_vgg16 = RCNN(
    backbone=Torchvision("vgg16", returns=(5,), frozen_stages=0, ceil=True),
    pool=Warp(224),
    cells=7,
    fit=replace(
        RCNN_FIT,
        batch=24,
        augment=FLIP,
        stages=(replace(FINE_TUNE, draw=Draw(per_image=12)), CLASS_SVMS, BOX_RIDGE),
    ),
)

# He et al. 2014: 58.0 mAP on VOC 2007 test after 07 trainval, from an ImageNet ZF-5 ('backbone.weights="FILE"'); not
# measured here.
spp_net_zf5 = SPPNet(input=Resize(688, 4000, 1, CAFFE_MEAN, LEVELS), fit=replace(SPP_FIT, augment=FLIP))

# The same at five scales, each box pooled where its area is nearest 224 x 224: 59.2; not measured here.
spp_net_zf5_5_scales = replace(
    spp_net_zf5, input=Resize(1200, 7000, 1, CAFFE_MEAN, LEVELS), backbone=ImagePyramid(ZF5())
)

_PROPOSALS = SelectiveSearch(top=300, width=320, min_side=10)
_FIT = Fit(
    epochs=12,
    batch=64,
    lr=0.02,
    solver=SGD(0.9, 5e-4),
    schedule=Cosine(),
    warmup_steps=100,
    val_every=12,
    augment=FLIP,
)

# R-CNN from scratch on crops of 96 pixels; score and minutes on the generated shapes: not measured yet.
rcnn_mini = RCNN(
    proposals=_PROPOSALS,
    backbone=SmallResNet(),
    pool=Warp(96, 7),
    cells=3,
    head=TwoTaps(256, depth=1, dropout=0.0),
    fit=replace(
        _FIT,
        stages=(replace(FINE_TUNE, draw=Draw(per_image=32)), CLASS_SVMS, replace(BOX_RIDGE, solver=Ridge(alpha=100.0))),
    ),
)

# SPP-Net from scratch: there is no ImageNet backbone to keep still, so the first stage trains it along. On 500
# generated pictures of 160 px it comes to an AP50 of .633 in 16 minutes beside other work, half of it proposals:
#   foveal train spp_net_mini --data SHAPES input.short=160 input.long=267
spp_net_mini = SPPNet(
    input=Resize(320, 533),
    proposals=_PROPOSALS,
    backbone=SmallResNet(),
    levels=(3,),
    head=TwoTaps(256, depth=1, dropout=0.0),
    fit=replace(
        _FIT,
        batch=4,
        stages=(
            Stage(trains=("backbone", "roi_head.trunk", CLASSES)),
            CLASS_SVMS,
            replace(BOX_RIDGE, solver=Ridge(alpha=100.0, iou=0.5)),
        ),
    ),
)
