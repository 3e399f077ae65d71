"""Caffe's networks before VGG as backbones: CaffeNet (R-CNN, Fast R-CNN's S) and SPP-Net's ZF-5.

Layers have Caffe's names (``conv1``, ...), so that a file of them needs no table of keys; pooling rounds up as there.
Caffe's files are for BGR: a conversion must reverse the input channels of ``conv1``, and ``input.mean`` and
``input.std`` must be those of training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...weights.state import load_network_file
from ..resizing import CAFFE_PIXELS, PixelStatistics
from .base import BackboneSpec, refuse_imagenet, returned

FULLY_CONNECTED = tuple(f"{name}.{kind}" for name in ("fc6", "fc7", "fc8") for kind in ("weight", "bias"))
_LEVELS = (2, 3, 4, 5)


class CaffeSpec(BackboneSpec):
    """The common base of the networks of this file. Subclasses are frozen dataclasses with these fields."""

    weights: str | None
    returns: tuple[str | int, ...] | None
    frozen_stages: int

    @property
    def pixels(self) -> PixelStatistics:
        return CAFFE_PIXELS

    @abstractmethod
    def layers(self) -> list[tuple[str, nn.Module]]:
        """The whole network with its layers' names."""

    def build(self, levels: Sequence[int] = _LEVELS) -> CaffeLayers:
        """The module, with random weights; ``levels`` it does not have are left out."""
        layers = self.layers()
        strides = _strides(layers)
        by_level = {stride.bit_length() - 1: name for name, stride in strides.items()}  # the last one wins
        names = returned(self.returns, levels, by_level, {name: name for name in strides}, type(self).__name__)
        body = CaffeLayers(layers, sorted(names, key=list(strides).index), strides)
        stages = sorted(set(strides.values()))
        if not 0 <= self.frozen_stages <= len(stages):
            raise UsageError(f"{type(self).__name__} has {len(stages)} stages, frozen_stages is {self.frozen_stages}")
        for name, layer in body.named_children():
            if strides[name] in stages[: self.frozen_stages]:
                layer.requires_grad_(False)
        return body

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        file = path or self.weights
        refuse_imagenet(file, type(self).__name__)
        if file:
            names = [name for name, layer in self.layers() if isinstance(layer, Conv)]
            known = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
            load_network_file(backbone, file, known=(*known, *FULLY_CONNECTED), what=type(self).__name__)


@dataclass(frozen=True)
class CaffeNet(CaffeSpec):
    """AlexNet in Caffe's form: pooling before normalization, two convolutions in two groups. 227 pixels become
    256 x 6 x 6; with the fully connected layers of 4,096 it has 60,965,224 parameters for 1,000 classes."""

    weights: str | None = None  # a file with Caffe's layer names, read when training starts
    returns: tuple[str | int, ...] | None = None  # layers as "conv5", "pool5", or l for the last of stride 2^l
    frozen_stages: int = 0  # stages of equal stride that do not learn
    padded: bool = False  # padded convolutions, so that cell i is at pixel 16 i: Fast R-CNN's form; not for crops

    def layers(self) -> list[tuple[str, nn.Module]]:
        border = int(self.padded)
        return [
            ("conv1", Conv(3, 96, 11, 4, padding=5 * border)),
            ("pool1", _pool(border)),
            ("norm1", _norm()),
            ("conv2", Conv(96, 256, 5, padding=2, groups=2)),
            ("pool2", _pool(border)),
            ("norm2", _norm()),
            ("conv3", Conv(256, 384, 3, padding=1)),
            ("conv4", Conv(384, 384, 3, padding=1, groups=2)),
            ("conv5", Conv(384, 256, 3, padding=1, groups=2)),
            ("pool5", _pool()),
        ]


@dataclass(frozen=True)
class ZF5(CaffeSpec):
    """The five convolutions of Zeiler and Fergus' network as SPP-Net has them: stride 16, 224 pixels become
    256 x 13 x 13, 180 become 10 x 10; 3,726,464 parameters.

    The constants of its normalization are AlexNet's; the released model's are not known.
    """

    weights: str | None = None  # a file with Caffe's layer names, read when training starts
    returns: tuple[str | int, ...] | None = None  # layers as "conv5", or l for the last of stride 2^l
    frozen_stages: int = 0  # stages of equal stride that do not learn

    def layers(self) -> list[tuple[str, nn.Module]]:
        return [
            ("conv1", Conv(3, 96, 7, 2, padding=1)),
            ("norm1", _norm()),
            ("pool1", _pool()),
            ("conv2", Conv(96, 256, 5, 2)),
            ("norm2", _norm()),
            ("pool2", _pool()),
            ("conv3", Conv(256, 384, 3, padding=1)),
            ("conv4", Conv(384, 384, 3, padding=1)),
            ("conv5", Conv(384, 256, 3, padding=1)),
        ]


class Conv(nn.Conv2d):
    """A convolution with bias and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, side, stride, padding, groups=groups)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class CaffeLayers(nn.Module):
    """Pixels (B, 3, H, W) -> a map (B, c, h, w) for each returned layer, in order."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]], names: Sequence[str], strides: dict[str, int]) -> None:
        super().__init__()
        self.names = tuple(names)
        widths, width = {}, 0
        for name, layer in layers:
            width = layer.out_channels if isinstance(layer, Conv) else width
            widths[name] = width
            self.add_module(name, layer)
            if name == self.names[-1]:
                break
        self.channels = tuple(widths[name] for name in names)
        self.strides = tuple(strides[name] for name in names)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x, maps = pixels, []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.names:
                maps.append(x)
        return maps


def _strides(layers: Sequence[tuple[str, nn.Module]]) -> dict[str, int]:
    strides, stride = {}, 1
    for name, layer in layers:
        if isinstance(layer, Conv):
            stride *= layer.stride[0]
        elif isinstance(layer, nn.MaxPool2d):
            stride *= 2
        strides[name] = stride
    return strides


def _pool(padding: int = 0) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding, ceil_mode=True)


def _norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
