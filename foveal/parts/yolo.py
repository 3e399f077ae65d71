"""YOLO's own layers: leaky blocks, the necks of YOLOv2 and YOLOv3, the head over cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..types import Predictions
from .heads import rows
from .losses import prior_bias
from .necks import Neck

SLOPE = 0.1  # of the leaky ReLU below zero


def leaky_block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU: what Darknet calls a convolutional layer. Weights are N(0, 2 / fan in)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE, inplace=True))


def bottlenecks(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """``depth`` blocks, by turns 1 x 1 to ``outputs`` channels and 3 x 3 to twice as many. Odd: it ends narrow."""
    widths = [inputs, *(outputs * (1 + i % 2) for i in range(depth))]
    return nn.Sequential(*(leaky_block(a, b, 1 + 2 * (i % 2)) for i, (a, b) in enumerate(pairwise(widths))))


class Pooled(nn.Module):
    """Maxima over windows of several sizes beside the map itself: YOLOv3-spp's pooling, 4 times the channels."""

    def __init__(self, sides: Sequence[int] = (13, 9, 5)) -> None:
        super().__init__()
        self.sides = tuple(sides)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(F.max_pool2d(x, side, 1, side // 2) for side in self.sides), x], 1)


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


def pooled_bottlenecks(inputs: int, outputs: int) -> nn.Sequential:
    """YOLOv3-spp's coarsest level: three blocks, the pooling, three blocks."""
    return nn.Sequential(*bottlenecks(inputs, outputs, 3), Pooled(), *bottlenecks(4 * outputs, outputs, 3))


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


def reorg(x: Tensor, s: int = 2) -> Tensor:
    """(B, c, s h, s w) -> (B, s s c, h, w) as Darknet's layer ``reorg`` of stride s does it.

    That is no space-to-depth of ``x``: the layer writes its input as if it had c / s s channels of (s s h, s s w)
    folded, and its memory is then read as (s s c, h, w). Weights trained with it need just this order.
    """
    b, c, height, width = x.shape
    x = x.reshape(b, c // (s * s), height, s, width, s).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, s * s * c, height // s, width // s)


@dataclass(frozen=True)
class CellHead:
    """A 3 x 3 block and a 1 x 1 convolution on each level: box, objectness and classes of every prior (YOLOv2, v3)."""

    channels: tuple[int, ...] | None = None  # of the 3 x 3 block, a level each; None: twice the level's
    prior: float | None = None  # probability of an object that every box starts with; None: one half, as Darknet

    def __post_init__(self) -> None:
        if self.channels is not None and (not self.channels or min(self.channels) < 1):
            raise UsageError(f"CellHead: channels is {self.channels}; each is at least 1")
        if self.prior is not None and not 0 < self.prior < 1:
            raise UsageError(f"CellHead: prior is {self.prior}; a probability lies between 0 and 1")

    def build(
        self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None
    ) -> CellPredictor:
        """For levels of these channels and priors a cell."""
        widths = self.channels or tuple(2 * c for c in channels)
        if len(widths) != len(channels):
            raise UsageError(f"CellHead has channels for {len(widths)} levels, but there are {len(channels)}")
        if len(per_location) != len(channels):
            raise UsageError(f"cells has shapes for {len(per_location)} levels, but there are {len(channels)}")
        return CellPredictor(channels, widths, per_location, logits, bias, prior_bias(self.prior))


class CellPredictor(nn.Module):
    """Features [(B, c, h, w), ...] -> ``Predictions`` of logits (B, A, K), deltas (B, A, 4), objectness (B, A)."""

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int],
        per_location: Sequence[int],
        logits: int,
        bias: float | None,
        objectness: float | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(leaky_block(c, w) for c, w in zip(channels, widths, strict=True))
        self.outputs = nn.ModuleList(
            nn.Conv2d(w, n * (5 + logits), 1) for w, n in zip(widths, per_location, strict=True)
        )
        self.logits = logits
        for layer in self.outputs:
            conv = cast(nn.Conv2d, layer)
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, conv.bias))
            start_biases(cast(Tensor, conv.bias), logits, objectness, bias)

    def forward(self, features: list[Tensor]) -> Predictions:
        maps = [out(block(x)) for block, out, x in zip(self.blocks, self.outputs, features, strict=True)]
        return split_cells(maps, self.logits)


@torch.no_grad()
def start_biases(biases: Tensor, logits: int, objectness: float | None, classes: float | None) -> None:
    """Sets those of every prior's objectness and class scores, (n (5 + K),) in place; None leaves them."""
    by_prior = biases.view(-1, 5 + logits)
    if objectness is not None:
        by_prior[:, 4] = objectness
    if classes is not None:
        by_prior[:, 5:] = classes


def split_cells(maps: Sequence[Tensor], logits: int) -> Predictions:
    """Raw maps (B, n (5 + K), h, w) of Darknet's layers ``region`` and ``yolo``: x, y, w, h, objectness, K classes."""
    every = torch.cat([rows(m, 5 + logits) for m in maps], 1)
    return Predictions(every[..., 5:], every[..., :4], every[..., 4])
