"""Dense heads: convolutions that predict classes and boxes at every location of every feature map.

A head is built for ``per_location`` priors of a location, ``logits`` a prior (``ClassLoss.channels``) and the initial
``bias`` of its class layer (``ClassLoss.bias``). Predictions are ordered level by level, row by row of the map, the
priors of a location last. The heads of the second stage are in ``roi.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...types import Images, Predictions
from ..layers.norms import NormKind, conv_block


class DenseHead(nn.Module):
    """The module of a one-stage detector's head, or of an RPN's: feature maps -> predictions.

    ``forward(features)`` returns one ``Predictions``. A head with several decoder layers overrides :meth:`layers`.
    """

    def layers(self, features: list[Tensor], images: Images) -> list[Predictions]:
        """Features [(B, c, h, w), ...], finest first -> the predictions of each decoder layer, the final ones last.

        ``images.sizes`` are the valid sizes of the images on the canvas, which attention needs (DETR).
        """
        return [self(features)]


_STD = 0.01  # of every new layer (RetinaNet, section 4.1; Faster R-CNN, section 3.1.3)


@dataclass(frozen=True)
class Tower:
    """RetinaNet's head: two towers of 3 x 3 convolutions, one for classes and one for boxes, shared by all levels."""

    depth: int = 4
    channels: int | None = None  # None: as many as the features
    norm: NormKind | None = None  # "group" in torchvision's v2 form

    def build(self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None) -> TowerHead:
        """For levels of these channels (all equal) and priors of a location (all equal). Raises ``UsageError``."""
        inputs, priors = _same("channels", channels), _same("number of priors", per_location)
        return TowerHead(self, inputs, priors, logits, bias)


class TowerHead(DenseHead):
    """Features [(B, c, h, w), ...] -> ``Predictions`` of logits (B, A, K) and deltas (B, A, 4)."""

    def __init__(self, spec: Tower, inputs: int, priors: int, logits: int, bias: float | None) -> None:
        super().__init__()
        width = spec.channels or inputs
        self.classification_head = _Branch(spec, inputs, "cls_logits", nn.Conv2d(width, priors * logits, 3, padding=1))
        self.regression_head = _Branch(spec, inputs, "bbox_reg", nn.Conv2d(width, priors * 4, 3, padding=1))
        self.logits = logits
        _init_normal(self)
        _init_bias(self.classification_head.last, bias)

    def forward(self, features: list[Tensor]) -> Predictions:
        logits = [by_prior(self.classification_head(x), self.logits) for x in features]
        deltas = [by_prior(self.regression_head(x), 4) for x in features]
        return Predictions(torch.cat(logits, 1), torch.cat(deltas, 1))


@dataclass(frozen=True)
class PointTower:
    """FCOS's head: as :class:`Tower`, with one prior a location and a third output, centerness.

    The four sides are never negative: ``relu(x)`` in strides (torchvision; the improved form), or ``exp(x)`` in pixels
    (the paper). ``scales``: x is first multiplied by a learned number of each level (the paper, section 3.2).
    """

    depth: int = 4
    channels: int | None = None  # None: as many as the features
    norm: NormKind | None = "group"
    sides: Literal["relu", "exp"] = "relu"
    scales: bool = False  # a learned factor a level
    quality_on: Literal["boxes", "classes"] = "boxes"  # the tower that predicts centerness

    def __post_init__(self) -> None:
        if self.sides not in ("relu", "exp") or self.quality_on not in ("boxes", "classes"):
            raise UsageError(f"{self}: expected sides 'relu' or 'exp', and quality_on 'boxes' or 'classes'")

    def build(self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None) -> PointHead:
        """For levels of these channels (all equal) and one prior a location. Raises ``UsageError``."""
        inputs = _same("channels", channels)
        if set(per_location) != {1}:
            raise UsageError(f"PointTower has one prior a location, got {tuple(per_location)}")
        return PointHead(self, inputs, len(channels), logits, bias)


