"""DETR: end-to-end object detection with transformers (Carion et al., ECCV 2020).

ResNet -> its last map -> encoder -> decoder with a fixed number of learned object queries -> class and box of every
query. Each object is matched to one query, so there are no duplicates: no anchors and no NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..errors import moved
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import ImageRelative
from ..parts.heads.transformer import Transformer
from ..parts.losses.box import L1, GIoU, Sum
from ..parts.losses.classification import CrossEntropy
from ..parts.losses.normalizers import Positives
from ..parts.matching.hungarian import Hungarian
from ..parts.necks.fpn import SingleLevel
from ..parts.postprocess import NoNMS, Select
from ..parts.priors.whole_image import WholeImage
from ..parts.resizing import Input, Resize
from ..recipe import Recipe


@dataclass(frozen=True)
class DETR(Spec):
    """The paper's form (the original code). ``backbone.dilated=True``: dilation instead of the last stride (DC5)."""

    input: Input = Resize(800, 1333, multiple=1)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")  # conv1, layer1 and the norms are frozen
    neck: SingleLevel = SingleLevel()  # the feature map of the encoder
    head: Transformer = Transformer()
    task: BoxTask = BoxTask(
        matcher=Hungarian(),
        cls_loss=CrossEntropy(background_weight=0.1),
        box_loss=Sum((L1(weight=5.0), GIoU(weight=2.0)), normalizer=Positives(across_ranks=True)),
        coder=ImageRelative(),
        select=Select(score=0.0, best_class=True),
        suppress=NoNMS(),
    )
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build()
        neck = self.neck.build(backbone.channels, backbone.strides)
        loss, count = self.task.cls_loss, len(classes)
        head = self.head.build(neck.channels, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, WholeImage(self.head.queries), self.task)


def __getattr__(name: str) -> Any:
    """``attention_maps`` by its earlier path; it goes with version 0.2."""
    if name != "attention_maps":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved(__name__, "foveal.report.attention", name)
