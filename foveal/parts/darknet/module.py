"""A Darknet network as a PyTorch module, layer by layer, built from a cfg and run as its graph.

The state's keys are ``layers.<index>.0`` (convolution) and ``layers.<index>.1`` (its batch norm), with the cfg's index
(from 0, without ``[net]``). Norms directly follow their convolution, so that ``fold_norms`` finds them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import cast

from torch import Tensor, nn

from ..layers.local import LocallyConnected
from ..layers.norms import NormKind, make_norm
from . import layers as kinds
from . import operations as ops
from . import pools
from . import routes as joins
from .activations import activation
from .cfg_graph import CfgLayer, Net
from .convolution import SharedConvolution, convolutional


class DarknetNetwork(nn.Module):
    """Pixels (B, 3, H, W), RGB in 0..1 -> the outputs of the layers ``returns``, in that order.

    Layers after the last of them are not built. Maps are (B, c, h, w), those of connected layers (B, c, 1, 1). H and W
    may differ from the cfg's where no layer fixes them (connected, local). ``channels`` and ``strides`` are those of
    the returned maps. ``raw``: convolutions without their activation, whose outputs are logits.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(
        self,
        net: Net,
        returns: Sequence[int],
        *,
        norm: NormKind = "batch",
        eps: float = 1e-5,
        raw: Collection[int] = (),
    ) -> None:
        super().__init__()
        used = net.layers[: max(returns) + 1]
        self.returns = tuple(returns)
        self.channels = tuple(net.layers[k].shape[0] for k in returns)
        self.strides = tuple(net.stride(k) for k in returns)
        self.layers = nn.ModuleList()
        for layer in used:
            inputs, what = net.shape(layer.sources[0]), layer.what
            if not isinstance(what, kinds.Convolutional):
                self.layers.append(_module(layer, inputs, norm, eps))
            elif what.shared is None:
                self.layers.append(convolutional(what, inputs[0], norm, eps, raw=layer.index in raw))
            else:
                source = cast(nn.Sequential, self.layers[what.shared])
                self.layers.append(SharedConvolution(what, source, raw=layer.index in raw))
        self._cut = {layer.index for layer in used if layer.section.flag("onlyforward")}
        self._sources = tuple(layer.sources for layer in used)
        self._lasts = _last_uses(self._sources, self.returns)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = {-1: pixels}
        for index, (layer, sources) in enumerate(zip(self.layers, self._sources, strict=True)):
            if index in self._lasts:  # otherwise its output is unused: a detection layer, or a removed branch
                y = layer(*(maps[k] for k in sources))
                maps[index] = y.detach() if index in self._cut else y
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
    """The module of a layer that is no convolution; ``inputs``: the shape of its first input."""
    what = layer.what
    match what:
        case kinds.Connected():
            return ops.ConnectedModule(what, math.prod(inputs), norm, eps)
        case kinds.Local():
            filters, *sides = layer.shape
            made = activation(what.activation)
            return LocallyConnected(inputs[0], filters, sides, what.size, what.stride, int(what.pad), made)
        case pools.MaxPool():
            return ops.max_pool(what)
        case pools.LocalAvgPool():
            return ops.LocalMean(what)
        case pools.AvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case joins.Route():
            return ops.RouteModule(what.groups, what.group)
        case joins.Shortcut():
            return ops.ShortcutModule(what, inputs[0])
        case joins.Product():
            return ops.ProductModule(what.activation)
        case kinds.Upsample():
            return ops.UpsampleModule(what)
        case kinds.Reorg():
            return ops.ReorgModule(what.stride)
        case kinds.Reorg3d():
            return ops.Reorg3dModule(what)
        case kinds.BatchNorm():
            return make_norm(norm, inputs[0], eps) or nn.Identity()
        case kinds.Activation():
            return activation(what.activation, inplace=False) or nn.Identity()
        case kinds.Dropout():
            return nn.Dropout(what.probability, inplace=False)
        case kinds.Softmax():
            return ops.SoftmaxModule(what.temperature)
        case kinds.Crop():
            return ops.CropModule(what)
        case _:
            return nn.Identity()  # a loss or a detection layer computes nothing here
