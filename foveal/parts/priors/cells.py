"""YOLO's priors: anchors centered in the cells of a grid, with the sides of cell and canvas that its coder needs.

Anchors are ``xyxy`` boxes as all priors; ``Priors.grid`` adds what a box measured in cells needs: (..., 9) is x1, y1,
x2, y2, cell w, cell h, canvas w, canvas h, scale_xy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ...types import Images, Priors
from .base import MapSize, PriorSet, cached, grid_boxes


@dataclass(frozen=True)
class Cells(PriorSet):
    """Anchors of given sizes, centered in every cell (YOLOv2, section 2; YOLOv3, section 2.1).

    They are ordered level by level, row by row, cell by cell, anchor by anchor. ``shapes`` has one entry a level, each
    a tuple of (width, height): input pixels in YOLOv3, cells in YOLOv2. YOLOv1 has no anchors; its sides are absolute.
    """

    shapes: tuple[tuple[tuple[float, float], ...], ...]  # per level: (width, height) of each anchor
    unit: Literal["pixels", "cells"] = "pixels"
    scale_xy: tuple[float, ...] | None = None  # per level: range of a center, in cells (``scale_x_y``); None: 1

    def __post_init__(self) -> None:
        if self.unit not in ("pixels", "cells"):
            raise UsageError(f"Cells: unit is {self.unit!r}, not 'pixels' or 'cells'")
        pairs = [pair for level in self.shapes for pair in level]
        if not all(self.shapes) or not pairs or not all(len(p) == 2 and min(p) > 0 for p in pairs):
            raise UsageError("Cells: expected anchors at every level, pairs of a width and a height above 0")
        if self.scale_xy is not None and (len(self.scale_xy) != len(self.shapes) or min(self.scale_xy) < 1):
            raise UsageError(f"Cells: scale_xy is {self.scale_xy}; expected a number of at least 1 for each level")

    @property
    def per_location(self) -> tuple[int, ...]:
        return tuple(len(level) for level in self.shapes)

    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """A cell is the canvas over the map, whatever the stride. ``UsageError`` if the levels do not agree."""
        if len(features) != len(self.shapes):
            raise UsageError(f"Cells has anchors for {len(self.shapes)} levels, but there are {len(features)} maps")
        boxes, grid, counts = _cells(
            self, tuple((f.shape[-2], f.shape[-1]) for f in features), images.canvas, features[0].device
        )
        return Priors(boxes, counts, grid=grid)


@cached
def _cells(
    cells: Cells, maps: tuple[MapSize, ...], canvas: MapSize, device: torch.device
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    boxes, grids = [], []
    scale_xy = cells.scale_xy or (1.0,) * len(maps)
    for (height, width), anchors, scale in zip(maps, cells.shapes, scale_xy, strict=True):
        pitch = torch.tensor([canvas[1] / width, canvas[0] / height])  # width and height of a cell, pixels
        y, x = (torch.arange(height) + 0.5) * pitch[1], (torch.arange(width) + 0.5) * pitch[0]
        half = torch.tensor(anchors, dtype=torch.float32) * (pitch if cells.unit == "cells" else 1.0) / 2
        boxes.append(grid_boxes(y, x, torch.cat([-half, half], 1)))
        grids.append(torch.tensor([*pitch, canvas[1], canvas[0], scale]).expand(len(boxes[-1]), 5))
    return torch.cat(boxes).to(device), torch.cat(grids).to(device), tuple(len(b) for b in boxes)
