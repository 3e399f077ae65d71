"""SSD's neck: the backbone's maps, and coarser extra maps that are each computed from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import FovealError, UsageError, at_least
from ...weights.open import read_state
from ..layers.norms import NormKind, fuse_frozen, init_xavier, norm_conv
from ..layers.residual import Residual
from .dssd import Deconvolution, Gap
from .fpn import Neck


@dataclass(frozen=True)
class L2Norm:
    """L2 normalization of the channels at every location, then a learned factor for each channel.

    ParseNet (Liu et al. 2015, section 3.3); SSD uses it on conv4_3, whose values are larger than the others'.
    """

    scale: float = 20.0  # initial factors
    eps: float = 1e-10
    floor: bool = False  # eps is the smallest norm (torchvision: 1e-12) instead of a summand under the root

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise UsageError(f"L2Norm: eps is {self.eps}, expected a number above 0, which prevents divisions by zero")

    def build(self, channels: int) -> Normalized:
        return Normalized(self, channels)


class Normalized(nn.Module):
    """(B, c, H, W) -> the same shape and number format; computed in float32."""

    def __init__(self, spec: L2Norm, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), spec.scale))
        self.eps, self.floor = spec.eps, spec.floor

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        if self.floor:
            length: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp(min=self.eps)
        else:
            length = (wide.square().sum(1, keepdim=True) + self.eps).sqrt()
        return (wide / length * self.weight.float()[:, None, None]).to(x.dtype)


@dataclass(frozen=True)
class ReducedFC:
    """VGG's fc6 and fc7 as convolutions: a 3 x 3 pooling of stride 1, fc6 as dilated 3 x 3, fc7 as 1 x 1.

    With ``subsample`` they are initialized from the fully connected layers of the backbone's weights file: every fourth
    of 4,096 neurons, every third of fc6's 7 x 7 locations (SSD, section 3.1; Chen et al. 2015). Without, they are
    random, as in torchvision.
    """

    width: int = 1024
    dilation: int = 6  # of fc6
    subsample: bool = True  # initialize from a subsample of fc6 and fc7 of a VGG's weights file

    def __post_init__(self) -> None:
        at_least(self, 1, "width", "dilation")

    def build(self, channels: int) -> Trunk:
        return Trunk(self, channels)


class Trunk(nn.Module):
    """conv5_3 (B, c, H, W) -> fc7 (B, width, H, W)."""

    def __init__(self, spec: ReducedFC, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.fc6 = nn.Conv2d(channels, spec.width, 3, padding=spec.dilation, dilation=spec.dilation)
        self.fc7 = nn.Conv2d(spec.width, spec.width, 1)
        init_xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 3, 1, 1)
        return self.fc7(self.fc6(x).relu_()).relu_()  # type: ignore[no-any-return]

    @torch.no_grad()
    def load_pretrained(self, path: str | Path) -> None:
        """Reads ``classifier.0`` and ``classifier.3`` of a VGG's file. Raises :class:`FovealError` where they lack."""
        if not self.spec.subsample:
            return
        names = [f"classifier.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")]
        channels, width = self.fc6.in_channels, self.spec.width
        shapes = [(4096, channels * 49), (4096,), (4096, 4096), (4096,)]
        state = read_state(path, lambda state: all(name in state for name in names))
        layers = [state.get(name) for name in names]
        if any(t is None or t.shape != s or not t.isfinite().all() for t, s in zip(layers, shapes, strict=True)):
            raise FovealError(
                f"has no fully connected layers of a VGG to subsample ({', '.join(names)})",
                path=path,
                fix="Give VGG's whole ImageNet file, or neck.fc.subsample=False for random weights",
            )
        fc6, bias6, fc7, bias7 = (t for t in layers if t is not None)
        neurons = torch.arange(width) * 4096 // width  # every fourth of 4,096 for 1,024
        self.fc6.weight.copy_(fc6[neurons].view(width, channels, 7, 7)[:, :, ::3, ::3])
        self.fc6.bias.copy_(bias6[neurons])  # type: ignore[union-attr]
        self.fc7.weight.copy_(fc7[neurons][:, neurons, None, None])
        self.fc7.bias.copy_(bias7[neurons])  # type: ignore[union-attr]


