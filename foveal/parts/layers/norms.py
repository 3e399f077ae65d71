"""Normalization layers and convolution blocks, and the two ways to make batch norm free: fusing and folding.

A frozen batch norm is a constant scale and shift per channel, so it can be moved into the weights of the convolution
before it: ``s * conv(x, w) + t = conv(x, s * w) + t``. :func:`fuse_frozen` does that for training (the same function,
the same gradient of ``w``, no pass over the activations; measured 1.1-1.25x), :func:`fold_norms` for inference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from .fast_layers import FastConv, conv_shape, is_same

NormKind = Literal["frozen", "batch", "group"]


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are constants (Detectron's affine channel).

    (B, c, H, W) -> the same shape. All four vectors are buffers under torchvision's names, so nothing here is trained
    and any batch-norm checkpoint loads. ``fused``: the convolution before it includes it already; ``apart``: it never
    does, as its input is not that convolution's output.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.fused, self.apart = eps, False, False
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # a counter of trained batch norm; constants have none
        super()._load_from_state_dict(state_dict, prefix, *args)

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (c,), from the buffers as they are now."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return x
        scale, shift = (v.to(x.dtype)[:, None, None] for v in self.scale_shift())
        return x * scale + shift

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, fused={self.fused}"


class FrozenBatchNormAct(FrozenBatchNorm):
    """A frozen batch norm with the activation after it, as one layer (timm's ``BatchNormAct2d``): the same names."""

    def __init__(self, channels: int, eps: float, act: nn.Module) -> None:
        super().__init__(channels, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(super().forward(x))
        return out


class LoneBatchNorm(nn.BatchNorm2d):
    """A copy of a batch norm whose input is not the output of the convolution before it, which never includes it."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())


class FrozenConv(FastConv):
    """A convolution whose weights include the frozen batch norm after it; its own weight is still trained.

    The norm stays in the module tree (so that a checkpoint's keys do not change); this is only a reference. The product
    is computed at every call, in the parameters' precision, so that it always follows the loaded state.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        super().__init__(conv, is_same(conv))
        norm.fused = True
        self._norm = (norm,)  # a tuple hides it from nn.Module's registry

    def scaled(self) -> tuple[Tensor, Tensor]:
        """The weight and bias of the one convolution that equals both layers."""
        scale, shift = self._norm[0].scale_shift()
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift


def make_norm(kind: NormKind | None, channels: int, eps: float | None = None) -> nn.Module | None:
    """The layer of that kind for ``channels``; ``None`` for None.

    Group norm has 32 groups (Wu and He 2018), fewer where the channels are not a multiple of 32.
    """
    eps = 1e-5 if eps is None else eps
    if kind is None:
        return None
    if kind == "frozen":
        return FrozenBatchNorm(channels, eps)
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps)
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels, eps)
    raise UsageError(f"norm {kind!r} is unknown", fix="Use 'frozen', 'batch', 'group' or None")


def conv_block(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    norm: NormKind | None = None,
    relu: bool = True,
    bias: bool | None = None,
) -> nn.Sequential:
    """Convolution, norm, in-place ReLU: keys ``0``, ``1`` as in torchvision. ``bias=None``: unless a norm follows."""
    biased = norm is None if bias is None else bias
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=biased)]
    made = make_norm(norm, outputs)
    if made is not None:
        layers.append(made)
    if relu:
        layers.append(nn.ReLU(inplace=True))
    block = nn.Sequential(*layers)
    fuse_frozen(block)
    return block


