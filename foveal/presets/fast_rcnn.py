"""Fast R-CNN presets (Girshick 2015)."""

from __future__ import annotations

from dataclasses import replace

from ..data.augment.transforms import MultiScale
from ..detectors.fast_rcnn import FastRCNN
from ..parts.backbones.caffe import CaffeNet
from ..parts.backbones.image_pyramid import ImagePyramid
from ..parts.necks.fpn import Identity
from ..parts.pooling.roi_align import RoIPool
from ..parts.resizing import CAFFE_MEAN, LEVELS, Resize
from .faster_rcnn import faster_rcnn_vgg16
from .recipes import FLIP

__all__ = ["fast_rcnn_caffenet", "fast_rcnn_caffenet_multi_scale", "fast_rcnn_vgg16", "fast_rcnn_vgg16_multi_scale"]


# Fast R-CNN (Girshick 2015): 66.9 mAP on VOC 2007 test after 07 trainval, 70.0 after 07+12 (not measured here).
# 40,000 iterations of two images are 16 epochs of VOC 2007 trainval; difficult objects are used in training.
#   foveal train fast_rcnn_vgg16 --data VOC2007 'backbone.weights="vgg16"'
fast_rcnn_vgg16 = FastRCNN(
    fit=replace(faster_rcnn_vgg16.fit, batch=2, difficult="learn"),
)

# The paper's small network, S: pool 6 x 6 for CaffeNet's fully connected layers, conv1 frozen. Not measured.
#   foveal train fast_rcnn_caffenet --data VOC2007 'backbone.weights="FILE"'
fast_rcnn_caffenet = replace(
    fast_rcnn_vgg16,
    input=Resize(600, 1000, 1, CAFFE_MEAN, LEVELS),
    backbone=CaffeNet(returns=("conv5",), frozen_stages=1, padded=True),
    pool=RoIPool(6),
)


def at_five_scales(spec: FastRCNN, bins: int) -> FastRCNN:
    """Trained at one random scale of the paper per batch, tested at all: each box where it is closest to 224 x 224."""
    scales = (1200, 864, 688, 576, 480)
    return replace(
        spec,
        input=Resize(scales[0], 2000, 1, spec.input.mean, spec.input.std),
        backbone=ImagePyramid(spec.backbone, scales, in_training=False),
        neck=Identity(),
        pool=RoIPool(bins, area=224),
        fit=replace(spec.fit, augment=(*FLIP, MultiScale(scales[::-1]))),
    )


# Both at five scales. Weights: 'backbone.backbone.weights="vgg16"'. Not measured.
fast_rcnn_vgg16_multi_scale = at_five_scales(fast_rcnn_vgg16, 7)
fast_rcnn_caffenet_multi_scale = at_five_scales(fast_rcnn_caffenet, 6)
