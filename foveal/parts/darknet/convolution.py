"""The convolutions of a Darknet cfg as modules: plain, binary, blurred (antialiasing), with shared parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.narrow_maps import HALF, is_narrow
from ..layers.norms import NormKind, make_norm
from .activations import activation
from .layers import Convolutional


def convolutional(what: Convolutional, inputs: int, norm: NormKind, eps: float, *, raw: bool = False) -> nn.Sequential:
    """Convolution, norm, activation, blur, as far as the cfg has them; ``raw``: without the activation."""
    strides = (1, 1) if what.antialiasing else what.strides
    padding, biased = what.padding * what.dilation, not what.norm
    conv: nn.Conv2d | BinaryConv
    conv = nn.Conv2d(inputs, what.filters, what.size, strides, padding, what.dilation, what.groups, biased)
    if what.binary:
        conv = BinaryConv(conv, binary_input=what.binary == "both")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # Darknet: N(0, 2 / (k k c))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parts: list[nn.Module | None] = [conv, make_norm(norm, what.filters, eps) if what.norm else None]
    parts.append(None if raw else activation(what.activation))
    parts.append(Blur(what.antialiasing, what.strides) if what.antialiasing else None)
    return nn.Sequential(*(p for p in parts if p is not None))


class BinaryConv(nn.Module):
    """A convolution whose weights count by their sign alone, times the mean size of their filter's (XNOR-Net).

    With ``binary_input`` the input counts as 1 where it is above 0, else as -1; padding counts as 0. Gradients pass
    the signs unchanged, those of the input where it is within -1 to 1. It is no ``nn.Conv2d``: a norm behind it cannot
    be folded into weights of which only the sign counts.
    """

    def __init__(self, conv: nn.Conv2d, *, binary_input: bool) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.binary_input = binary_input

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        scale = weight.abs().mean((1, 2, 3), keepdim=True)
        weight = weight + (torch.where(weight > 0, scale, -scale) - weight).detach()
        if self.binary_input:
            inside = x.clamp(-1, 1)
            x = inside + (torch.where(x > 0, 1.0, -1.0).to(x.dtype) - inside).detach()
        return _convolved(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SharedConvolution(nn.Module):
    """A convolution with the parameters of an earlier layer, but its own strides, dilation and activation."""

    def __init__(self, what: Convolutional, source: nn.Sequential, *, raw: bool = False) -> None:
        super().__init__()
        self.strides = (1, 1) if what.antialiasing else what.strides
        self.padding, self.dilation, self.groups = what.padding * what.dilation, what.dilation, what.groups
        self.norm = what.norm
        self.activation = None if raw else activation(what.activation)
        self.blur = Blur(what.antialiasing, what.strides) if what.antialiasing else None
        self._source = (source,)  # a tuple hides it from nn.Module's registry: its keys are the earlier layer's

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self._source[0][0], self._source[0][1] if self.norm else None
        assert isinstance(conv, nn.Conv2d)
        y = _convolved(x, conv.weight, conv.bias, self.strides, self.padding, self.dilation, self.groups)
        y = y if norm is None else norm(y)
        y = y if self.activation is None else self.activation(y)
        return y if self.blur is None else self.blur(y)


class Blur(nn.Module):
    """``antialiasing``: a fixed filter on each channel, with the strides of the layer: 3 x 3 binomial or 2 x 2 mean."""

    kernel: Tensor

    def __init__(self, kind: int, strides: tuple[int, int]) -> None:
        super().__init__()
        row = torch.ones(2) / 2 if kind == 2 else torch.tensor([1.0, 2.0, 1.0]) / 4
        self.strides, self.padding = strides, 0 if kind == 2 else 1
        self.register_buffer("kernel", row[:, None] * row, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return _convolved(x, weight, None, self.strides, self.padding, 1, channels)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, ...],
    padding: int | str | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
) -> Tensor:
    """A convolution; of narrow maps in fp32 where a CPU may compute them wrongly (see ``narrow_maps``)."""
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if x.device.type == "cpu" and y.dtype in HALF and stride not in (1, (1, 1)) and is_narrow(y):
        with torch.autocast("cpu", enabled=False):
            full = F.conv2d(
                x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, dilation, groups
            )
        return full.to(y.dtype)
    return y
