"""Anchors: boxes of several sizes and aspect ratios at every cell of every level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ...types import Images, Priors
from .base import MapSize, PriorSet, cached, grid_boxes, inside_image


@dataclass(frozen=True)
class Anchors(PriorSet):
    """Boxes of several sizes and ratios at every cell of every level (Faster R-CNN, section 3.1.1; FPN; RetinaNet).

    An anchor of size s and ratio r = height / width is s / sqrt(r) wide and s * sqrt(r) high. They are ordered level
    by level, row by row, cell by cell. ``sizes`` has one entry a level, each a tuple of pixels.

    How implementations differ, in these fields:

    - torchvision: the defaults but ``rounding="corners", grid="floor"``;
    - Detectron2's RetinaNet: ``order="size-major"``;
    - py-faster-rcnn: ``sizes=((128, 256, 512),), rounding="stride", center=0.5``. Its inclusive first box
      (-84, -40, 99, 55) is (-84, -40, 100, 56) here, because our boxes are continuous;
    - Luminoth: ``sizes=((64, 128, 256, 512),)``.
    """

    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # per level, pixels
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    order: Literal["ratio-major", "size-major"] = "ratio-major"  # which of the two changes slowest within a cell
    rounding: Literal["none", "corners", "stride"] = "none"  # round the corners; or the sides at the size of a stride
    grid: Literal["stride", "floor"] = "stride"  # cell pitch: the true stride, or floor(canvas / map) as torchvision
    center: float = 0.0  # where in its cell an anchor is centered: 0 the top-left corner, 0.5 the middle
    inside: bool = False  # anchors that cross the image's border are ignored in *training* (``Priors.valid``)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("order", self.order, ("ratio-major", "size-major")),
            ("rounding", self.rounding, ("none", "corners", "stride")),
            ("grid", self.grid, ("stride", "floor")),
        ):
            if value not in known:
                raise UsageError(f"Anchors: {name} is {value!r}, not one of {', '.join(known)}")
        if (
            not self.sizes
            or not self.ratios
            or min(min(s, default=0) for s in self.sizes) <= 0
            or min(self.ratios) <= 0
        ):
            raise UsageError("Anchors: expected sizes above 0 at every level, and ratios above 0")

    @property
    def per_location(self) -> tuple[int, ...]:
        return tuple(len(s) * len(self.ratios) for s in self.sizes)

    def cell(self, level: int, stride: int) -> Tensor:
        """(per_location, 4) float32 boxes around the origin, the anchors of one level."""
        root = torch.tensor(self.ratios, dtype=torch.float32).sqrt()
        sizes = torch.tensor(self.sizes[level], dtype=torch.float32)
        if self.rounding == "stride":  # py-faster-rcnn: round the sides of the stride-sized box, then scale it
            widths = [round(math.sqrt(stride * stride / r)) for r in self.ratios]
            heights = [round(w * r) for w, r in zip(widths, self.ratios, strict=True)]
            w = torch.tensor(widths)[:, None] * (sizes / stride)
            h = torch.tensor(heights)[:, None] * (sizes / stride)
        else:
            w, h = (1 / root)[:, None] * sizes, root[:, None] * sizes
        if self.order == "size-major":
            w, h = w.t(), h.t()
        w, h = w.reshape(-1), h.reshape(-1)
        boxes = torch.stack([-w, -h, w, h], 1) / 2
        return boxes.round() if self.rounding == "corners" else boxes

    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """``features``: (B, c, H, W) a level; ``strides``: pixels a cell. ``UsageError`` if the levels do not agree."""
        if not len(features) == len(strides) == len(self.sizes):
            raise UsageError(
                f"Anchors has sizes for {len(self.sizes)} levels, but there are {len(features)} feature maps and "
                f"{len(strides)} strides; give one tuple of sizes a level"
            )
        sizes = tuple((f.shape[-2], f.shape[-1]) for f in features)
        boxes, counts = _anchors(self, sizes, images.canvas, tuple(strides), features[0].device)
        return Priors(boxes, counts, inside_image(boxes, images.sizes) if self.inside else None)


def octaves(sizes: Sequence[float], steps: int) -> tuple[tuple[float, ...], ...]:
    """``steps`` sizes a level, s * 2^(o / steps). RetinaNet's: ``octaves((32, 64, 128, 256, 512), 3)``."""
    return tuple(tuple(s * 2 ** (o / steps) for o in range(steps)) for s in sizes)


@dataclass(frozen=True)
class PyramidAnchors:
    """``scale`` x stride x 2^(o / octaves), o = 0..octaves-1, at every level (RetinaNet: 4 and 3; FPN: 8 and 1)."""

    scale: float = 4.0  # side of the smallest anchor of a level, in strides
    octaves: int = 3  # sizes a level, evenly spread over one doubling
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    order: Literal["ratio-major", "size-major"] = "size-major"  # which of the two changes slowest within a cell
    center: float = 0.5  # where in its cell an anchor is centered: 0 the top-left corner, 0.5 the middle

    def at(self, strides: Sequence[int]) -> Anchors:
        """The anchors for levels of these strides."""
        sizes = tuple(tuple(self.scale * s * 2 ** (o / self.octaves) for o in range(self.octaves)) for s in strides)
        return Anchors(sizes, self.ratios, order=self.order, center=self.center)


def at_strides(anchors: Anchors | PyramidAnchors, strides: Sequence[int]) -> Anchors:
    """Anchors unchanged, or sized for these strides. ``UsageError`` if they are for another number of levels."""
    if isinstance(anchors, PyramidAnchors):
        return anchors.at(strides)
    if len(anchors.sizes) != len(strides):
        raise UsageError(
            f"Anchors has sizes for {len(anchors.sizes)} levels, but there are {len(strides)}, of strides "
            f"{', '.join(map(str, strides))}",
            fix="Give one tuple of sizes a level, or PyramidAnchors(), which follows the strides",
        )
    return anchors


@cached
def _anchors(
    anchors: Anchors, maps: tuple[MapSize, ...], canvas: MapSize, strides: tuple[int, ...], device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    levels = []
    for level, ((height, width), stride) in enumerate(zip(maps, strides, strict=True)):
        step_y, step_x = (canvas[0] // height, canvas[1] // width) if anchors.grid == "floor" else (stride, stride)
        y = (torch.arange(height, dtype=torch.float32, device=device) + anchors.center) * step_y
        x = (torch.arange(width, dtype=torch.float32, device=device) + anchors.center) * step_x
        levels.append(grid_boxes(y, x, _cell(anchors, level, stride, device)))
    return torch.cat(levels), tuple(len(boxes) for boxes in levels)


@cached
def _cell(anchors: Anchors, level: int, stride: int, device: torch.device) -> Tensor:
    """Copied to the device once, so that a new canvas needs no transfer."""
    return anchors.cell(level, stride).to(device)
