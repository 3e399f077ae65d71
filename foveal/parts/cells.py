"""YOLO's own geometry: priors in the cells of a grid, boxes measured in cells, the squared error of Darknet.

Priors are ``xyxy`` boxes like everybody's, in the middle of their cells; the sides of cell and canvas, which a box
measured in cells needs too, come behind them, and how far a centre may move: (..., 9) is x1, y1, x2, y2, cell w,
cell h, canvas w, canvas h, reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..types import Images, Priors
from .box_losses import BoxLoss
from .coders import Coder, at_least_fp32
from .normalizers import Normalizer, PerImage
from .priors import PriorSet

_EDGE = 1e-6  # of a cell: centres are kept so far from its border, where the logistic function would need infinity
_CLAMP = 16.0  # largest exponent of a side, e^16 = 9 million anchors; Darknet has none and overflows


@dataclass(frozen=True)
class Cells(PriorSet):
    """Boxes of given shapes in the middle of every cell (YOLOv2, section 2; YOLOv3, section 2.1).

    They are laid out level by level, row by row, cell by cell, shape by shape. ``shapes`` has one entry a level, each
    a tuple of (width, height): input pixels in YOLOv3, cells in YOLOv2. YOLOv1's boxes have no shape of their own.
    """

    shapes: tuple[tuple[tuple[float, float], ...], ...]  # per level: (width, height) of each prior of a cell
    unit: Literal["pixels", "cells"] = "pixels"
    reach: tuple[float, ...] | None = None  # per level: cells that a centre can move across (``scale_x_y``); None: one

    def __post_init__(self) -> None:
        if self.unit not in ("pixels", "cells"):
            raise UsageError(f"Cells: unit is {self.unit!r}, not 'pixels' or 'cells'")
        pairs = [pair for level in self.shapes for pair in level]
        if not all(self.shapes) or not pairs or not all(len(p) == 2 and min(p) > 0 for p in pairs):
            raise UsageError("Cells: every level needs shapes, pairs of a width and a height above 0")
        if self.reach is not None and (len(self.reach) != len(self.shapes) or min(self.reach) < 1):
            raise UsageError(f"Cells: reach is {self.reach}; it has a number from 1 on for each level")

    @property
    def per_location(self) -> tuple[int, ...]:
        return tuple(len(level) for level in self.shapes)

    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """A cell is the canvas over the map, whatever the stride. ``UsageError`` if the levels do not agree."""
        if len(features) != len(self.shapes):
            raise UsageError(f"Cells has shapes for {len(self.shapes)} levels, but there are {len(features)} maps")
        maps = tuple((int(f.shape[-2]), int(f.shape[-1])) for f in features)
        canvas = (int(images.pixels.shape[-2]), int(images.pixels.shape[-1]))
        boxes, grid, counts = _cells(self, maps, canvas, features[0].device)
        return Priors(boxes, counts, grid=grid)


@lru_cache(maxsize=64)
def _cells(
    cells: Cells, maps: tuple[tuple[int, int], ...], canvas: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    boxes, grids = [], []
    with torch.inference_mode(False), torch.no_grad():  # kept tensors must be ordinary ones, whoever asks first
        reach = cells.reach or (1.0,) * len(maps)
        for (height, width), shapes, far in zip(maps, cells.shapes, reach, strict=True):
            pitch = (canvas[1] / width, canvas[0] / height)
            cell = torch.tensor(pitch)
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            centre = (torch.stack([x, y], -1) * cell)[:, :, None]  # (H, W, 1, 2)
            half = torch.tensor(shapes, dtype=torch.float32) * (cell if cells.unit == "cells" else 1.0) / 2
            boxes.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
            sides = torch.tensor([*pitch, canvas[1], canvas[0], far])
            grids.append(sides.expand(len(boxes[-1]), 5))
        counts = tuple(len(b) for b in boxes)
        return torch.cat(boxes).to(device), torch.cat(grids).to(device), counts


@dataclass(frozen=True)
class Cell(Coder):
    """The centre as a place in its cell, the sides as multiples of the prior's or as parts of the picture.

    ``x = (column + f(tx)) cell``, ``y`` alike; ``f`` is the logistic function (YOLOv2 on) or nothing (YOLOv1). Sides:
    "exp", ``w = w_a exp(tw)`` (YOLOv2 on); or "square", ``w = tw^2 canvas`` (YOLOv1). Only with :class:`Cells`, whose
    ``reach`` s stretches ``f`` around the middle of the cell: ``s (f - 1/2) + 1/2``.
    """

    logistic: bool = True
    sides: Literal["exp", "square"] = "exp"

    def __post_init__(self) -> None:
        if self.sides not in ("exp", "square"):
            raise UsageError(f"Cell(sides={self.sides!r}): expected 'exp' or 'square'")

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        boxes, priors = at_least_fp32(boxes), at_least_fp32(priors)
        middle, prior, cell, canvas = _grid(priors)
        place = ((boxes[..., :2] + boxes[..., 2:]) / 2 - middle) / cell + 0.5
        if self.logistic:
            place = torch.logit(place.clamp(_EDGE, 1 - _EDGE))
        side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_EDGE)
        return torch.cat([place, (side / canvas).sqrt() if self.sides == "square" else (side / prior).log()], -1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        deltas, priors = at_least_fp32(deltas), at_least_fp32(priors)
        middle, prior, cell, canvas = _grid(priors)
        place, side = deltas[..., :2], deltas[..., 2:]
        centre = middle + ((place.sigmoid() if self.logistic else place) - 0.5) * cell
        half = (side.square() * canvas if self.sides == "square" else side.clamp(max=_CLAMP).exp() * prior) / 2
        return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class CellError(BoxLoss):
    """Half the sum of squared errors of the four numbers of a :class:`Cell` coder: the box loss of Darknet.

    Its gradient is Darknet's (which writes gradients, not losses). Centres are compared as places in the cell:
    "squared" is 1/2 (f(tx) - x)^2 (YOLOv1, YOLOv2); "logistic" is cross-entropy, whose gradient by tx is f(tx) - x
    (YOLOv3). ``small``: a row with an object counts 2 - w h times, w and h as parts of the picture (YOLOv2 on). For
    the first ``pull`` images rows without an object are drawn to their priors with weight 0.01 (YOLOv2: 12,800).
    """

    centre: Literal["squared", "logistic"] = "squared"
    small: bool = True  # small objects count up to twice
    pull: int = 0  # images
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.centre not in ("squared", "logistic") or self.pull < 0:
            raise UsageError(f"{self}: centre is 'squared' or 'logistic', pull a number of images")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        deltas, wanted = at_least_fp32(deltas), coder.encode(at_least_fp32(boxes), at_least_fp32(priors)).detach()
        found, place = deltas[..., :2], wanted[..., :2]
        if isinstance(coder, Cell) and coder.logistic:
            place = place.sigmoid()
            if self.centre == "logistic":
                across = F.binary_cross_entropy_with_logits(found, place, reduction="none")
            else:
                across = (found.sigmoid() - place).square() / 2
        else:
            across = (found - place).square() / 2
        return across.sum(-1) + (deltas[..., 2:] - wanted[..., 2:]).square().sum(-1) / 2

    def row_weight(self, priors: Tensor, boxes: Tensor) -> Tensor | None:
        if not self.small or priors.shape[-1] < 9:
            return None
        return 2 - ((boxes[..., 2:] - boxes[..., :2]) / priors[..., 6:8]).prod(-1)

    def background(self, seen: int) -> float:
        return 0.01 if seen < self.pull else 0.0


def _grid(priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Middle, sides, cell times reach and canvas of priors (..., 9), each (..., 2)."""
    if priors.shape[-1] != 9:
        raise UsageError("the coder Cell measures in cells, which only the priors Cells have")
    middle = (priors[..., :2] + priors[..., 2:4]) / 2
    return middle, priors[..., 2:4] - priors[..., :2], priors[..., 4:6] * priors[..., 8:], priors[..., 6:8]
