"""DETR: end-to-end object detection with transformers (Carion et al., ECCV 2020).

ResNet -> its last map -> encoder -> decoder, which asks one learned question for each object there may be -> class and
box of every query. Each object is matched to one query, so nothing is found twice: there are no anchors and no NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..fit import Fit
from ..parts.backbone_base import BackboneSpec
from ..parts.backbones import Torchvision
from ..parts.box_losses import L1, GIoU, Sum
from ..parts.coders import ImageRelative
from ..parts.hungarian import Hungarian
from ..parts.inputs import Input, Resize
from ..parts.losses import CrossEntropy
from ..parts.necks import SingleLevel
from ..parts.normalizers import Positives
from ..parts.priors import WholeImage
from ..parts.suppress import NoNMS, Select
from ..parts.transformer import Transformer
from ..task import BoxTask
from .base import Detector, Spec
from .one_stage import OneStage


@dataclass(frozen=True)
class DETR(Spec):
    """The paper's form (the original code). ``backbone.dilated=True``: holes in place of the last stride (DC5)."""

    input: Input = Resize(800, 1333, multiple=1)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")  # conv1 and layer1 keep still, norms are constants
    neck: SingleLevel = SingleLevel()  # the map that is looked at
    head: Transformer = Transformer()
    task: BoxTask = BoxTask(
        matcher=Hungarian(),
        cls_loss=CrossEntropy(background_weight=0.1),
        box_loss=Sum((L1(weight=5.0), GIoU(weight=2.0)), normalizer=Positives(across_ranks=True)),
        coder=ImageRelative(),
        select=Select(score=0.0, best_class=True),
        suppress=NoNMS(),
    )
    fit: Fit = Fit()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build()
        neck = self.neck.build(backbone.channels, backbone.strides)
        loss, count = self.task.cls_loss, len(classes)
        head = self.head.build(neck.channels, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, WholeImage(self.head.queries), self.task)

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the backbone's weights file, where it names one."""
        self.backbone.load_pretrained(detector.get_submodule("backbone"))
