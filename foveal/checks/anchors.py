"""Anchor sizes that fit a dataset, for the detectors whose anchors are one a cell: YOLOv2 and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ..assembly.detector import Spec
from ..data.anchor_clusters import cluster, mean_iou
from ..data.open import check_trainable
from ..data.records.dataset import Dataset
from ..errors import UsageError
from ..parts.necks.fpn import Neck
from ..parts.priors.cells import Cells


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit the objects of a dataset: mean over the objects of the IoU with the best anchor."""

    objects: int
    current: float  # mean IoU of the spec's own anchors
    by_count: dict[int, float]  # number of anchors -> mean IoU of the best ones found
    cells: Cells  # the spec's cells with the anchors found, as many as it has
    fitted: float  # their mean IoU


def fit_anchors(spec: Spec, dataset: Dataset, *, largest: int = 9, seed: int = 0) -> AnchorFit:
    """Clusters the sizes that objects have in the network's input, by k-means (YOLOv2, section 2).

    ``largest``: the largest number of anchors that is tried. Raises :class:`UsageError` for a detector without such
    anchors, :class:`FovealError` for a dataset without objects or with fewer different sizes than the spec's anchors.
    """
    cells = anchor_cells(spec)
    check_trainable(dataset)
    sides = input_sides(spec, dataset)
    with torch.device("meta"):  # only to learn the strides
        strides = cast(Neck, spec.build(dataset.classes).get_submodule("neck")).strides
    unit = np.repeat(strides if cells.unit == "cells" else np.ones(len(strides)), cells.per_location)[:, None]
    current = np.array([shape for level in cells.shapes for shape in level]) * unit
    count = len(current)
    different = len(np.unique(sides, axis=0))
    clusters = {k: cluster(sides, k, seed=seed) for k in range(1, min(largest, different) + 1)}
    best = clusters.get(count) or cluster(sides, count, seed=seed)
    shapes = (best.shapes / unit).round(3 if cells.unit == "cells" else 1)
    return AnchorFit(
        objects=len(sides),
        current=mean_iou(sides, current),
        by_count={k: found.mean_iou for k, found in clusters.items()},
        cells=replace(cells, shapes=_by_level(shapes.tolist(), cells.per_location)),
        fitted=mean_iou(sides, shapes * unit),
    )


def anchor_cells(spec: Spec) -> Cells:
    """The cells of a detector whose anchors can be fitted. Raises :class:`UsageError` for another."""
    cells, name = spec.grid, type(spec).__name__
    if cells is None:
        raise UsageError(f"{name} has no anchors to fit", fix="Choose one of the YOLO presets: `foveal models`")
    if not spec.tasks["task"].coder.scales_priors:
        raise UsageError(f"this {name} is a YOLOv1, whose boxes have no anchors", fix="Choose a YOLOv2 or YOLOv3")
    return cells


def input_sides(spec: Spec, dataset: Dataset) -> NDArray[Any]:
    """Widths and heights (N, 2) of all objects in pixels of the network's input; ignored objects are left out."""
    sides = []
    for record in dataset.records:
        height, width = spec.input.size(record.height, record.width)
        boxes = record.boxes[~record.ignore]
        sides.append((boxes[:, 2:] - boxes[:, :2]) * [width / record.width, height / record.height])
    return np.concatenate(sides).astype(np.float64)


def _by_level(shapes: Sequence[Sequence[float]], sizes: tuple[int, ...]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Sizes by rising area, dealt out to the levels, finest first."""
    pairs = iter([(w, h) for w, h in shapes])
    return tuple(tuple(next(pairs) for _ in range(size)) for size in sizes)
