"""The layers of a Darknet cfg without convolutions as modules: connected layers, pools, routes, sums, products."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..layers.darknet import reorg
from ..layers.norms import NormKind, make_norm
from . import layers as kinds
from . import pools
from . import routes as joins
from .activations import activation
from .convolution import Blur


def max_pool(what: pools.MaxPool) -> nn.Module:
    """Darknet pads size - 1 pixels in total, the smaller half left and above, with -infinity."""
    if what.depth:
        return DepthMaxPool(what.depth)
    strides = (1, 1) if what.antialiasing else what.strides
    before = what.padding // 2
    after = what.padding - before
    pool: nn.Module
    if before == after:
        pool = nn.MaxPool2d(what.size, strides, before)
    elif (what.size, strides, what.padding) == (2, (2, 2), 1):  # the pixel right and below only counts for odd sides
        pool = nn.MaxPool2d(2, 2, ceil_mode=True)
    else:
        padded = nn.ConstantPad2d((before, after, before, after), -math.inf)
        pool = nn.Sequential(padded, nn.MaxPool2d(what.size, strides))
    return nn.Sequential(pool, Blur(what.antialiasing, what.strides)) if what.antialiasing else pool


class DepthMaxPool(nn.Module):
    """The maximum of the channels that are equal modulo ``channels``: (B, c, h, w) -> (B, channels, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        groups = -(-x.shape[1] // self.channels)
        x = F.pad(x, (0, 0, 0, 0, 0, groups * self.channels - x.shape[1]), value=-math.inf)
        return x.reshape(x.shape[0], groups, self.channels, *x.shape[2:]).amax(1)


class LocalMean(nn.Module):
    """The mean of each window over the pixels that exist; padding as of a max-pool."""

    def __init__(self, what: pools.LocalAvgPool) -> None:
        super().__init__()
        self.size, self.strides = what.size, what.strides
        self.before, self.after = what.padding // 2, what.padding - what.padding // 2

    def forward(self, x: Tensor) -> Tensor:
        pads = (self.before, self.after, self.before, self.after)
        total = F.avg_pool2d(F.pad(x, pads), self.size, self.strides)
        counted = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), pads), self.size, self.strides)
        return total / counted


class ConnectedModule(nn.Module):
    """(B, c, h, w) -> (B, outputs, 1, 1), over all of the map in the order c, h, w."""

    def __init__(self, what: kinds.Connected, inputs: int, norm: NormKind, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, what.outputs, bias=not what.norm)
        bound = math.sqrt(2 / inputs)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)
        self.norm = make_norm(norm, what.outputs, eps) if what.norm else None
        self.activation = activation(what.activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[1] != self.linear.in_features:
            raise UsageError(
                f"a connected layer expects {self.linear.in_features} inputs, got {x.shape[1]}",
                fix="Use the input size of the network's cfg, without MultiScale",
            )
        y: Tensor = self.linear(x)[..., None, None]
        y = y if self.norm is None else self.norm(y)
        return y if self.activation is None else self.activation(y)


class RouteModule(nn.Module):
    """Maps of equal size concatenated along their channels, of each the part ``group`` of ``groups``."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(m.chunk(self.groups, 1)[self.group] for m in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


class ShortcutModule(nn.Module):
    """The sum of maps over the channels of the first; a map with fewer is added to the first of them.

    ``weight`` (maps, 1) or (maps, channels): the weights of the maps, if they have any.
    """

    def __init__(self, what: joins.Shortcut, channels: int) -> None:
        super().__init__()
        shape = (1 + len(what.layers), channels if what.weights == "channel" else 1)
        self.weight = nn.Parameter(torch.ones(shape)) if what.weights else None
        self.normalization = what.normalization
        self.activation = activation(what.activation)

    def forward(self, x: Tensor, *earlier: Tensor) -> Tensor:
        y, weights = x, None
        if self.weight is not None:
            weights = self._normalized(self.weight)[..., None, None]  # (maps, channels or 1, 1, 1)
            y = x * weights[0]
        for k, m in enumerate(earlier, 1):
            m = _fitted(m, x)
            if weights is not None:
                m = m * (weights[k] if weights.shape[1] == 1 else weights[k, : m.shape[1]])
            y = y + F.pad(m, (0, 0, 0, 0, 0, x.shape[1] - m.shape[1]))
        return y if self.activation is None else self.activation(y)

    def _normalized(self, weight: Tensor) -> Tensor:
        if self.normalization == "":
            return weight
        positive = weight.relu() if self.normalization == "relu" else (weight - weight.amax(0)).exp()
        return positive / (positive.sum(0) + 1e-4)


def _fitted(m: Tensor, x: Tensor) -> Tensor:
    """The channels of ``m`` that ``x`` has too, at the size of ``x``."""
    m = m[:, : x.shape[1]]
    (h, w), (height, width) = m.shape[2:], x.shape[2:]
    if h > height:
        return m[:, :, :: h // height, :: w // width]
    if h < height:
        wide = m.new_zeros(*m.shape[:2], height, width)
        wide[:, :, :: height // h, :: width // w] = m
        return wide
    return m


class ProductModule(nn.Module):
    """The product of the layer before, broadcast over channels or pixels, and an earlier map."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.activation = activation(name)

    def forward(self, factors: Tensor, earlier: Tensor) -> Tensor:
        y = factors * earlier
        return y if self.activation is None else self.activation(y)


class UpsampleModule(nn.Module):
    def __init__(self, what: kinds.Upsample) -> None:
        super().__init__()
        self.stride, self.scale = float(what.stride), what.scale

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return y if self.scale == 1 else y * self.scale


class ReorgModule(nn.Module):
    """Pixels into channels, in the order of ``[reorg]``: :func:`foveal.parts.layers.darknet.reorg`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return reorg(x, self.stride)


class Reorg3dModule(nn.Module):
    """Pixels into channels, in the order of ``[reorg3d]``: output k is input k modulo c at place k / c; or back."""

    def __init__(self, what: kinds.Reorg3d) -> None:
        super().__init__()
        self.stride, self.reverse = what.stride, what.reverse

    def forward(self, x: Tensor) -> Tensor:
        (b, c, h, w), s = x.shape, self.stride
        if self.reverse:
            x = x.reshape(b, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
            return x.reshape(b, c // (s * s), h * s, w * s)
        x = x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, c * s * s, h // s, w // s)


class SoftmaxModule(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.temperature).softmax(1)


class CropModule(nn.Module):
    """The middle of the image, its values moved from 0..1 to -1..1 if ``adjust``."""

    def __init__(self, what: kinds.Crop) -> None:
        super().__init__()
        self.height, self.width, self.adjust = what.height, what.width, what.adjust

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        y = x[:, :, top : top + self.height, left : left + self.width]
        return 2 * y - 1 if self.adjust else y