@dataclass(frozen=True)
class Extra:
    """One extra map: a 1 x 1 convolution to ``middle`` channels, then one that makes the map smaller."""

    middle: int
    channels: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "middle", "channels", "kernel", "stride")
        at_least(self, 0, "padding")

    def side(self, side: int) -> int:
        """The side of its output for a map of this side; below 1 where the map is too small."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Extras:
    """SSD's neck (figure 2 of the paper): the maps of the backbone, then a coarser one for each of ``maps``.

    ``block``: "plain" is two convolutions with ReLU; "light" has a depthwise one between two 1 x 1 and ReLU6 (SSDLite;
    MobileNetV2, section 6.2); "residual" a bottleneck with a shortcut (SSD321, SSD513). Any backbone fits.
    """

    maps: tuple[Extra, ...]
    block: Literal["plain", "light", "residual"] = "plain"
    norm: NormKind | None = None  # after every convolution of the extra maps
    eps: float | None = None  # of the norms; None: 1e-5
    rescale: L2Norm | None = None  # of the finest map
    fc: ReducedFC | None = None  # on the backbone's last map: VGG
    deconv: Deconvolution | None = None  # the top-down path from coarse to fine: DSSD

    def __post_init__(self) -> None:
        if self.block not in ("plain", "light", "residual"):
            raise UsageError(f"Extras: block is {self.block!r}, not one of plain, light, residual")

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> ExtraMaps:
        """For a backbone of these channels and strides, finest level first."""
        return ExtraMaps(self, channels, strides)


class ExtraMaps(Neck):
    """Maps (B, channels[i], h, w), finest first -> as many maps, and the extra ones."""

    def __init__(self, spec: Extras, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.spec = spec
        self.rescale = spec.rescale.build(channels[0]) if spec.rescale else None
        self.fc = spec.fc.build(channels[-1]) if spec.fc else None
        widths = [*channels[:-1], spec.fc.width if spec.fc else channels[-1]]
        steps = list(strides)
        self.extras = nn.ModuleList()
        for extra in spec.maps:
            self.extras.append(_block(spec, widths[-1], extra))
            widths.append(extra.channels)
            steps.append(steps[-1] * extra.stride)
        gaps = [Gap.between(a, b) for a, b in pairwise(strides)]
        gaps += [Gap.back(e.kernel, e.stride, e.padding) for e in spec.maps]
        self.deconv = spec.deconv.build(widths, gaps) if spec.deconv else None
        self.channels = tuple(widths) if self.deconv is None else self.deconv.channels
        self.strides = tuple(steps)
        fuse_frozen(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Raises :class:`UsageError` where a map is too small for the next."""
        self.sides(int(features[-1].shape[-2]), int(features[-1].shape[-1]))
        maps = list(features)
        if self.rescale is not None:
            maps[0] = self.rescale(maps[0])
        if self.fc is not None:
            maps[-1] = self.fc(features[-1])
        for block in self.extras:
            maps.append(block(maps[-1]))
        return maps if self.deconv is None else self.deconv(maps)

    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the extra maps where the backbone's last is ``height`` x ``width``.

        Raises :class:`UsageError` where one is too small for the next.
        """
        maps, sides = [], (height, width)
        for i, extra in enumerate(self.spec.maps):
            after = extra.side(sides[0]), extra.side(sides[1])
            if min(after) < 1:
                raise UsageError(
                    f"the images are too small for this neck: extra map {i + 1} of {len(self.spec.maps)} has a "
                    f"kernel of {extra.kernel}, and the map before it is {sides[0]} x {sides[1]}",
                    fix="Make the input larger, or remove the last of neck.maps (and of the priors)",
                )
            sides = after
            maps.append(sides)
        return maps


def _block(spec: Extras, inputs: int, extra: Extra) -> nn.Module:
    if spec.block == "residual":
        return Residual(
            inputs, (extra.middle, extra.middle, extra.channels), (1, extra.kernel, 1), extra.stride, extra.padding,
            spec.norm, spec.eps,
        )  # fmt: skip
    kernel, stride, padding = extra.kernel, extra.stride, extra.padding
    conv = partial(norm_conv, norm=spec.norm, eps=spec.eps)
    if spec.block == "plain":
        last = conv(extra.middle, extra.channels, kernel, stride=stride, padding=padding)
        block = nn.Sequential(*conv(inputs, extra.middle, 1), *last)
        init_xavier(block)
        return block
    conv = partial(conv, act=nn.ReLU6)
    block = nn.Sequential(
        conv(inputs, extra.middle, 1),
        conv(extra.middle, extra.middle, kernel, stride=stride, padding=padding, groups=extra.middle),
        conv(extra.middle, extra.channels, 1),
    )
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.03)  # MobileNetV3, as torchvision has it
    return block


def map_sides(backbone: nn.Module, height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of a backbone's maps for a canvas: on the meta device, where nothing is computed.

    Raises :class:`UsageError` where the canvas is too small for the backbone itself.
    """
    state = {k: v.to("meta") for k, v in (*backbone.named_parameters(), *backbone.named_buffers())}
    pixels = torch.empty(1, 3, height, width, device="meta")
    try:
        maps = torch.func.functional_call(backbone.eval(), state, (pixels,))
    except RuntimeError as error:
        raise UsageError(f"images of {width} x {height} are too small for the backbone") from error
    finally:
        backbone.train()
    return [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
