"""SSD's priors, "default boxes": a few boxes of fixed sizes and aspect ratios at every cell of every level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError
from ...types import Images, Priors
from .base import MapSize, PriorSet, cached, grid_boxes


@dataclass(frozen=True)
class DefaultBoxes(PriorSet):
    """At each cell of level k: squares of s_k and sqrt(s_k s_(k+1)), then for each ratio r a box s_k sqrt(r) wide and
    s_k / sqrt(r) high, and the same box upright (SSD, section 2.2; ``prior_box_layer.cpp``).

    They are ordered level by level, row by row, cell by cell, in this order. The defaults are those of SSD300 on VOC.
    How implementations differ: the released code truncates sizes to whole pixels; torchvision does not, and limits the
    sides to the canvas's (``truncate=False, clip=True``). SSD512 of VOC has 24,564 boxes, DSSD321 17,080, DSSD513
    43,688.
    """

    sizes: tuple[float, ...] = (30, 60, 111, 162, 213, 264, 315)  # s_0, s_1, ... in pixels: one more than levels
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))  # of each level, besides 1
    steps: tuple[float, ...] | None = None  # pixels from cell to cell of each level; None: canvas / map
    starts: tuple[float, ...] | None = None  # center of the first cell of each level, pixels; None: half a step
    truncate: bool = True  # sizes are truncated to whole pixels
    clip: bool = False  # no side is longer than the canvas's

    def __post_init__(self) -> None:
        levels = len(self.ratios)
        if len(self.sizes) != levels + 1 or not levels:
            raise UsageError(
                f"DefaultBoxes has {len(self.sizes)} sizes for {levels} levels; it needs one more than levels"
            )
        for name, values in (("steps", self.steps), ("starts", self.starts)):
            if values is not None and len(values) != levels:
                raise UsageError(f"DefaultBoxes has {len(values)} {name} for {levels} levels")
        if min(self.sizes) < 1 or min((r for level in self.ratios for r in level), default=1) <= 0:
            raise UsageError("DefaultBoxes: expected sizes of at least 1 pixel and ratios above 0")
        if min(self.steps or (1,)) <= 0:
            raise UsageError(f"DefaultBoxes: expected steps above 0 pixels, got {self.steps}")

    @property
    def per_location(self) -> tuple[int, ...]:
        return tuple(2 + 2 * len(r) for r in self.ratios)

    def cell(self, level: int) -> Tensor:
        """(per_location, 4) float32 boxes around the origin, the priors of one level."""
        low, high = self.sizes[level : level + 2]
        if self.truncate:
            low, high = math.trunc(low), math.trunc(high)
        sides = [(low, low), (math.sqrt(low * high),) * 2]
        for ratio in self.ratios[level]:
            long, short = low * math.sqrt(ratio), low / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        half = torch.tensor(sides, dtype=torch.float64) / 2
        return torch.cat([-half, half], 1).float()

    def check(self, maps: Sequence[MapSize], canvas: MapSize) -> None:
        """Raises ``UsageError`` unless these boxes fit maps of these sides on such a canvas, all (height, width)."""
        if len(maps) != len(self.ratios):
            raise UsageError(f"DefaultBoxes is for {len(self.ratios)} levels, but there are {len(maps)} feature maps")
        if self.steps is None:
            return
        for level, (step, sides) in enumerate(zip(self.steps, maps, strict=True)):
            start = step / 2 if self.starts is None else self.starts[level]
            for count, side in zip(sides, canvas, strict=True):
                if start + (count - 1) * step - step / 2 >= side:
                    raise UsageError(
                        f"level {level + 1} of the default boxes has {count} cells in steps of {step:g} pixels, but "
                        f"the canvas has {side}: they are for images of another size",
                        fix="Give sizes and steps for this input; steps=None and starts=None space cells evenly",
                    )

    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """``features``: (B, c, H, W) a level. ``UsageError`` as in :meth:`check`."""
        maps, canvas = tuple((f.shape[-2], f.shape[-1]) for f in features), images.canvas
        self.check(maps, canvas)
        return Priors(*_default_boxes(self, maps, canvas, features[0].device))


@dataclass(frozen=True)
class PyramidBoxes:
    """Default boxes whose sizes follow the strides of any network: s_k = ``scale`` x stride of level k."""

    scale: float = 3.0  # side of a level's smaller square, in strides
    ratios: tuple[float, ...] = (2.0,)  # of every level, besides 1

    def at(self, strides: Sequence[int]) -> DefaultBoxes:
        """The boxes for levels of these strides, centered on their cells."""
        sizes = tuple(self.scale * s for s in (*strides, 2 * strides[-1]))
        return DefaultBoxes(sizes, (self.ratios,) * len(strides), steps=tuple(strides), truncate=False)


def boxes_at(boxes: DefaultBoxes | PyramidBoxes, strides: Sequence[int]) -> DefaultBoxes:
    """Boxes unchanged, or sized for these strides. ``UsageError`` if they are for another number of levels."""
    if isinstance(boxes, PyramidBoxes):
        return boxes.at(strides)
    if len(boxes.ratios) != len(strides):
        raise UsageError(
            f"DefaultBoxes is for {len(boxes.ratios)} levels, but there are {len(strides)}, of strides "
            f"{', '.join(map(str, strides))}",
            fix="Give sizes and ratios for each level, or PyramidBoxes(), which follows the strides",
        )
    return boxes


@cached
def _default_boxes(
    spec: DefaultBoxes, maps: tuple[MapSize, ...], canvas: MapSize, device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    levels = []
    for level, sides in enumerate(maps):
        y, x = (_centers(spec, level, n, side, device) for n, side in zip(sides, canvas, strict=True))
        cell = _cell(spec, level, device)
        if spec.clip:
            half_width, half_height = canvas[1] / 2, canvas[0] / 2
            across, down = cell[:, 0::2].clamp(-half_width, half_width), cell[:, 1::2].clamp(-half_height, half_height)
            cell = torch.stack([across, down], -1).flatten(1)
        levels.append(grid_boxes(y, x, cell))
    return torch.cat(levels), tuple(len(boxes) for boxes in levels)


def _centers(spec: DefaultBoxes, level: int, count: int, side: int, device: torch.device) -> Tensor:
    """The centers of ``count`` cells along one axis of ``side`` pixels, (count,)."""
    step = side / count if spec.steps is None else spec.steps[level]
    start = step / 2 if spec.starts is None else spec.starts[level]
    return torch.arange(count, dtype=torch.float32, device=device) * step + start


@cached
def _cell(spec: DefaultBoxes, level: int, device: torch.device) -> Tensor:
    """Copied to the device once, so that a new canvas needs no transfer."""
    return spec.cell(level).to(device)
