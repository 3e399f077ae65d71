"""Anchors whose sizes follow the strides, so that they fit a pyramid of any height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveal.parts.priors import Anchors


@dataclass(frozen=True)
class PyramidAnchors:
    """``scale`` x stride x 2^(o / octaves), o = 0..octaves-1, at every level (RetinaNet: 4 and 3; FPN: 8 and 1)."""

    scale: float = 4.0  # side of the smallest anchor of a level, in strides
    octaves: int = 3  # sizes a level, evenly spread over one doubling
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    order: Literal["ratio-major", "size-major"] = "size-major"  # which of the two changes slowest within a cell
    centre: float = 0.5  # where in its cell an anchor is centred: 0 the top-left corner, 0.5 the middle

    def at(self, strides: Sequence[int]) -> Anchors:
        """The anchors of levels of these strides."""
        sizes = tuple(tuple(self.scale * s * 2 ** (o / self.octaves) for o in range(self.octaves)) for s in strides)
        return Anchors(sizes, self.ratios, order=self.order, centre=self.centre)


def at_strides(anchors: Anchors | PyramidAnchors, strides: Sequence[int]) -> Anchors:
    """Anchors as they are, or sized for these strides."""
    return anchors.at(strides) if isinstance(anchors, PyramidAnchors) else anchors
