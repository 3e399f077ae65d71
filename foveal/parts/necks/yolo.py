"""The necks of YOLOv2 (passthrough) and YOLOv3 (upsampling)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..layers.darknet import bottlenecks, leaky_block, pooled_bottlenecks, reorg
from .fpn import Neck


@dataclass(frozen=True)
class Upsampling:
    """YOLOv3's neck: the blocks of each level; then their output, narrowed and upsampled, is concatenated with the next
    finer level.

    ``channels`` and ``depth`` have one entry a level, finest first: the width of its blocks and their number (odd; with
    0 the level is the concatenation itself). The output is narrowed to the next level's width.
    """

    channels: tuple[int, ...] = (128, 256, 512)  # finest level first
    depth: tuple[int, ...] = (5, 5, 5)
    pooled: bool = False  # spatial pyramid pooling at the coarsest level (YOLOv3-spp)

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.depth) or not self.channels:
            raise UsageError("Upsampling: expected channels and depth with one entry for each level")
        if any(d < 0 or (d != 0 and d % 2 == 0) for d in self.depth) or self.depth[-1] == 0:
            raise UsageError(f"Upsampling: depth is {self.depth}, expected odd numbers, or 0 except for the last level")
        if min(self.channels) < 1:
            raise UsageError(f"Upsampling: channels is {self.channels}, expected at least 1 for each level")

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> UpsamplingNeck:
        """For a backbone of these channels and strides, finest level first."""
        return UpsamplingNeck(self, channels, strides)


class UpsamplingNeck(Neck):
    """Maps (B, channels[i], h, w), finest first -> as many maps of the same sizes."""

    def __init__(self, spec: Upsampling, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(channels) != len(spec.channels):
            raise UsageError(f"Upsampling is for {len(spec.channels)} levels, the backbone returns {len(channels)}")
        self.strides = tuple(strides)
        self.work, self.narrow = nn.ModuleList(), nn.ModuleList()
        widths: list[int] = []
        for i in reversed(range(len(channels))):
            inputs = channels[i]
            if widths:
                self.narrow.append(leaky_block(widths[-1], spec.channels[i], 1))
                inputs += spec.channels[i]
            work = bottlenecks(inputs, spec.channels[i], spec.depth[i])
            if spec.pooled and not widths:
                work = pooled_bottlenecks(inputs, spec.channels[i])
            self.work.append(work)
            widths.append(spec.channels[i] if spec.depth[i] else inputs)
        self.channels = tuple(reversed(widths))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        x = self.work[0](features[-1])
        maps = [x]
        for work, narrow, feature in zip(list(self.work)[1:], self.narrow, reversed(features[:-1]), strict=True):
            up = F.interpolate(narrow(x), size=feature.shape[-2:], mode="nearest")
            x = work(torch.cat([up, feature], 1))
            maps.insert(0, x)
        return maps


@dataclass(frozen=True)
class Passthrough:
    """YOLOv2's neck: the finer map, narrowed and folded, concatenated with the coarser one (section 2).

    Two levels whose strides differ by a factor of 2 become one, the coarser. Folding is Darknet's ``reorg`` (see
    :func:`foveal.parts.layers.darknet.reorg`), which is not a plain space-to-depth.
    """

    narrow: int = 64  # channels of the finer map before folding, which multiplies them by four
    channels: int = 1024  # of the blocks on the coarser map
    depth: int = 2  # number of blocks

    def __post_init__(self) -> None:
        if self.narrow < 4 or self.narrow % 4 or self.channels < 1 or self.depth < 0:
            raise UsageError(f"{self}: expected narrow a multiple of 4, channels of at least 1, depth of at least 0")

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> PassthroughNeck:
        """For a backbone of these channels and strides; its last two levels are used."""
        return PassthroughNeck(self, channels, strides)


class PassthroughNeck(Neck):
    """Maps (B, c, 2 h, 2 w) and (B, c', h, w) -> one map (B, 4 narrow + channels, h, w)."""

    def __init__(self, spec: Passthrough, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(channels) < 2 or strides[-1] != 2 * strides[-2]:
            raise UsageError(f"Passthrough: expected two levels whose strides differ by a factor of 2, got {strides}")
        self.fine = leaky_block(channels[-2], spec.narrow, 1)
        widths = [channels[-1], *[spec.channels] * spec.depth]
        self.coarse = nn.Sequential(*(leaky_block(a, b) for a, b in pairwise(widths)))
        self.channels, self.strides = (4 * spec.narrow + widths[-1],), (strides[-1],)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        coarse = self.coarse(features[-1])
        fine = F.interpolate(self.fine(features[-2]), size=[2 * s for s in coarse.shape[-2:]], mode="nearest")
        return [torch.cat([reorg(fine), coarse], 1)]
