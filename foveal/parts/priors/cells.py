"""YOLO's own geometry: priors in the cells of a grid, boxes measured in cells, the squared error of Darknet.

Priors are ``xyxy`` boxes like everybody's, in the middle of their cells; the sides of cell and canvas, which a box
measured in cells needs too, come behind them, and how far a center may move: (..., 9) is x1, y1, x2, y2, cell w,
cell h, canvas w, canvas h, scale_xy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ...types import Images, Priors
from .base import PriorSet


@dataclass(frozen=True)
class Cells(PriorSet):
    """Boxes of given shapes in the middle of every cell (YOLOv2, section 2; YOLOv3, section 2.1).

    They are laid out level by level, row by row, cell by cell, shape by shape. ``shapes`` has one entry a level, each
    a tuple of (width, height): input pixels in YOLOv3, cells in YOLOv2. YOLOv1's boxes have no shape of their own.
    """

    shapes: tuple[tuple[tuple[float, float], ...], ...]  # per level: (width, height) of each prior of a cell
    unit: Literal["pixels", "cells"] = "pixels"
    scale_xy: tuple[float, ...] | None = None  # per level: cells that a center moves across (``scale_x_y``); None: one

    def __post_init__(self) -> None:
        if self.unit not in ("pixels", "cells"):
            raise UsageError(f"Cells: unit is {self.unit!r}, not 'pixels' or 'cells'")
        pairs = [pair for level in self.shapes for pair in level]
        if not all(self.shapes) or not pairs or not all(len(p) == 2 and min(p) > 0 for p in pairs):
            raise UsageError("Cells: every level needs shapes, pairs of a width and a height above 0")
        if self.scale_xy is not None and (len(self.scale_xy) != len(self.shapes) or min(self.scale_xy) < 1):
            raise UsageError(f"Cells: scale_xy is {self.scale_xy}; it has a number from 1 on for each level")

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
        scale_xy = cells.scale_xy or (1.0,) * len(maps)
        for (height, width), shapes, far in zip(maps, cells.shapes, scale_xy, strict=True):
            pitch = (canvas[1] / width, canvas[0] / height)
            cell = torch.tensor(pitch)
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            center = (torch.stack([x, y], -1) * cell)[:, :, None]  # (H, W, 1, 2)
            half = torch.tensor(shapes, dtype=torch.float32) * (cell if cells.unit == "cells" else 1.0) / 2
            boxes.append(torch.cat([center - half, center + half], -1).reshape(-1, 4))
            sides = torch.tensor([*pitch, canvas[1], canvas[0], far])
            grids.append(sides.expand(len(boxes[-1]), 5))
        counts = tuple(len(b) for b in boxes)
        return torch.cat(boxes).to(device), torch.cat(grids).to(device), counts
