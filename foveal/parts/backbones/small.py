"""A small residual network that trains from scratch in minutes, without pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ...errors import UsageError
from .base import BackboneSpec

_LEVELS = (2, 3, 4, 5)


@dataclass(frozen=True)
class SmallResNet(BackboneSpec):
    """Residual blocks, batch norm throughout: 0.26 G multiply-adds at 256 x 256, ResNet-18 has 2.4."""

    widths: tuple[int, ...] = (32, 64, 128, 256)  # channels at stride 4, 8, 16, ...
    blocks: tuple[int, ...] | None = None  # residual blocks of each stage; None: one
    weights: str | None = None  # always None: there are no published ones

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise UsageError(f"SmallResNet: widths are {self.widths}, expected the channels of at least one stage")
        if self.blocks is not None and (len(self.blocks) != len(self.widths) or min(self.blocks) < 1):
            raise UsageError(f"SmallResNet: blocks are {self.blocks}, expected at least 1 for each of the widths")
        if self.weights:
            raise UsageError("SmallResNet has no pretrained weights", fix="Use Torchvision(...) with a weights file")

    def build(self, levels: Sequence[int] = _LEVELS) -> Stages:
        """The module, with random weights; ``levels`` it does not have are omitted. Raises ``UsageError`` for none."""
        return Stages(self.widths, self.blocks or (1,) * len(self.widths), levels)

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Does nothing, as there are no pretrained weights."""


class Stages(nn.Module):
    """Pixels (B, 3, H, W) -> a map (B, c, H / stride, W / stride) for each returned level (stride 2^level)."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], levels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, widths[0], 2), nn.ReLU(inplace=True))
        self.returned = tuple(k - 2 for k in levels if 0 <= k - 2 < len(widths))
        if not self.returned:
            raise UsageError(f"SmallResNet with {len(widths)} stages has none of the levels {tuple(levels)}")
        needed = widths[: max(self.returned) + 1]
        self.stages = nn.ModuleList(Block(i, o) for i, o in zip((needed[0], *needed), needed, strict=False))
        self.more = nn.ModuleList(
            nn.Sequential(*(Block(width, width, stride=1) for _ in range(count - 1)))
            for width, count in zip(needed, blocks, strict=False)
        )
        self.channels = tuple(widths[i] for i in self.returned)
        self.strides = tuple(2 ** (i + 2) for i in self.returned)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x, maps = self.stem(pixels), []
        for stage, more in zip(self.stages, self.more, strict=True):
            x = more(stage(x))
            maps.append(x)
        return [maps[i] for i in self.returned]


class Block(nn.Module):
    """ReLU(F(x) + shortcut(x)), at half the resolution unless ``stride`` is 1 (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 2) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, stride), _conv(outputs, outputs, 1)
        self.shortcut = nn.Identity() if stride == 1 else _conv(inputs, outputs, stride, side=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu()) + self.shortcut(x)
        return y.relu()


def _conv(inputs: int, outputs: int, stride: int, side: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
