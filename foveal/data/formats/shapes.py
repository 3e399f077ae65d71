"""The shapes of annotation tools as boxes and polygons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...masks.rle import Masks
from ..images.load import MAX_PIXELS
from ..records.findings import Findings
from .validate import Box, number

_CORNERS = 72  # of the polygon that a circle or an ellipse becomes


def numbers_of(values: object) -> list[float] | None:
    """The numbers of a list, also where they are text; ``None`` for anything else or a value that is not finite."""
    if not isinstance(values, list | tuple):
        return None
    found = [number(value) for value in values]
    return [v for v in found if v is not None] if all(v is not None and math.isfinite(v) for v in found) else None


def angle_of(value: object) -> float | None:
    """Degrees, 0 where nothing is stated; ``None`` for what is no finite number."""
    found = numbers_of([value or 0])
    return found[0] if found else None


def points_of(values: object) -> list[float] | None:
    """x1, y1, x2, y2, ... of a list of points ``[x, y]``; ``None`` where one is no point."""
    if not isinstance(values, list):
        return None
    flat: list[float] = []
    for value in values:
        point = numbers_of(value)
        if point is None or len(point) != 2:
            return None
        flat += point
    return flat


def box_around(polygon: Sequence[float]) -> Box:
    """The smallest box around x1, y1, x2, y2, ...."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """A polygon for an ellipse, whose axes are turned clockwise."""
    turn = math.radians(degrees)
    flat: list[float] = []
    for k in range(_CORNERS):
        angle = 2 * math.pi * k / _CORNERS
        x, y = rx * math.cos(angle), ry * math.sin(angle)
        flat += [cx + x * math.cos(turn) - y * math.sin(turn), cy + x * math.sin(turn) + y * math.cos(turn)]
    return flat


def ellipse_box(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """The exact box around an ellipse."""
    turn = math.radians(degrees)
    w, h = math.hypot(rx * math.cos(turn), ry * math.sin(turn)), math.hypot(rx * math.sin(turn), ry * math.cos(turn))
    return cx - w, cy - h, cx + w, cy + h


def turned(box: Box, degrees: float, pivot: tuple[float, float]) -> list[float]:
    """The corners of a box that was turned clockwise around a point."""
    turn, (px, py), (x1, y1, x2, y2) = math.radians(degrees), pivot, box
    flat: list[float] = []
    for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
        flat += [
            px + (x - px) * math.cos(turn) - (y - py) * math.sin(turn),
            py + (x - px) * math.sin(turn) + (y - py) * math.cos(turn),
        ]
    return flat


def bitmap_mask(bits: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> dict[str, Any] | None:
    """COCO's run lengths of a bitmap (h, w) at (left, top) of an image of ``size`` = width, height.

    ``None`` where it reaches over the image's edge.
    """
    height, width = bits.shape
    if left < 0 or top < 0 or left + width > size[0] or top + height > size[1] or size[0] * size[1] > MAX_PIXELS:
        return None
    whole = np.zeros((1, size[1], size[0]), np.bool_)
    whole[0, top : top + height, left : left + width] = bits
    return Masks.of_dense(whole).to_coco()[0]


def report_guess(file: Path, findings: Findings) -> None:
    """A finding on a file whose encoding had to be guessed."""
    message = "its encoding is neither the declared one nor UTF-8; the encoding was guessed"
    findings.add("warning", "encoding-guessed", file, "", message, "Save it as UTF-8")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message: at most ``most`` of them."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
