"""R-CNN presets: detectors trained in stages of several kinds."""

from __future__ import annotations

from dataclasses import replace

from ..detectors.rcnn import BOX_RIDGE, CLASS_SVMS, FINE_TUNE, RCNN, RCNN_FIT
from ..parts.backbones.torchvision import Torchvision
from ..parts.pooling.warp import Warp
from ..parts.resizing import CAFFE_MEAN, LEVELS, Original
from ..recipe import WindowSampling
from .recipes import FLIP

__all__ = ["rcnn_alexnet", "rcnn_vgg16"]


# As in the paper (Girshick et al. 2014): 54.2 mAP on VOC 2007 test after 07 trainval with the SVMs, 58.5 with the box
# regression too; not measured here. Start from an ImageNet CaffeNet: 'backbone.weights="FILE"'.
#   foveal train rcnn_alexnet --data VOC2007 --split train=trainval,val=test
rcnn_alexnet = RCNN(input=Original(mean=CAFFE_MEAN, std=LEVELS), fit=replace(RCNN_FIT, augment=FLIP))

# The same on VGG-16, in batches of 24 windows, as many iterations: 62.2, and 66.0 with the box regression; not measured
# here.
rcnn_vgg16 = RCNN(
    backbone=Torchvision("vgg16", returns=(5,), frozen_stages=0, ceil=True),
    pool=Warp(224),
    cells=7,
    fit=replace(
        RCNN_FIT,
        batch=24,
        augment=FLIP,
        stages=(replace(FINE_TUNE, draw=WindowSampling(per_image=12)), CLASS_SVMS, BOX_RIDGE),
    ),
)
