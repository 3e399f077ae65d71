"""RetinaNet: focal loss for dense detection (Lin et al., ICCV 2017).

ResNet -> FPN P3..P7 -> two towers shared over the levels -> 9 anchors a cell, K sigmoid logits and 4 deltas each.
Every anchor counts (no sampling); the focal loss keeps the many easy ones from dominating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import Delta
from ..parts.heads.dense import Tower
from ..parts.losses.box import SmoothL1
from ..parts.losses.classification import Focal
from ..parts.losses.normalizers import Positives
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import FPN
from ..parts.postprocess import NMS, Select
from ..parts.priors.anchors import Anchors, PyramidAnchors, at_strides
from ..parts.resizing import Input, Resize
from ..recipe import Recipe


@dataclass(frozen=True)
class RetinaNet(Spec):
    """The paper's form (Detectron's code): P6 from C5, true strides, best anchors forced only from IoU .4 up."""

    input: Input = Resize(800, 1333)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")  # levels C3, C4, C5
    neck: FPN = FPN(256, extra="p6p7-c5")  # P3..P7
    head: Tower = Tower(depth=4)  # one tower for classes, one for boxes
    anchors: Anchors | PyramidAnchors = PyramidAnchors(scale=4.0, octaves=3)  # 9 a cell
    task: BoxTask = BoxTask(
        matcher=IoUMatcher(0.5, 0.4, low_quality=True, low_quality_floor=0.4),
        cls_loss=Focal(alpha=0.25, gamma=2.0, normalizer=Positives(across_ranks=True)),
        box_loss=SmoothL1(beta=0.11, normalizer=Positives(across_ranks=True)),
        coder=Delta(),
        select=Select(score=0.05, per_level=1000),
        suppress=NMS(iou=0.5, per="class", top=100),
    )
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build(levels=(3, 4, 5))
        neck = self.neck.build(backbone.channels, backbone.strides)
        anchors, loss = at_strides(self.anchors, neck.strides), self.task.cls_loss
        head = self.head.build(
            neck.channels, anchors.per_location, loss.channels(len(classes)), loss.bias(len(classes))
        )
        return OneStage(self, classes, backbone, neck, head, anchors, self.task)
