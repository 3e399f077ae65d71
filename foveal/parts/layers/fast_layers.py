"""Layers that a CPU with AVX-512 computes by the fastest kernel that it has for them, with the same result.

**1 x 1.** With one thread and fewer than 16 images PyTorch does not give them to oneDNN but to a matrix product of its
own, unless they are strided or dilated; for one cell a dilation changes nothing else.

**Depthwise.** oneDNN has a fast kernel for the weight gradient only up to three columns; for five it takes a general
one. Here the columns are divided over views of the same memory: a map (B, c, H, W) in channels-last is also one of
(B, 2 c, H, W / 2), in which one column to the side is two columns. In bf16 the input gradient of a strided one is slow
too; it is computed in fp32. And an uneven padding (TensorFlow's, with stride 2) is a kernel with a row and a column of
zeros more, so that no padded copy is made.

**Activations.** ReLU6 in place copies its input in training, although its gradient follows from the output; SiLU and
hard swish do so too and are computed out of place. Group norm's gradient is slow in bf16; it is computed in fp32.

Measured with torch 2.14.1 on an AMD EPYC, one thread, 4 images of 320 x 448, all layers of EfficientNet-Lite0, forward
and backward: 1 x 1 in fp32 158 -> 104 ms (bf16 43 ms either way), depthwise in fp32 137 -> 88 ms, in bf16 369 -> 77 ms.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MOST = 3  # columns of a kernel whose weight gradient is fast


class FastConv(nn.Conv2d):
    """Another convolution by the fastest kernels: the same parameters, under the same names.

    ``same``: padded as in TensorFlow, so that the output is ceil(size / stride) cells; where that is uneven, below and
    on the right.
    """

    def __init__(self, conv: nn.Conv2d, same: bool = False) -> None:
        super().__init__(**conv_shape(conv), bias=conv.bias is not None, device="meta")
        self.weight, self.bias, self.same = conv.weight, conv.bias, same
        self._depthwise = is_depthwise(self)

    def scaled(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias that it convolves with."""
        return self.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scaled()
        above, left, below, right = self._margins(x) if self.same else (0, 0, 0, 0)
        if self._depthwise and (above, below) == (left, right) and x.device.type == "cpu" and has_fast_kernels():
            padding = left if self.same else cast(int, self.padding[0])
            geometry = Geometry(cast(tuple[int, int], self.stride), padding, right > left)
            x, weight, bias = x.to(_dtype(x)), weight.to(_dtype(x)), None if bias is None else bias.to(_dtype(x))
            if applies(x, weight, geometry):
                return depthwise(x, weight, bias, geometry)
        if not self.same:
            out: Tensor = self._conv_forward(x, weight, bias)
            return out
        if (above, left) != (below, right):
            x, above, left = F.pad(x, (left, right, above, below)), 0, 0
        return F.conv2d(x, weight, bias, self.stride, (above, left), self.dilation, self.groups)

    def _margins(self, x: Tensor) -> tuple[int, int, int, int]:
        """TensorFlow's padding above, left, below and right of ``x``."""
        strides, sides = self.stride, [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        total = [
            max((-(-size // stride) - 1) * stride + side - size, 0)
            for size, stride, side in zip(x.shape[2:], strides, sides, strict=True)
        ]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


class FastGroupNorm(nn.GroupNorm):
    """Another group norm with the same parameters, in fp32 where the gradient of a narrower format is slow."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.requires_grad and torch.is_grad_enabled()
        return super().forward(x.float()).to(x.dtype) if slow else super().forward(x)


class FastReLU6(nn.Module):
    """ReLU6 in place, without a copy for the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _ReLU6.apply(x) if x.requires_grad and torch.is_grad_enabled() else F.relu6(x, inplace=True)
        return out


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors  # 0 < x < 6 where 0 < out < 6
        (grad,) = grads
        result: Tensor = torch.ops.aten.hardtanh_backward(grad, out, 0.0, 6.0)
        return result


def use_fast_layers(module: nn.Module, *, narrow: bool = False) -> None:
    """Gives the layers below ``module`` their faster form on a CPU, in place; parameters and keys stay.

    ``narrow``: for training in bf16.
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            fast: nn.Module | None = None
            if isinstance(layer, nn.Conv2d) and _is_cell(layer):
                layer.dilation = (2, 2) if has_fast_kernels() else layer.dilation
            elif type(layer) is nn.Conv2d and is_depthwise(layer) and (layer.kernel_size == (5, 5) or narrow):
                fast = FastConv(layer)
            elif type(layer) is nn.GroupNorm and narrow:
                fast = FastGroupNorm(layer)
            elif type(layer) is nn.ReLU6 and layer.inplace:
                fast = FastReLU6()
            elif type(layer) in (nn.SiLU, nn.Hardswish, nn.Hardsigmoid):
                layer.inplace = layer.inplace and not layer.training  # type: ignore[assignment]
            if fast is not None:
                setattr(parent, name, fast.train(layer.training))


def _is_cell(conv: nn.Conv2d) -> bool:
    """Whether it convolves each cell by itself."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.groups, conv.padding_mode)
    return shape == ((1, 1), (1, 1), (0, 0), 1, "zeros")


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it has one kernel a channel, undilated, padded with as many zeros on each side."""
    if conv.padding_mode != "zeros" or conv.dilation != (1, 1) or len(set(conv.padding)) != 1:
        return False
    return conv.groups == conv.in_channels == conv.out_channels


def is_same(conv: nn.Conv2d) -> bool:
    """Whether it is padded as in TensorFlow."""
    return isinstance(conv, FastConv) and conv.same


def conv_shape(conv: nn.Conv2d) -> dict[str, Any]:
    """The arguments that make a convolution of this shape, without its bias."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names}


def _dtype(x: Tensor) -> torch.dtype:
    """In which a convolution of ``x`` is computed on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


@cache
def has_fast_kernels() -> bool:
    """Whether this CPU is of the kind that the kernels were measured on: AVX-512, with oneDNN."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch._C._has_mkldnn


# ---------------------------------------------------------------------------------------------- depthwise
class Geometry(NamedTuple):
    """Strides, and the padding above and on the left; below and on the right as much, or one more where ``uneven``."""

    stride: tuple[int, int]
    padding: int
    uneven: bool


def applies(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether :func:`depthwise` computes this: channels-last maps of an even width, padded to ceil(size / stride)."""
    rows, columns = weight.shape[2:]
    if (rows, columns) not in ((3, 3), (5, 5)) or geometry.stride not in ((1, 1), (2, 2)):
        return False
    if geometry.padding != (rows - 3 if geometry.uneven else rows) // 2 or x.dtype not in (
        torch.float32,
        torch.bfloat16,
    ):
        return False
    sized = x.dim() == 4 and len(x) > 0 and x.shape[3] % 2 == 0 and x.shape[3] > 2 and x.shape[2] > 2
    return sized and x.is_contiguous(memory_format=torch.channels_last)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``conv2d`` of maps (B, c, H, W) with one kernel a channel: weight (c, 1, k, k)."""
    if torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad):
        out: Tensor = _Depthwise.apply(x, weight, bias, geometry)
        return out
    return _forward(x, weight, bias, geometry)


def _extended(weight: Tensor, geometry: Geometry) -> tuple[Tensor, int]:
    """The kernel and the even padding of the same convolution."""
    if not geometry.uneven:
        return weight, geometry.padding
    return F.pad(weight, (1, 0, 1, 0)), geometry.padding + 1


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    kernel, padding = _extended(weight, geometry)
    return F.conv2d(x, kernel, bias, geometry.stride, padding, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _forward(x, weight, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        grad = grad.contiguous(memory_format=torch.channels_last)
        by_x, by_weight, by_bias, _ = ctx.needs_input_grad
        return (
            _input_gradient(grad, x, weight, ctx.geometry) if by_x else None,
            _weight_gradient(grad, x, weight, ctx.geometry) if by_weight else None,
            grad.sum((0, 2, 3)) if by_bias else None,
            None,
        )


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    kernel, padding = _extended(weight, geometry)
    if geometry.stride == (1, 1) or x.dtype == torch.float32:
        return _backward(grad, x, kernel, geometry.stride, (padding, padding), of_input=True)
    shape = torch.empty_like(x, dtype=torch.float32)  # the values of x do not matter
    exact = _backward(grad.float(), shape, kernel.float(), geometry.stride, (padding, padding), of_input=True)
    return exact.to(x.dtype)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """(c, 1, k, k): the sum of x (B, c, H, W) times ``grad`` (B, c, h, w) for every offset of the kernel."""
    (stride, _), left, uneven = geometry
    channels, _, rows, side = weight.shape
    rows, padding = rows + uneven, left + uneven
    if stride == 1 and side <= _MOST:
        return _backward(grad, x, weight, (1, 1), (left, left))
    pairs = _paired(x)
    if stride == 1:
        # columns -1, 0, 1 from the map as it is, and -2, 0, 2 from that of pairs
        near = _backward(grad, x, weight.new_empty(channels, 1, rows, 3), (1, 1), (padding, left - 1))
        far = _backward(_paired(grad), pairs, weight.new_empty(2 * channels, 1, rows, 3), (1, 1), (padding, 1))
        far = far.view(2, channels, 1, rows, 3).sum(0)
        return torch.cat([far[..., :1], near, far[..., 2:]], 3)
    # column i of the kernel meets pixel 2 j + i - left: the pair j + d, of it the first or the second
    grads = torch.cat([grad, grad], 1).contiguous(memory_format=torch.channels_last)
    found = _backward(grads, pairs, weight.new_empty(2 * channels, 1, rows, 3), (2, 1), (padding, 1))
    columns = found.view(2, channels, 1, rows, 3).permute(1, 2, 3, 4, 0).flatten(3)  # pixels -2 .. 3 of 2 j
    return columns[..., int(uneven) :, 2 - left : 2 - left + side]


def _paired(x: Tensor) -> Tensor:
    """(B, c, H, W), channels-last, as (B, 2 c, H, W / 2): the same memory."""
    count, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(count, height, width // 2, 2 * channels).permute(0, 3, 1, 2)


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    of_input: bool = False,
) -> Tensor:
    """PyTorch's gradient of a depthwise convolution: of the weight, whose values it does not use, or ``of_input``."""
    strides, sides = list(stride), list(padding)
    results = torch.ops.aten.convolution_backward(
        grad, x, weight, None, strides, sides, [1, 1], False, [0, 0], len(weight), [of_input, not of_input, False]
    )
    result: Tensor = results[0 if of_input else 1]
    return result
