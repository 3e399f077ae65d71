"""SPP-Net presets (He et al. 2014)."""

from __future__ import annotations

from dataclasses import replace

from ..detectors.spp_net import SPP_FIT, SPPNet
from ..parts.backbones.caffe import ZF5
from ..parts.backbones.image_pyramid import ImagePyramid
from ..parts.resizing import CAFFE_MEAN, LEVELS, Resize
from .recipes import FLIP

__all__ = ["spp_net_zf5", "spp_net_zf5_5_scales"]

# He et al. 2014: 58.0 mAP on VOC 2007 test after 07 trainval, from an ImageNet ZF-5 ('backbone.weights="FILE"'); not
# measured here.
spp_net_zf5 = SPPNet(input=Resize(688, 4000, 1, CAFFE_MEAN, LEVELS), fit=replace(SPP_FIT, augment=FLIP))

# The same at five scales, each box pooled at the scale where its area is closest to 224 x 224: 59.2; not measured here.
spp_net_zf5_5_scales = replace(
    spp_net_zf5, input=Resize(1200, 7000, 1, CAFFE_MEAN, LEVELS), backbone=ImagePyramid(ZF5())
)
