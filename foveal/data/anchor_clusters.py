"""Shapes of boxes for a data set: k-means with 1 - IoU as the distance (YOLOv2, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FovealError

Sides = NDArray[np.float64]  # (N, 2): widths and heights
ROUNDS = 300  # of one run; it ends earlier when no box changes its cluster


@dataclass(frozen=True)
class Clusters:
    """Shapes by rising area, and how well they fit: the mean over all boxes of the IoU with the nearest one."""

    shapes: Sides  # (k, 2)
    mean_iou: float


def shape_iou(sides: Sides, shapes: Sides) -> Sides:
    """(N, 2) and (k, 2) -> (N, k): the IoU of boxes laid on one center."""
    shared = np.minimum(sides[:, None], shapes).prod(-1)
    overlap: Sides = shared / (sides.prod(-1)[:, None] + shapes.prod(-1) - shared)
    return overlap


def mean_iou(sides: Sides, shapes: Sides) -> float:
    """The mean over boxes (N, 2) of the IoU with the nearest of the shapes (k, 2)."""
    return float(shape_iou(sides, shapes).max(1).mean())


def cluster(sides: Sides, k: int, *, seed: int = 0, runs: int = 10) -> Clusters:
    """The best of ``runs`` k-means runs over boxes of these widths and heights (N, 2).

    Each starts from k different boxes drawn at random, gives every box to its nearest shape (the first of equals),
    makes the mean of a cluster its shape, and goes on until nothing changes. A cluster that loses all its boxes keeps
    its shape. Raises :class:`FovealError` where there are fewer than k different boxes.
    """
    distinct = np.unique(sides, axis=0)
    if not 1 <= k <= len(distinct):
        raise FovealError(
            f"{k} shapes wanted, but the boxes have {len(distinct)} different sizes", fix="Ask for fewer shapes"
        )
    rng = np.random.default_rng(seed)
    found = [_lloyd(sides, distinct[rng.choice(len(distinct), k, replace=False)]) for _ in range(runs)]
    return max(found, key=lambda clusters: clusters.mean_iou)


def _lloyd(sides: Sides, shapes: Sides) -> Clusters:
    owner: NDArray[Any] = np.full(len(sides), -1)
    for _ in range(ROUNDS):
        nearest = shape_iou(sides, shapes).argmax(1)
        if (nearest == owner).all():
            break
        owner = nearest
        count = np.bincount(owner, minlength=len(shapes))[:, None]
        total = np.stack([np.bincount(owner, column, len(shapes)) for column in sides.T], 1)
        shapes = np.where(count > 0, total / np.maximum(count, 1), shapes)
    return Clusters(shapes[np.argsort(shapes.prod(1), kind="stable")], mean_iou(sides, shapes))
