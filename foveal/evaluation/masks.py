"""Masks to be scored: those of a whole dataset in flat arrays, and the intersection of pairs of them.

Pixels of an image are counted column by column, as COCO does. The intersection of two masks is a sum over the runs of
one: the pixels of the other before the run's end less those before its start. Nothing is rasterized, memory is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.aliases import Ints
from ..masks.rle import Masks, ranges, run_lengths

RUNS = 1 << 19  # processed at once


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """N masks of any images; R runs, those of a mask together and in order."""

    starts: Ints  # (N + 1,) where the runs of each mask begin, and R
    begin: Ints  # (R,) first position
    end: Ints  # (R,) the position after the last
    extent: NDArray[np.float64]  # (N, 4) the box around each mask; zeros where it has no pixel

    @classmethod
    def of(cls, parts: Sequence[Masks]) -> MaskRuns:
        """The masks of several images, concatenated."""
        flat = [p.flat() for p in parts]
        none = np.zeros(0, np.int64)
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(p.starts) for p in parts)])
        return cls(
            np.cumsum(counts),
            np.concatenate([none, *(b for b, _ in flat)]),
            np.concatenate([none, *(e for _, e in flat)]),
            np.concatenate([np.zeros((0, 4)), *(p.extents() for p in parts)]),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> MaskRuns:
        """The masks at an index array, a slice or flags (N,)."""
        rows = np.arange(len(self))[index]
        count = np.diff(self.starts)[rows]
        runs = ranges(self.starts[rows], count)
        return MaskRuns(np.append(0, np.cumsum(count)), self.begin[runs], self.end[runs], self.extent[rows])

    def area(self) -> Ints:
        """(N,) area in pixels."""
        total = np.append(0, np.cumsum(self.end - self.begin))
        return np.asarray(total[self.starts[1:]] - total[self.starts[:-1]])

    def counts(self, row: int, pixels: int) -> Ints:
        """COCO's run lengths of mask ``row`` of an image of ``pixels`` pixels."""
        part = slice(self.starts[row], self.starts[row + 1])
        return run_lengths(self.begin[part], self.end[part], pixels)


class MaskIntersection:
    """Intersections, in pixels, of masks with ``objects``; built once for all pairs."""

    def __init__(self, objects: MaskRuns) -> None:
        self.objects = objects
        owner = np.repeat(np.arange(len(objects)), np.diff(objects.starts))
        self.key = (owner << 32) + objects.begin  # ascending over all runs: one search serves all masks
        self.before = np.append(0, np.cumsum(objects.end - objects.begin))  # pixels of all runs before each
        self.ends = np.append(0, objects.end)

    def __call__(self, masks: MaskRuns, d: Ints, g: Ints) -> Ints:
        """(P,) intersections of rows ``d`` (P,) of ``masks`` with objects ``g`` (P,), in pixels."""
        count = np.diff(masks.starts)[d]
        runs = ranges(masks.starts[d], count)
        owner = np.repeat(g, count)
        part = self._until(owner, masks.end[runs]) - self._until(owner, masks.begin[runs])
        total = np.append(0, np.cumsum(part))
        last = np.cumsum(count)
        return np.asarray(total[last] - total[last - count])

    def _until(self, owner: Ints, position: Ints) -> Ints:
        """(Q,) pixels of the objects ``owner`` (Q,) before ``position`` (Q,)."""
        index = np.searchsorted(self.key, (owner << 32) + position)
        first = self.objects.starts[owner]
        whole = self.before[index] - self.before[first]
        ends = self.ends[np.where(index > first, index, 0)]  # of the last run that began before
        return np.asarray(whole - np.maximum(ends - position, 0))
