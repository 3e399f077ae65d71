"""What a reader saw in the files, kept for the diagnosis of the whole set (:mod:`foveal.data.diagnosis`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .convention import Convention, Numbers

MOST_MASKS = 2000  # polygons whose bounds are compared with the boxes


@dataclass
class Evidence:
    """The numbers of all boxes as written, also of those that were dropped, and what was missing."""

    convention: Convention  # by which they were read
    around: bool = False  # the numbers are the corners around polygons: their layout is certain
    numbers: list[Numbers] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height of the image of each
    areas: list[float] = field(default_factory=list)  # as stated, NaN without
    outlines: list[Numbers] = field(default_factory=list)  # xyxy around the polygons of each, NaN without
    class_numbers: Counter[int] = field(default_factory=Counter)  # of the objects, known and unknown
    class_names: dict[int, str] = field(default_factory=dict)  # by class number, where objects have numbers
    unlabeled: list[Path] = field(default_factory=list)  # images without a label file
    blank: list[Path] = field(default_factory=list)  # label files without a line
    unlisted: list[Path] = field(default_factory=list)  # images in no split, among those of the splits
    turned: list[Path] = field(default_factory=list)  # stored turned, without a stated size to tell the side up
    labeled: int = 0  # images with a label file
    orphans: list[Path] = field(default_factory=list)  # label files without an image, where images have no label file

    def add(self, numbers: Numbers, size: tuple[int, int], area: float | None, mask: Any) -> None:
        """One box as written."""
        self.numbers.append(numbers)
        self.sizes.append(size)
        self.areas.append(math.nan if area is None else area)
        self.outlines.append(_bounds(mask) if len(self.outlines) < MOST_MASKS else _NONE)

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Numbers (N, 4), sizes (N, 2), areas (N,), outlines (N, 4) of the boxes whose numbers are finite."""
        numbers = np.array(self.numbers, np.float64).reshape(-1, 4)
        keep = np.isfinite(numbers).all(1) & (np.abs(numbers) < 1e9).all(1)
        sizes = np.array(self.sizes, np.float64).reshape(-1, 2)
        outlines = np.array(self.outlines, np.float64).reshape(-1, 4)
        return numbers[keep], sizes[keep], np.array(self.areas, np.float64)[keep], outlines[keep]


_NONE: Numbers = (math.nan,) * 4


def _bounds(mask: Any) -> Numbers:
    """xyxy around COCO polygons, or NaN."""
    if not isinstance(mask, list) or not mask:
        return _NONE
    rings: Sequence[Any] = mask if isinstance(mask[0], list) else [mask]
    try:
        xs = [float(v) for ring in rings for v in ring[0::2]]
        ys = [float(v) for ring in rings for v in ring[1::2]]
    except (TypeError, ValueError):
        return _NONE
    return (min(xs), min(ys), max(xs), max(ys)) if len(xs) >= 3 and len(xs) == len(ys) else _NONE
