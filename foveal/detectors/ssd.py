"""SSD: single shot multibox detector (Liu et al., ECCV 2016), and DSSD (Fu et al., 2017).

Backbone -> its finer maps and a few coarser ones -> on each map one convolution for classes and one for boxes, for a
few default boxes a location. Every object is assigned its best prior, other priors are assigned by overlap; of the
negatives the three hardest for each positive count. DSSD adds a path from coarse to fine (``neck.deconv``) and a
residual block before each prediction (``head.module``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ..assembly.detector import Detector, Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import Delta
from ..parts.heads.ssd import PerLevel
from ..parts.losses.box import SmoothL1
from ..parts.losses.classification import CrossEntropy
from ..parts.losses.normalizers import Positives
from ..parts.matching.bipartite import BipartiteThenIoU
from ..parts.necks.ssd import Extra, Extras, L2Norm, ReducedFC, Trunk, map_sides
from ..parts.postprocess import NMS, Select
from ..parts.priors.default_boxes import DefaultBoxes, PyramidBoxes, boxes_at
from ..parts.resizing import CAFFE_MEAN, LEVELS, Input, Stretch
from ..parts.samplers import HardNegatives
from ..recipe import Recipe

VGG_EXTRAS = (
    Extra(256, 512),
    Extra(128, 256),
    Extra(128, 256, stride=1, padding=0),
    Extra(128, 256, stride=1, padding=0),
)


@dataclass(frozen=True)
class SSD(Spec):
    """The released form of SSD300 on VGG-16, for VOC."""

    input: Input = Stretch(300, 300, mean=CAFFE_MEAN, std=LEVELS)  # the resize rule of prediction and evaluation
    # conv4_3 and conv5_3, each behind its ReLU
    backbone: BackboneSpec = Torchvision("vgg16", returns=("features.22", "features.29"), frozen_stages=0, ceil=True)
    levels: tuple[int, ...] = (3, 4)  # the backbone's maps where it has no returns: l has stride 2^l
    neck: Extras = Extras(VGG_EXTRAS, rescale=L2Norm(), fc=ReducedFC())
    head: PerLevel = PerLevel()
    priors: DefaultBoxes | PyramidBoxes = DefaultBoxes(steps=(8, 16, 32, 64, 100, 300))
    task: BoxTask = BoxTask(
        matcher=BipartiteThenIoU(),
        cls_loss=CrossEntropy(normalizer=Positives()),
        box_loss=SmoothL1(beta=1.0),
        sampler=HardNegatives(3.0),
        coder=Delta((10, 10, 5, 5), clamp=math.inf),
        select=Select(score=0.01, per_level=None, per_class=400),
        suppress=NMS(0.45, per="class", top=200),
        clip="after",
    )
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights.

        Raises :class:`UsageError` where the canvas of ``input`` is too small for the neck, or the priors are for
        another size.
        """
        backbone = self.backbone.build(levels=self.levels)
        neck = self.neck.build(backbone.channels, backbone.strides)
        priors, loss, count = boxes_at(self.priors, neck.strides), self.task.cls_loss, len(classes)
        if (canvas := self.input.fixed_canvas) is not None:
            maps = map_sides(backbone, *canvas)
            priors.check([*maps, *neck.sides(*maps[-1])], canvas)
        head = self.head.build(neck.channels, priors.per_location, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, priors, self.task)

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the backbone's weights file, where it names one: the backbone, and fc6 and fc7 of a VGG."""
        super().load_pretrained(detector)
        file = self.backbone.weights_file
        if file and self.neck.fc is not None and self.backbone.is_vgg:
            cast(Trunk, detector.get_submodule("neck.fc")).load_pretrained(file)