def norm_conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    norm: NormKind | None = None,
    eps: float | None = None,
    act: Callable[..., nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution of any shape, its norm and an in-place activation; biased where no norm follows.

    ``padding=None`` keeps the size at stride 1. Frozen norms are not fused here: :func:`fuse_frozen` the whole.
    """
    padded = kernel // 2 if padding is None else padding
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padded, groups=groups, bias=norm is None)]
    made = make_norm(norm, outputs, eps)
    if made is not None:
        layers.append(made)
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def init_xavier(module: nn.Module) -> None:
    """Xavier (Glorot and Bengio) uniform weights and zero biases for every convolution, transposed ones too (SSD)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def replace_norms(module: nn.Module, kind: NormKind, eps: float | None = None) -> None:
    """Replaces every ``BatchNorm2d`` below ``module`` by that kind, in place.

    ``eps=None`` uses each layer's own. Statistics and affine values are copied, except to a group norm.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.BatchNorm2d:  # a subclass may do more, timm's an activation
                continue
            if kind == "batch":
                child.eps = child.eps if eps is None else eps
                continue
            new = cast(nn.Module, make_norm(kind, child.num_features, child.eps if eps is None else eps))
            if kind == "frozen":
                new.load_state_dict(child.state_dict())
            setattr(parent, name, new)


def fuse_frozen(module: nn.Module) -> None:
    """Moves every frozen batch norm that directly follows a convolution into its weights, in place; keys stay."""
    for parent, name, conv, _, norm in list(conv_norm_pairs(module)):
        if isinstance(norm, FrozenBatchNorm) and not norm.fused:
            setattr(parent, name, FrozenConv(conv, norm))


@torch.no_grad()
def fold_norms(module: nn.Module) -> nn.Module:
    """A copy for inference only: norms folded into biased convolutions, channels-last, evaluation mode, no gradients.

    The outputs are those of ``module.eval()`` up to rounding. The copy does not follow later training of ``module``.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    for parent, name, conv, norm_name, norm in list(conv_norm_pairs(copied)):
        scale, shift = _constants(norm)
        folded = nn.Conv2d(**conv_shape(conv), bias=True, device="meta")
        bias = shift if conv.bias is None else shift + conv.bias * scale
        folded.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        folded.bias = nn.Parameter(bias, requires_grad=False)
        setattr(parent, name, (FastConv(folded, same=True) if is_same(conv) else folded).eval())
        setattr(parent, norm_name, norm.act if isinstance(norm, FrozenBatchNormAct) else nn.Identity())
    return copied.to(memory_format=torch.channels_last)


def linear_as_conv(x: Tensor, layer: nn.Linear) -> Tensor:
    """``layer(x.flatten(1))`` for RoIs (R, c, h, w) -> (R, out), computed as a convolution where that is faster.

    In fp32 inference on a CPU with AVX-512 that runs at twice the rate of the matrix product (oneDNN instead of
    MKL on AMD) and channels-last RoIs need no copy. With AVX2 alone it is 17 times slower, so there it is a product.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if plain or torch.is_grad_enabled() or not _has_avx512():
        return cast(Tensor, layer(x.flatten(1)))
    return F.conv2d(x, layer.weight.view(-1, *x.shape[1:]), layer.bias).flatten(1)


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def conv_norm_pairs(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d, str, nn.Module]]:
    """Every convolution whose next sibling is a batch norm of its width: parent, name, conv, norm's name, norm."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            is_norm = type(norm) in (nn.BatchNorm2d, FrozenBatchNorm, FrozenBatchNormAct)  # a subclass may do more
            if isinstance(norm, FrozenBatchNorm) and norm.apart:
                continue
            is_conv = type(conv) in (nn.Conv2d, FastConv, FrozenConv)
            if isinstance(conv, nn.Conv2d) and is_conv and is_norm and norm.weight.shape[0] == conv.out_channels:  # type: ignore[index]
                yield parent, name, conv, norm_name, norm


def _constants(norm: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(norm, FrozenBatchNorm):
        return norm.scale_shift()
    norm = cast(nn.BatchNorm2d, norm)
    scale = norm.weight * (cast(Tensor, norm.running_var) + norm.eps).rsqrt()
    return scale, norm.bias - cast(Tensor, norm.running_mean) * scale
