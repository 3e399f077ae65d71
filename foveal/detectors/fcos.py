"""FCOS: fully convolutional one-stage detection (Tian et al., ICCV 2019).

ResNet -> FPN P3..P7 -> two towers shared over the levels -> at every point K sigmoid logits, the distances to the four
sides of a box, and center-ness. No anchors: a point is assigned to the object that contains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import LTRB
from ..parts.heads.dense import PointTower
from ..parts.losses.box import GIoU
from ..parts.losses.centerness import Centerness
from ..parts.losses.classification import Focal
from ..parts.matching.points import PointMatcher
from ..parts.necks.fpn import FPN
from ..parts.postprocess import NMS, Select
from ..parts.priors.anchors import Anchors, PyramidAnchors, at_strides
from ..parts.resizing import Input, Resize
from ..recipe import Recipe

POINTS = PyramidAnchors(scale=1.0, octaves=1, ratios=(1.0,))  # one cell a location, a stride wide


@dataclass(frozen=True)
class FCOS(Spec):
    """The improved form of the authors' code: center sampling, GIoU, sides in strides, center-ness on the box tower."""

    input: Input = Resize(800, 1333)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")  # levels C3, C4, C5
    neck: FPN = FPN(256, extra="p6p7-p5")  # P3..P7
    head: PointTower = PointTower(scales=True)  # one tower for classes, one for boxes and center-ness
    points: Anchors | PyramidAnchors = POINTS  # cells of one stride; their centers are the points
    task: BoxTask = BoxTask(
        matcher=PointMatcher(radius=1.5),
        cls_loss=Focal(),
        box_loss=GIoU(),
        coder=LTRB(),
        quality=Centerness(weighs_boxes=True, floor=0.05),
        select=Select(score=0.0, per_level=1000),
        suppress=NMS(iou=0.6, per="class", top=100),
    )
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build(levels=(3, 4, 5))
        neck = self.neck.build(backbone.channels, backbone.strides)
        points, loss, count = at_strides(self.points, neck.strides), self.task.cls_loss, len(classes)
        head = self.head.build(neck.channels, points.per_location, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, points, self.task)
