"""DETR: end-to-end object detection with transformers (Carion et al., ECCV 2020).

ResNet -> its last map -> encoder -> decoder, which asks one learned question for each object there may be -> class and
box of every query. Each object is matched to one query, so nothing is found twice: there are no anchors and no NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..assembly.detector import Detector, Outputs, Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..errors import UsageError
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import ImageRelative
from ..parts.heads.transformer import DecoderLayer, Transformer, TransformerHead
from ..parts.losses.box import L1, GIoU, Sum
from ..parts.losses.classification import CrossEntropy
from ..parts.losses.normalizers import Positives
from ..parts.matching.hungarian import Hungarian
from ..parts.necks.fpn import SingleLevel
from ..parts.postprocess.nms import NoNMS
from ..parts.postprocess.select import Select
from ..parts.priors.whole_image import WholeImage
from ..parts.resizing import Input, Resize
from ..recipe import Recipe
from ..types import Images


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
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build()
        neck = self.neck.build(backbone.channels, backbone.strides)
        loss, count = self.task.cls_loss, len(classes)
        head = self.head.build(neck.channels, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, WholeImage(self.head.queries), self.task)


@torch.no_grad()
def attention_maps(detector: Detector, images: Images, layer: int = -1) -> tuple[Tensor, Outputs]:
    """Where the queries of a DETR look: (B, Q, h, w) float32 over the cells of its map, and the outputs they belong to.

    These are the weights of the cross-attention of one decoder layer, averaged over its heads: not negative, 0 outside
    the picture, 1 in all. Query q is row q of ``outputs.layers[layer]``; cell (y, x) stands for the pixels around
    ``((x + 1/2) W / w, (y + 1/2) H / h)`` of the canvas. Raises ``UsageError`` for a detector without queries.
    """
    head = detector.get_submodule("head") if isinstance(detector.spec, DETR) else None
    if not isinstance(head, TransformerHead):
        raise UsageError(f"{type(detector.spec).__name__} has no queries: attention pictures are DETR's")
    attention = cast(DecoderLayer, head.decoder.layers[layer]).multihead_attn
    seen: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
        seen.append(attention.weights(given[0], given[1], given[3]).mean(1))

    handle = attention.register_forward_pre_hook(look)
    try:
        outputs = detector.outputs(detector.normalize(images))
    finally:
        handle.remove()
    return seen[0].view(*seen[0].shape[:2], *outputs.features[-1].shape[-2:]), outputs
