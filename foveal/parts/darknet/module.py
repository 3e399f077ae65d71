"""A Darknet network as a PyTorch module, layer by layer, built from a cfg and run as its graph.

The state's keys are ``layers.<index>.0`` (convolution) and ``layers.<index>.1`` (its batch norm), with the cfg's index
(from 0, without ``[net]``). Norms directly follow their convolution, so that ``fold_norms`` finds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..layers.darknet import reorg
from ..layers.local import LocallyConnected
from ..layers.norms import NormKind, make_norm
from . import layers as kinds
from . import routes as joins
from .cfg_graph import CfgLayer, Net


class DarknetNetwork(nn.Module):
    """Pixels (B, 3, H, W), RGB in 0..1 -> the outputs of the layers ``returns``, in that order.

    Layers after the last of them are not built. Maps are (B, c, h, w), those of connected layers (B, c, 1, 1). H and W
    may differ from the cfg's where no layer fixes them (connected, local). ``channels`` and ``strides`` are those of
    the returned maps.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, net: Net, returns: Sequence[int], *, norm: NormKind = "batch", eps: float = 1e-5) -> None:
        super().__init__()
        used = net.layers[: max(returns) + 1]
        self.returns = tuple(returns)
        self.channels = tuple(net.layers[k].shape[0] for k in returns)
        self.strides = tuple(net.stride(k) for k in returns)
        self.layers = nn.ModuleList(_module(layer, net.shape(layer.sources[0]), norm, eps) for layer in used)
        self._sources = tuple(layer.sources for layer in used)
        self._lasts = _last_uses(self._sources, self.returns)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = {-1: pixels}
        for index, (layer, sources) in enumerate(zip(self.layers, self._sources, strict=True)):
            if index in self._lasts:  # otherwise its output is unused: a detection layer, or a removed branch
                maps[index] = layer(*(maps[k] for k in sources))
            for k in {*sources, index}:
                if self._lasts.get(k, -2) <= index and k not in self.returns:
                    maps.pop(k, None)
        return [maps[k] for k in self.returns]


def _last_uses(sources: Sequence[Sequence[int]], returns: Sequence[int]) -> dict[int, int]:
    """The last layer that reads the output of each needed layer; of a returned one at least itself."""
    lasts = {k: k for k in returns}
    for index in range(len(sources) - 1, -1, -1):
        if index in lasts:
            for k in sources[index]:
                lasts[k] = max(index, lasts.get(k, index))
    return lasts


def _module(layer: CfgLayer, inputs: kinds.Shape, norm: NormKind, eps: float) -> nn.Module:
    """The module of a layer; ``inputs``: the shape of its first input."""
    what = layer.what
    if isinstance(what, kinds.Convolutional):
        return _convolutional(what, inputs[0], norm, eps)
    if isinstance(what, kinds.Connected):
        return ConnectedModule(what, math.prod(inputs), norm, eps)
    if isinstance(what, kinds.Local):
        filters, *sides = layer.shape
        return LocallyConnected(
            inputs[0], filters, sides, what.size, what.stride, int(what.pad), activation(what.activation)
        )
    if isinstance(what, kinds.MaxPool):
        return _max_pool(what)
    if isinstance(what, kinds.AvgPool):
        return nn.AdaptiveAvgPool2d(1)
    if isinstance(what, joins.Route):
        return RouteModule(what.groups, what.group)
    if isinstance(what, joins.Shortcut):
        return ShortcutModule(what.activation)
    if isinstance(what, kinds.Upsample):
        return UpsampleModule(what)
    if isinstance(what, kinds.Reorg):
        return ReorgModule(what.stride)
    if isinstance(what, kinds.Dropout):
        return nn.Dropout(what.probability, inplace=False)
    if isinstance(what, kinds.Softmax):
        return nn.Softmax(dim=1)
    if isinstance(what, kinds.Crop):
        return CropModule(what)
    return nn.Identity()  # cost and the detection layers compute nothing here


def _convolutional(what: kinds.Convolutional, inputs: int, norm: NormKind, eps: float) -> nn.Sequential:
    conv = nn.Conv2d(inputs, what.filters, what.size, what.stride, what.padding, groups=what.groups, bias=not what.norm)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # Darknet: N(0, 2 / (k k c))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parts: list[nn.Module | None] = [conv, make_norm(norm, what.filters, eps) if what.norm else None]
    return nn.Sequential(*(p for p in (*parts, activation(what.activation)) if p is not None))


def activation(name: str) -> nn.Module | None:
    """Darknet's activation of that name; none for ``linear``."""
    activations: dict[str, nn.Module | None] = {
        "linear": None,
        "leaky": nn.LeakyReLU(0.1, inplace=True),
        "relu": nn.ReLU(inplace=True),
        "relu6": nn.ReLU6(inplace=True),
        "logistic": nn.Sigmoid(),
        "mish": nn.Mish(),
        "swish": nn.SiLU(),
        "tanh": nn.Tanh(),
        "elu": nn.ELU(),
        "selu": nn.SELU(),
    }
    return activations[name]


def _max_pool(what: kinds.MaxPool) -> nn.Module:
    """Darknet pads size - 1 pixels in total, the smaller half left and above, with -infinity."""
    before = what.padding // 2
    after = what.padding - before
    if before == after:
        return nn.MaxPool2d(what.size, what.stride, before)
    if (what.size, what.stride, what.padding) == (2, 2, 1):  # the pixel right and below only counts for odd sides
        return nn.MaxPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(
        nn.ConstantPad2d((before, after, before, after), -math.inf), nn.MaxPool2d(what.size, what.stride)
    )


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
    def __init__(self, name: str) -> None:
        super().__init__()
        self.activation = activation(name)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        y = x + earlier
        return y if self.activation is None else self.activation(y)


class UpsampleModule(nn.Module):
    def __init__(self, what: kinds.Upsample) -> None:
        super().__init__()
        self.stride, self.scale = float(what.stride), what.scale

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return y if self.scale == 1 else y * self.scale


class ReorgModule(nn.Module):
    """Pixels into channels, in Darknet's order: :func:`foveal.parts.layers.darknet.reorg`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return reorg(x, self.stride)


class CropModule(nn.Module):
    """The middle of the image, its values moved from 0..1 to -1..1 if ``adjust``."""

    def __init__(self, what: kinds.Crop) -> None:
        super().__init__()
        self.height, self.width, self.adjust = what.height, what.width, what.adjust

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        y = x[:, :, top : top + self.height, left : left + self.width]
        return 2 * y - 1 if self.adjust else y
