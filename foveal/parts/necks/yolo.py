"""YOLO's own layers: leaky blocks, the necks of YOLOv2 and YOLOv3, the head over cells."""

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
    """YOLOv3's neck: each level is worked on, then narrowed, doubled in size and laid beside the next finer one.

    ``channels`` and ``depth`` have one entry a level, finest first: the width a level is worked on with, and by how
    many blocks (an odd number; 0 leaves the concatenation as it is). A level is narrowed to the next one's width.
    """

    channels: tuple[int, ...] = (128, 256, 512)  # finest level first
    depth: tuple[int, ...] = (5, 5, 5)
    pooled: bool = False  # spatial pyramid pooling at the coarsest level (YOLOv3-spp)

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.depth) or not self.channels:
            raise UsageError("Upsampling: channels and depth have one entry a level, the same number each")
        if any(d < 0 or (d != 0 and d % 2 == 0) for d in self.depth) or self.depth[-1] == 0:
            raise UsageError(f"Upsampling: depth is {self.depth}; it is odd, or 0 but for the last level")
        if min(self.channels) < 1:
            raise UsageError(f"Upsampling: channels is {self.channels}; each is at least 1")

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
        found = [x]
        for work, narrow, feature in zip(list(self.work)[1:], self.narrow, reversed(features[:-1]), strict=True):
            up = F.interpolate(narrow(x), size=feature.shape[-2:], mode="nearest")
            x = work(torch.cat([up, feature], 1))
            found.insert(0, x)
        return found


@dataclass(frozen=True)
class Passthrough:
    """YOLOv2's neck: the finer map, narrowed and folded, in front of the worked coarser one (section 2).

    From two levels whose strides differ by a factor of 2 it makes one, the coarser. Folding is Darknet's ``reorg``
    (see :func:`reorg`), which mixes places and channels more than its name says.
    """

    narrow: int = 64  # channels of the finer map before folding, which makes four times as many
    channels: int = 1024  # of the blocks on the coarser map
    depth: int = 2  # how many blocks

    def __post_init__(self) -> None:
        if self.narrow < 4 or self.narrow % 4 or self.channels < 1 or self.depth < 0:
            raise UsageError(f"{self}: narrow is a multiple of 4, channels at least 1, depth at least 0")

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> PassthroughNeck:
        """For a backbone of these channels and strides; its last two levels are used."""
        return PassthroughNeck(self, channels, strides)


class PassthroughNeck(Neck):
    """Maps (B, c, 2 h, 2 w) and (B, c', h, w) -> one map (B, 4 narrow + channels, h, w)."""

    def __init__(self, spec: Passthrough, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(channels) < 2 or strides[-1] != 2 * strides[-2]:
            raise UsageError(f"Passthrough joins two levels, one twice as fine as the other; got strides {strides}")
        self.fine = leaky_block(channels[-2], spec.narrow, 1)
        widths = [channels[-1], *[spec.channels] * spec.depth]
        self.coarse = nn.Sequential(*(leaky_block(a, b) for a, b in pairwise(widths)))
        self.channels, self.strides = (4 * spec.narrow + widths[-1],), (strides[-1],)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        coarse = self.coarse(features[-1])
        fine = F.interpolate(self.fine(features[-2]), size=[2 * s for s in coarse.shape[-2:]], mode="nearest")
        return [torch.cat([reorg(fine), coarse], 1)]
