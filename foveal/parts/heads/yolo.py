"""YOLOv2's and YOLOv3's head: a 1 x 1 convolution on each level, split by cell and anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...types import Predictions
from ..layers.darknet import leaky_block
from ..losses.classification import prior_bias
from .dense import DenseHead, by_prior


@dataclass(frozen=True)
class CellHead:
    """A 3 x 3 block and a 1 x 1 convolution on each level: box, objectness and classes of every prior (YOLOv2, v3)."""

    channels: tuple[int, ...] | None = None  # of the 3 x 3 block of each level; None: twice the level's
    prior: float | None = None  # initial probability of an object; None: one half, as in Darknet

    def __post_init__(self) -> None:
        if self.channels is not None and (not self.channels or min(self.channels) < 1):
            raise UsageError(f"CellHead: channels is {self.channels}, expected at least 1 for each level")
        if self.prior is not None and not 0 < self.prior < 1:
            raise UsageError(f"CellHead: prior is {self.prior}, expected a probability between 0 and 1")

    def build(
        self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None
    ) -> CellPredictor:
        """For levels of these channels and anchors of a cell. Raises ``UsageError`` for other numbers of levels."""
        widths = self.channels or tuple(2 * c for c in channels)
        if len(widths) != len(channels):
            raise UsageError(f"CellHead has channels for {len(widths)} levels, but there are {len(channels)}")
        if len(per_location) != len(channels):
            raise UsageError(f"cells has anchors for {len(per_location)} levels, but there are {len(channels)}")
        return CellPredictor(channels, widths, per_location, logits, bias, prior_bias(self.prior))


class CellPredictor(DenseHead):
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
def start_biases(biases: Tensor, logits: int, objectness: float | None, classes: float | None, values: int = 4) -> None:
    """Sets the initial biases (n (v + 1 + K),) of the objectness and class scores of every anchor, in place; None
    leaves them. ``values``: the outputs v of a box."""
    anchors = biases.view(-1, values + 1 + logits)
    if objectness is not None:
        anchors[:, values] = objectness
    if classes is not None:
        anchors[:, values + 1 :] = classes


def split_cells(maps: Sequence[Tensor], logits: int) -> Predictions:
    """Raw maps (B, n (5 + K), h, w) of Darknet's layers ``region`` and ``yolo``: x, y, w, h, objectness, K classes."""
    outputs = torch.cat([by_prior(m, 5 + logits) for m in maps], 1)
    return Predictions(outputs[..., 5:], outputs[..., :4], outputs[..., 4])


def split_gaussian(maps: Sequence[Tensor], logits: int) -> Predictions:
    """Raw maps (B, n (9 + K), h, w) of ``Gaussian_yolo``: x, its deviation, y, w and h alike, objectness, K classes.

    The quality is (B, A, 5): objectness, and the four deviations.
    """
    outputs = torch.cat([by_prior(m, 9 + logits) for m in maps], 1)
    quality = torch.cat([outputs[..., 8:9], outputs[..., 1:8:2]], -1)
    return Predictions(outputs[..., 9:], outputs[..., 0:8:2], quality)
