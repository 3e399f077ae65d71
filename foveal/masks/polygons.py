"""Rasterizes polygons into masks, with the same pixels as pycocotools.

Corners are rounded to fifths of a pixel, the outline is traced in such steps, and its crossings with the middle of
every column are recorded; between two crossings the column is inside. Source: cocoapi, ``rleFrPoly``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import FovealError
from ..files.aliases import Ints
from .rle import Masks, ranges

STEPS = 5  # of the outline for each pixel
FARTHEST = 1 << 20  # pixels


def rasterize(objects: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> Masks:
    """One mask for each object on a canvas of ``size`` = height, width: the union of its polygons [x1, y1, x2, ...].

    Memory grows with the length of the outlines, also outside the canvas. Raises :class:`FovealError` for a corner that
    is not finite or :data:`FARTHEST` pixels away.
    """
    polygons = [np.asarray(p, np.float64).reshape(-1, 2) for o in objects for p in o]
    owner = np.repeat(np.arange(len(objects)), [len(o) for o in objects])
    which, x, top, bottom = _columns(polygons, size)
    return Masks.of_runs(size, len(objects), owner[which], x, top, bottom)


def _columns(polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> tuple[Ints, Ints, Ints, Ints]:
    """Polygon, column, first row and row after the last of every interval inside."""
    height, width = size
    which, u, v = _outline(polygons)
    step = np.flatnonzero((u[1:] != u[:-1]) & (which[1:] == which[:-1])) + 1
    # the column whose middle is between two consecutive points of the outline, if there is one
    x = (np.minimum(u[step], u[step - 1]) + 0.5) / STEPS - 0.5
    y = (np.minimum(v[step], v[step - 1]) + 0.5) / STEPS - 0.5
    good = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    which, x, y = which[step][good], x[good].astype(np.int64), np.ceil(y[good].clip(0, height)).astype(np.int64)
    order = np.lexsort((y, x, which))
    which, x, y = which[order], x[order], y[order]
    # a closed outline crosses a column an even number of times: in, out, in, out
    return which[::2], x[::2], y[::2], y[1::2]


def _outline(polygons: Sequence[NDArray[np.float64]]) -> tuple[Ints, Ints, Ints]:
    """Polygon, x and y, in fifths of a pixel, of every step along the outlines."""
    if not polygons:
        none = np.zeros(0, np.int64)
        return none, none, none
    begin = np.concatenate(polygons)
    if not (np.abs(begin) < FARTHEST).all():
        what = f"a corner of a polygon is at {begin[~(np.abs(begin) < FARTHEST).all(1)][0].tolist()}"
        raise FovealError(f"{what}, expected pixels within {FARTHEST:,} of the image's corner")
    end = np.concatenate([np.roll(p, -1, 0) for p in polygons])
    which = np.repeat(np.arange(len(polygons)), [len(p) for p in polygons])
    (xs, ys), (xe, ye) = ((STEPS * corner + 0.5).astype(np.int64).T for corner in (begin, end))  # truncated to zero
    moving = (xs != xe) | (ys != ye)
    which, xs, ys, xe, ye = (values[moving] for values in (which, xs, ys, xe, ye))
    dx, dy = np.abs(xe - xs), np.abs(ye - ys)
    flat = dx >= dy  # the longer axis is traced in fifths of a pixel, from its lower end
    back = np.where(flat, xs > xe, ys > ye)
    x0, y0 = np.where(back, xe, xs), np.where(back, ye, ys)
    long = np.where(flat, dx, dy)
    slope = np.where(flat, np.where(back, ys - ye, ye - ys), np.where(back, xs - xe, xe - xs)) / np.maximum(long, 1)
    edge = np.repeat(np.arange(len(long)), long + 1)
    t = ranges(np.zeros(len(long), np.int64), long + 1)
    t = np.where(back[edge], long[edge] - t, t)
    short = (np.where(flat, y0, x0)[edge] + slope[edge] * t + 0.5).astype(np.int64)
    far = np.where(flat, x0, y0)[edge] + t
    walk = flat[edge]
    return which[edge], np.where(walk, far, short), np.where(walk, short, far)
