"""The region proposal network as a class-agnostic detector: all objects are of the one class ``object``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.heads.dense import RPNHead
from ..parts.necks.fpn import FPN, Identity, SingleLevel
from ..parts.postprocess import NMS
from ..parts.priors.anchors import Anchors, PyramidAnchors, at_strides
from ..parts.resizing import Input, Resize
from ..recipe import Recipe
from .faster_rcnn import RPN_TASK


@dataclass(frozen=True)
class RPN(Spec):
    """Merges all classes into ``object``. Duplicates are suppressed at IoU .7 as proposals are; for final boxes of a
    single class set ``task.suppress.iou=.5``."""

    input: Input = Resize(800, 1333)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")
    levels: tuple[int, ...] = (2, 3, 4, 5)  # of the backbone (stride 2^level), where it has them and no returns
    neck: FPN | SingleLevel | Identity = FPN(256, extra="pool")
    head: RPNHead = RPNHead()  # 3 x 3 convolution and two sibling 1 x 1
    anchors: Anchors | PyramidAnchors = Anchors(sizes=((32,), (64,), (128,), (256,), (512,)), ratios=(0.5, 1.0, 2.0))
    task: BoxTask = replace(RPN_TASK, suppress=NMS(iou=0.7, per="level", top=1000))
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights; the class names are merged."""
        backbone = self.backbone.build(self.levels)
        neck = self.neck.build(backbone.channels, backbone.strides)
        anchors, loss = at_strides(self.anchors, neck.strides), self.task.cls_loss
        head = self.head.build(neck.channels, anchors.per_location, loss.channels(1), loss.bias(1))
        return OneStage(self, classes, backbone, neck, head, anchors, self.task, class_agnostic=True)
