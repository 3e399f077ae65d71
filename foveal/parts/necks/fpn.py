"""The role of a neck (feature maps of a backbone -> feature maps for a head), and FPN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..layers.norms import NormKind, conv_block

ExtraLevels = Literal["pool", "p6p7-p5", "p6p7-c5"]


class Neck(nn.Module):
    """Maps [(B, c, h, w), ...], finest first -> maps for a head, whose channels and strides it declares."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Identity:
    """The backbone's maps unchanged."""

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> Levels:
        return Levels(channels, strides, range(len(channels)))


@dataclass(frozen=True)
class SingleLevel:
    """One of the backbone's maps, for detectors without a pyramid."""

    index: int = -1  # of the level; -1: the coarsest

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> Levels:
        if not -len(channels) <= self.index < len(channels):
            raise UsageError(f"SingleLevel: index is {self.index}, but the backbone returns {len(channels)} levels")
        return Levels(channels, strides, [self.index])


class Levels(Neck):
    """Some of the given maps, unchanged, as far as they exist: an :class:`ImagePyramid` may return fewer."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], selected: Sequence[int]) -> None:
        super().__init__()
        self.selected = tuple(selected)
        self.channels = tuple(channels[i] for i in self.selected)
        self.strides = tuple(strides[i] for i in self.selected)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [features[i] for i in self.selected if i < len(features)]


@dataclass(frozen=True)
class FPN:
    """Feature pyramid network (Lin et al. 2017).

    1 x 1 laterals, nearest upsampling to the lateral's size and sum, 3 x 3 output convolutions, no activation.
    """

    channels: int = 256
    extra: ExtraLevels | None = (
        "pool"  # "pool": P6 subsampled from P5; "p6p7-c5" (RetinaNet's paper), "p6p7-p5": convolutions
    )
    norm: NormKind | None = None  # after every convolution, "batch" in torchvision's v2 form of Faster R-CNN
    p7_relu: bool = True  # P7 is computed from the ReLU of P6; MMDetection computes it from P6 itself

    def __post_init__(self) -> None:
        if self.extra not in (None, "pool", "p6p7-p5", "p6p7-c5"):
            raise UsageError(f"extra {self.extra!r} is unknown", fix="Use 'pool', 'p6p7-p5', 'p6p7-c5' or None")

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> Pyramid:
        """For a backbone of these channels and strides, finest level first."""
        return Pyramid(self, channels, strides)


class Pyramid(Neck):
    """Maps (B, channels[i], h, w), finest first -> as many maps (B, ``FPN.channels``, h, w), and the extra ones."""

    def __init__(self, spec: FPN, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        width = spec.channels
        self.inner_blocks = nn.ModuleList(conv_block(c, width, 1, norm=spec.norm, relu=False) for c in channels)
        self.layer_blocks = nn.ModuleList(conv_block(width, width, 3, norm=spec.norm, relu=False) for _ in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _init(module)
        added = 0 if spec.extra is None else 1 if spec.extra == "pool" else 2
        self.extra = spec.extra
        if added == 2:
            self.extra_blocks = P6P7(channels[-1] if spec.extra == "p6p7-c5" else width, width, spec.p7_relu)
        self.channels = (width,) * (len(channels) + added)
        self.strides = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(added)))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        top: Tensor | None = None
        maps: list[Tensor] = []
        levels = zip(self.inner_blocks, self.layer_blocks, features, strict=True)
        for inner, layer, feature in reversed(list(levels)):
            lateral = inner(feature)
            if top is not None:
                lateral = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            top = lateral
            maps.insert(0, layer(lateral))
        if self.extra == "pool":
            maps.append(F.max_pool2d(maps[-1], 1, 2))  # a kernel of 1: plain subsampling, as in Detectron
        elif self.extra is not None:
            maps.extend(self.extra_blocks(features[-1] if self.extra == "p6p7-c5" else maps[-1]))
        return maps


class P6P7(nn.Module):
    """Two coarser levels: a strided 3 x 3 convolution, then another on its ReLU (RetinaNet) or on its plain output."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.p6 = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.p7 = nn.Conv2d(outputs, outputs, 3, 2, 1)
        _init(self.p6)
        _init(self.p7)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6) if self.relu else p6)]


def _init(conv: nn.Conv2d) -> None:
    """Detectron's "Xavier": uniform with variance 1 / fan in."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