class PointHead(DenseHead):
    """Features [(B, c, h, w), ...] -> ``Predictions`` of logits (B, A, K), sides (B, A, 4) and quality (B, A)."""

    def __init__(self, spec: PointTower, inputs: int, levels: int, logits: int, bias: float | None) -> None:
        super().__init__()
        width = spec.channels or inputs
        tower = Tower(spec.depth, spec.channels, spec.norm)
        last = nn.Conv2d(width, logits, 3, padding=1)
        self.classification_head = _Branch(tower, inputs, "cls_logits", last, bias=True)
        self.regression_head = _Branch(tower, inputs, "bbox_reg", nn.Conv2d(width, 4, 3, padding=1), bias=True)
        self.on_boxes, self.sides = spec.quality_on == "boxes", spec.sides
        quality = nn.Conv2d(width, 1, 3, padding=1)
        (self.regression_head if self.on_boxes else self.classification_head).add_module("bbox_ctrness", quality)
        self.scales = nn.Parameter(torch.ones(levels)) if spec.scales else None
        self.logits = logits
        _init_normal(self)
        _init_bias(self.classification_head.last, bias)

    def forward(self, features: list[Tensor]) -> Predictions:
        logits, sides, quality = [], [], []
        for level, x in enumerate(features):
            classes, boxes = self.classification_head.conv(x), self.regression_head.conv(x)
            logits.append(by_prior(self.classification_head.last(classes), self.logits))
            sides.append(self._positive(by_prior(self.regression_head.last(boxes), 4), level))
            branch = self.regression_head if self.on_boxes else self.classification_head
            quality.append(by_prior(branch.get_submodule("bbox_ctrness")(boxes if self.on_boxes else classes), 1))
        return Predictions(torch.cat(logits, 1), torch.cat(sides, 1), torch.cat(quality, 1).squeeze(-1))

    def _positive(self, x: Tensor, level: int) -> Tensor:
        if self.scales is not None:
            x = x * self.scales[level]
        return x.relu() if self.sides == "relu" else x.float().exp()


class _Branch(nn.Module):
    """One tower and its last layer, which has torchvision's name."""

    def __init__(self, spec: Tower, inputs: int, name: str, last: nn.Conv2d, bias: bool | None = None) -> None:
        super().__init__()
        width = spec.channels or inputs
        self.conv = nn.Sequential(
            *(conv_block(inputs if i == 0 else width, width, norm=spec.norm, bias=bias) for i in range(spec.depth))
        )
        self.add_module(name, last)
        self._name = name

    @property
    def last(self) -> nn.Conv2d:
        return self._modules[self._name]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RPNHead:
    """The region proposal network's head: 3 x 3 convolutions and ReLU, then two sibling 1 x 1 convolutions."""

    channels: int | None = None  # of the 3 x 3 convolution (512 for VGG-16); None: as many as the features
    depth: int = 1  # 2 in torchvision's v2 form

    def build(
        self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None
    ) -> ProposalHead:
        """For levels of these channels (all equal) and priors of a location (all equal). Raises ``UsageError``."""
        inputs, priors = _same("channels", channels), _same("number of priors", per_location)
        return ProposalHead(self, inputs, priors, logits, bias)


class ProposalHead(DenseHead):
    """Features [(B, c, h, w), ...] -> ``Predictions`` of logits (B, A, K) and deltas (B, A, 4)."""

    def __init__(self, spec: RPNHead, inputs: int, priors: int, logits: int, bias: float | None) -> None:
        super().__init__()
        width = spec.channels or inputs
        self.conv = nn.Sequential(*(conv_block(inputs if i == 0 else width, width) for i in range(spec.depth)))
        self.cls_logits = nn.Conv2d(width, priors * logits, 1)
        self.bbox_pred = nn.Conv2d(width, priors * 4, 1)
        self.logits = logits
        _init_normal(self)
        _init_bias(self.cls_logits, bias)

    def forward(self, features: list[Tensor]) -> Predictions:
        shared = [self.conv(x) for x in features]
        logits = [by_prior(self.cls_logits(x), self.logits) for x in shared]
        deltas = [by_prior(self.bbox_pred(x), 4) for x in shared]
        return Predictions(torch.cat(logits, 1), torch.cat(deltas, 1))


def by_prior(x: Tensor, size: int) -> Tensor:
    """A map (B, a * size, h, w) -> (B, h * w * a, size), one entry a prior; a view where the map is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, size)


def _same(what: str, values: Sequence[int]) -> int:
    if len(set(values)) != 1:
        raise UsageError(f"a head shared by all levels needs the same {what} at each, got {tuple(values)}")
    return values[0]


def _init_normal(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _init_bias(layer: nn.Conv2d, bias: float | None) -> None:
    if bias is not None and layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
