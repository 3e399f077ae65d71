"""Clusters the box sizes of a dataset into anchors: k-means with the distance 1 - IoU (YOLOv2, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FovealError
from ..files.aliases import Floats

ROUNDS = 300  # iterations of one run, which ends earlier when no box changes its cluster


@dataclass(frozen=True)
class Clusters:
    """Anchors by increasing area, and the mean over all boxes of the IoU with the nearest one."""

    shapes: Floats  # (k, 2)
    mean_iou: float


def shape_iou(sides: Floats, shapes: Floats) -> Floats:
    """Widths and heights (N, 2) and (k, 2) -> (N, k), the IoU of boxes with the same center."""
    shared = np.minimum(sides[:, None], shapes).prod(-1)
    overlap: Floats = shared / (sides.prod(-1)[:, None] + shapes.prod(-1) - shared)
    return overlap


def mean_iou(sides: Floats, shapes: Floats) -> float:
    """The mean over box sizes (N, 2) of the IoU with the nearest of the shapes (k, 2)."""
    return float(shape_iou(sides, shapes).max(1).mean())


def cluster(sides: Floats, k: int, *, seed: int = 0, runs: int = 10) -> Clusters:
    """The best of ``runs`` k-means runs over boxes of these widths and heights (N, 2).

    Each run starts from k different random boxes, and alternates between assigning every box to its nearest shape (the
    first of equals) and replacing each shape by the mean of its cluster, until no assignment changes. An empty cluster
    retains its shape. Raises :class:`FovealError` if there are fewer than k different boxes.
    """
    distinct = np.unique(sides, axis=0)
    if not 1 <= k <= len(distinct):
        raise FovealError(
            f"{k} shapes were requested, but the boxes have {len(distinct)} different sizes", fix="Request fewer shapes"
        )
    rng = np.random.default_rng(seed)
    results = [_lloyd(sides, distinct[rng.choice(len(distinct), k, replace=False)]) for _ in range(runs)]
    return max(results, key=lambda clusters: clusters.mean_iou)


def _lloyd(sides: Floats, shapes: Floats) -> Clusters:
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
