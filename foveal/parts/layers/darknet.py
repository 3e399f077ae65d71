"""Layers of Darknet's networks: leaky blocks, bottlenecks, pooled bottlenecks (SPP), reorg."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1  # of the leaky ReLU below zero


def leaky_block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU: Darknet's convolutional layer. Initial weights are N(0, 2 / fan in)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE, inplace=True))


def bottlenecks(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """``depth`` blocks, alternately 1 x 1 to ``outputs`` channels and 3 x 3 to twice as many; an odd depth ends
    narrow."""
    widths = [inputs, *(outputs * (1 + i % 2) for i in range(depth))]
    return nn.Sequential(*(leaky_block(a, b, 1 + 2 * (i % 2)) for i, (a, b) in enumerate(pairwise(widths))))


class SpatialPyramid(nn.Module):
    """Maxima over windows of several sizes, concatenated with the map: YOLOv3-spp's pooling, 4 times the channels."""

    def __init__(self, sides: Sequence[int] = (13, 9, 5)) -> None:
        super().__init__()
        self.sides = tuple(sides)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(F.max_pool2d(x, side, 1, side // 2) for side in self.sides), x], 1)


def pooled_bottlenecks(inputs: int, outputs: int) -> nn.Sequential:
    """YOLOv3-spp's coarsest level: three blocks, the pooling, three blocks."""
    return nn.Sequential(*bottlenecks(inputs, outputs, 3), SpatialPyramid(), *bottlenecks(4 * outputs, outputs, 3))


def reorg(x: Tensor, s: int = 2) -> Tensor:
    """(B, c, s h, s w) -> (B, s s c, h, w) as Darknet's layer ``reorg`` of stride s computes it.

    That is not a space-to-depth of ``x``: the layer treats its input as c / s s channels of (s s h, s s w), folds it,
    and its memory is then read as (s s c, h, w). Weights trained with it need exactly this order.
    """
    b, c, height, width = x.shape
    x = x.reshape(b, c // (s * s), height, s, width, s).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, s * s * c, height // s, width // s)
