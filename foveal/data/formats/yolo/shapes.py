"""Decides, over a whole set, what the lines of YOLO label files are that have more than five columns.

A line ``class cx cy w h`` may be followed by keypoints (x, y, or x, y, visibility, for each) or by a confidence; a
polygon is ``class x1 y1 x2 y2 x3 y3 ...``, a rotated box has four points. ``kpt_shape`` of the yaml decides; without it
the numbers do: keypoints lie in the box, visibilities are 0, 1 or 2, and all lines have the same number of columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ....files.aliases import Bools, Floats

LineKind = Literal["box", "polygon", "rotated", "keypoints", "confidence"]
ROTATED = 0.8  # of the lines: their four points are a parallelogram
MARGIN = 0.1  # of the box: keypoints stick out by this much
FEW, MANY = 5, 10  # lines: below, only what all of them say counts; from, two points more than a box tell enough
# Shares of the lines, on generated shapes: the points lie in the box that the first four numbers would be (keypoints
# 1.0, polygons 0 to 1, the more the smaller and the more central they are); the polygon does not cross itself
# (polygons above .93, keypoints .6, .35, .2 for two, three, four of them); its first two points are near the others
# (polygons above .88, keypoints from 0 where the boxes are small to 1 where they are large).
IN_BOX, NOT_IN_BOX = 0.9, 0.75
SIMPLE, CROSSED = 0.9, 0.65
NEAR, FAR, FAR_TRIANGLE = 0.85, 0.35, 0.65
REACH, REACH_TRIANGLE = 6, 3  # times the extent of the others, or the first side of a triangle


@dataclass(frozen=True)
class Shapes:
    """What lines of each number of columns are (the class not counted)."""

    kinds: Mapping[int, LineKind] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)  # of numbers of columns that mean nothing, or two things
    keypoints: tuple[int, int] | None = None  # number, and numbers of each
    stated: bool = False  # whether the yaml says so

    def of(self, columns: int) -> LineKind | None:
        """What a line of this many numbers is; ``None``, and a text in :meth:`problem`, where it is nothing."""
        return "box" if columns == 4 else self.kinds.get(columns)

    def problem(self, columns: int) -> str:
        """Why a line of this many numbers is nothing."""
        return self.problems.get(columns, "expected class and four numbers")


def find_shapes(lines: Iterable[Sequence[float]], kpt_shape: tuple[int, int] | None = None, task: str = "") -> Shapes:
    """The shapes of a set, from the numbers of all its lines; ``kpt_shape`` and ``task`` are those of its yaml."""
    by_length: dict[int, list[Sequence[float]]] = {}
    for numbers in lines:
        by_length.setdefault(len(numbers), []).append(numbers)
    counts = Counter({length: len(same) for length, same in by_length.items()})
    arrays = {length: _finite(same) for length, same in by_length.items() if length != 4}
    if kpt_shape is not None and task != "segment":
        return _stated(kpt_shape, arrays)
    kinds: dict[int, LineKind] = {}
    problems: dict[int, str] = {}
    longer = {length: a for length, a in arrays.items() if length > 5}
    keypoints = None
    if len(longer) == 1 and task not in ("segment", "obb"):
        ((length, array),) = longer.items()
        kind, problem, keypoints = _constant(array, counts[4])
        if kind is not None:
            kinds[length] = kind
        elif problem:
            problems[length] = problem
    for length, array in longer.items():
        if length not in kinds and length not in problems and (problem := _beyond(array)):
            problems[length] = problem
        elif length not in kinds and length not in problems and length % 2 == 0:
            kinds[length] = "rotated" if len(longer) == 1 and length == 8 and _parallelograms(array) else "polygon"
        elif length not in kinds and length not in problems:
            last = array[:, -1]
            hint = " (the last one may be a confidence)" if ((last >= 0) & (last <= 1)).all() else ""
            problems[length] = f"expected class and four numbers, or the x and y of each point{hint}"
    if 5 in arrays:
        kind, problem = _sixth(arrays[5][:, 4], alone=len(counts) == 1)
        if kind is not None:
            kinds[5] = kind
        problems[5] = problem
    return Shapes(kinds, problems, keypoints)


def _finite(lines: list[Sequence[float]]) -> Floats:
    """The lines as rows, without those that have a number that is not finite."""
    rows = np.array(lines, np.float64)
    return np.asarray(rows[np.isfinite(rows).all(1)])


def _stated(kpt_shape: tuple[int, int], arrays: Mapping[int, Floats]) -> Shapes:
    """By ``kpt_shape``; visibilities may be there or not."""
    number, values = kpt_shape
    allowed = {4 + number * values, 4 + number * 2}
    if values == 2 and (three := 4 + number * 3) in arrays and _visibilities(arrays[three]):
        allowed.add(three)
    problem = f"expected {5 + number * values}: class, box and {number} keypoints of {values} numbers (kpt_shape)"
    problems = {length: problem for length in arrays if length not in allowed}
    return Shapes(dict.fromkeys(allowed, "keypoints"), problems, kpt_shape, stated=True)


def _constant(array: Floats, boxes: int) -> tuple[LineKind | None, str, tuple[int, int] | None]:
    """What the only long lines of a set are, if not polygons: kind, problem, number and size of the keypoints."""
    length = array.shape[1]
    if (length - 4) % 3 == 0 and _visibilities(array):
        return "keypoints", "", ((length - 4) // 3, 3)
    if length % 2 or not len(array):
        return None, "", None
    if length == 8 and _parallelograms(array):
        return None, "", None
    pairs = (length - 4) // 2
    keypoints = _like_keypoints(array)
    if keypoints:
        return "keypoints", "", (pairs, 2)
    if keypoints is not None or boxes:
        return None, "", None
    said = f"{pairs} keypoint{'s' * (pairs > 1)} or a polygon of {length // 2} points"
    mend = f"kpt_shape: [{pairs}, 2] or task: segment in the yaml decides"
    return None, f"which may be a box with {said}: the numbers fit both, and {mend}", None


def _like_keypoints(array: Floats) -> bool | None:
    """Whether lines (N, 4 + 2 K) are a box with keypoints (and no polygon); ``None`` where it may be either."""
    inside, marked = _points_in_box(array)
    array, inside = array[marked], inside[marked]
    n, points = len(array), array.shape[1] // 2
    if not n:
        return None
    few = n < FEW
    in_box, near = float(inside.mean()), float(_first_are_near(array).mean())
    simple = float(_simple(array).mean()) if points > 3 else 1.0
    if in_box <= (1 - NOT_IN_BOX if few else NOT_IN_BOX):
        return False
    crossed = simple <= (1 - CROSSED if few else CROSSED)
    far = n >= 3 and near <= (0 if few else FAR if points > 3 else FAR_TRIANGLE)
    if in_box >= IN_BOX and (crossed or far):
        return True
    if simple >= SIMPLE and near >= NEAR and (points > 4 or n >= MANY) and points > 3 and not few:
        return False
    return None


def _beyond(array: Floats) -> str:
    """What is wrong where the first points are fractions of the image and later columns are something else."""
    if not len(array) or np.abs(array[:, :4]).max() > 1.5 or (np.abs(array[:, 4:]).max(1) > 1.5).mean() < 0.5:
        return ""
    worst = 4 + int(np.abs(array[:, 4:]).max(0).argmax())
    low, high = array[:, worst].min(), array[:, worst].max()
    return f"expected the x and y of each point, but column {worst + 2} goes from {low:g} to {high:g}"


def _visibilities(array: Floats) -> bool:
    """Whether every third number after the box is 0, 1 or 2, and the boxes are such."""
    flags = array[:, 6::3]
    return bool(len(array) and np.isin(flags, (0.0, 1.0, 2.0)).all() and (array[:, 2:4] > 0).all())


def _points_in_box(array: Floats) -> tuple[Bools, Bools]:
    """(N,) whether the points after the first four numbers lie in the box of these and that in its image; (N,) whether
    there is such a point: 0, 0 is a keypoint that is not marked."""
    center, size = array[:, None, :2], array[:, None, 2:4]
    points = array[:, 4:].reshape(len(array), -1, 2)
    off = (points == 0).all(2)
    inside = (np.abs(points - center) <= size / 2 + MARGIN * size + 0.005).all(2) | off
    low, high = array[:, :2] - array[:, 2:4] / 2, array[:, :2] + array[:, 2:4] / 2
    sound = ((array[:, 2:4] > 0) & (low >= -0.01) & (high <= 1.01)).all(1)
    return np.asarray(inside.all(1) & sound), np.asarray(~off.all(1))


def _first_are_near(array: Floats) -> Bools:
    """(N,) whether the first two points of a polygon are near the others, which a center and a size seldom are."""
    points = array.reshape(len(array), -1, 2)
    rest = np.where((points[:, 2:] == 0).all(2, keepdims=True), np.nan, points[:, 2:])
    if rest.shape[1] == 1:
        lengths = np.linalg.norm(points[:, :2] - rest, axis=2)
        return np.asarray(lengths[:, 1] <= REACH_TRIANGLE * lengths[:, 0])
    low, high = np.nanmin(rest, axis=1), np.nanmax(rest, axis=1)
    reach = REACH * (high - low).max(1, keepdims=True)
    first = points[:, :2]
    return np.asarray(((first >= (low - reach)[:, None]) & (first <= (high + reach)[:, None])).all((1, 2)))


def _simple(array: Floats) -> Bools:
    """(N,) whether the edges of the polygons x1 y1 x2 y2 ... do not cross."""
    p = array.reshape(len(array), -1, 2)
    q = np.roll(p, -1, 1)
    n = p.shape[1]
    first, second = np.triu_indices(n, 2)
    apart = ~((first == 0) & (second == n - 1))
    a, b, c, d = p[:, first[apart]], q[:, first[apart]], p[:, second[apart]], q[:, second[apart]]
    crossed = (_turn(a, b, c) * _turn(a, b, d) < 0) & (_turn(c, d, a) * _turn(c, d, b) < 0)
    return np.asarray(~crossed.any(1))


def _turn(a: Floats, b: Floats, c: Floats) -> Floats:
    """On which side of the line from a to b the point c lies."""
    u, v = b - a, c - a
    return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])


def _parallelograms(array: Floats) -> bool:
    """Whether most lines of eight numbers are the corners of a rotated box, in order."""
    p = array.reshape(len(array), 4, 2)
    if not len(array):
        return False
    gap = np.abs(p[:, 0] + p[:, 2] - p[:, 1] - p[:, 3]).max(1)
    extent = np.ptp(p, axis=1).max(1)
    return bool((gap <= 0.02 * extent + 1e-4).mean() >= ROTATED)


def _sixth(last: Floats, alone: bool) -> tuple[LineKind | None, str]:
    """What a sixth column is; ``alone``: every line has it."""
    low, high = (float(last.min()), float(last.max())) if len(last) else (0.0, 0.0)
    if low < 0 or high > 1:
        return None, f"the sixth goes from {low:g} to {high:g} (the angle of rotated boxes, or a track?)"
    if not alone:
        return None, "expected class and four numbers (a sixth column may be a confidence: are these detections?)"
    return "confidence", ""
