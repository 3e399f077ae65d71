"""Objects at the input of a detector, and the best anchor of each, without a pixel.

The network runs on PyTorch's meta device, which computes shapes alone, once a canvas size. The best anchor of an object
is found in closed form: of all boxes of one shape on a grid, the one whose center is nearest to the object's overlaps
it most, because the overlap of two intervals does not grow with the distance of their centers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.two_stage import TwoStage
from ..data.records.dataset import Dataset
from ..files.aliases import Floats
from ..parts.priors.anchors import Anchors
from ..parts.priors.base import PriorSet
from ..parts.priors.cells import Cells
from ..types import Images

Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """One level: the boxes of a cell around its center, and where the cells are; pixels."""

    cell: Floats  # (n, 4)
    first: tuple[float, float]  # center x, y of the first cell
    step: tuple[float, float]
    count: tuple[int, int]  # columns, rows


@dataclass(frozen=True)
class Objects:
    """All objects that count, at the input of the detector."""

    record: NDArray[np.int64]  # (N,) index of the image
    place: NDArray[np.int64]  # (N,) index in its record
    labels: NDArray[np.int64]
    boxes: Floats  # (N, 4) pixels of the input
    frames: Floats  # (R, 4) sx, sy, ox, oy of each image
    sizes: list[Size]  # of each image on its canvas: height, width
    canvases: list[Size]

    def part(self, rows: NDArray[np.int64]) -> Objects:
        """Some of the objects, in the same images."""
        return replace(
            self, record=self.record[rows], place=self.place[rows], labels=self.labels[rows], boxes=self.boxes[rows]
        )


def at_input(spec: Spec, dataset: Dataset) -> Objects:
    """The objects of a set, without crowds and ignored regions, on canvases of one image each."""
    rows, places, labels, boxes = [], [], [], [np.zeros((0, 4))]
    frames, sizes, canvases = [], [], []
    for k, record in enumerate(dataset.records):
        where = spec.input.placement(record.height, record.width)
        frame = (where.width / record.width, where.height / record.height, where.x, where.y)
        keep = np.flatnonzero(~(record.crowd | record.ignore))
        boxes.append(record.boxes[keep] * np.tile(frame[:2], 2) + np.tile(frame[2:], 2))
        rows.append(np.full(len(keep), k))
        places.append(keep)
        labels.append(record.labels[keep])
        frames.append(frame)
        sizes.append((where.height, where.width))
        canvases.append(spec.input.canvas([(where.height, where.width)]))
    none = np.zeros(0, np.int64)
    return Objects(
        np.concatenate([none, *rows]), np.concatenate([none, *places]), np.concatenate([none, *labels]),
        np.concatenate(boxes), np.array(frames).reshape(-1, 4), sizes, canvases,
    )  # fmt: skip


@torch.no_grad()
def map_sizes(detector: OneStage | TwoStage, canvas: Size) -> list[Size]:
    """Height and width of each feature map for a canvas of this size."""
    pixels = torch.empty(1, 3, *canvas, device="meta")
    maps: list[Tensor] = detector.neck(detector.backbone(pixels))
    return [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]


def anchor_grids(priors: PriorSet, maps: Sequence[Size], canvas: Size, strides: Sequence[int]) -> list[Grid]:
    """The levels of ``priors`` for a canvas, from the boxes themselves."""
    one = torch.zeros(1)
    features = [one.expand(1, 1, *size) for size in maps]
    limits = torch.tensor([canvas])
    images = Images(one.expand(1, 3, *canvas), limits, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), limits)
    boxes, start, out = priors(images, features, strides).boxes, 0, []
    for (rows, columns), n in zip(maps, priors.per_location, strict=True):
        level = boxes[start : start + rows * columns * n].double().numpy()
        start += len(level)
        center = (level[0, :2] + level[0, 2:]) / 2
        step_x = float(level[n, 0] - level[0, 0]) if columns > 1 else canvas[1]
        step_y = float(level[columns * n, 1] - level[0, 1]) if rows > 1 else canvas[0]
        cell = level[:n] - np.tile(center, 2)
        out.append(Grid(cell, (float(center[0]), float(center[1])), (step_x, step_y), (columns, rows)))
    return out


def best_anchors(
    priors: PriorSet, objects: Objects, maps: dict[Size, list[Size]], strides: Sequence[int]
) -> tuple[Floats, Floats]:
    """Of each object the best IoU with an anchor of each level (N, levels), and its best anchor (N, 4)."""
    levels = len(priors.per_location)
    found, best = np.zeros((len(objects.boxes), levels)), np.zeros((len(objects.boxes), 4))
    inside = isinstance(priors, Anchors) and priors.inside
    groups: dict[tuple[Size, Size | None], list[int]] = {}
    for k, canvas in enumerate(objects.canvases):
        groups.setdefault((canvas, objects.sizes[k] if inside else None), []).append(k)
    known = {canvas: anchor_grids(priors, sizes, canvas, strides) for canvas, sizes in maps.items()}
    for (canvas, limit), images in groups.items():
        rows = np.flatnonzero(np.isin(objects.record, images))
        if not len(rows):
            continue
        top = np.full(len(rows), -1.0)
        for level, grid in enumerate(known[canvas]):
            iou, anchor = _of_level(grid, objects.boxes[rows], limit, isinstance(priors, Cells))
            found[rows, level] = iou
            better = iou > top
            best[rows[better]] = anchor[better]
            top = np.maximum(top, iou)
    return found, best


def _of_level(grid: Grid, boxes: Floats, limit: Size | None, by_shape: bool) -> tuple[Floats, Floats]:
    """The best IoU (n,) of boxes (n, 4) with the anchors of a level, and that anchor (n, 4).

    ``limit``: anchors beyond an image of this height and width do not count; ``by_shape``: all on the objects' centers.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = (grid.cell[:, :2] + grid.cell[:, 2:]) / 2  # (k, 2)
    first, step, last = np.array(grid.first), np.array(grid.step), np.array(grid.count) - 1
    if by_shape:
        at = np.broadcast_to(center[:, None], (len(boxes), len(grid.cell), 2))
        valid: NDArray[np.bool_] = np.ones(len(grid.cell), np.bool_)
    else:
        low, high = np.zeros_like(offset), np.broadcast_to(last, offset.shape).astype(np.float64)
        if limit is not None:
            edge = np.array(limit[::-1])
            low = np.maximum(low, np.ceil((-grid.cell[:, :2] - first) / step - 1e-6))
            high = np.minimum(high, np.floor((edge - grid.cell[:, 2:] - first) / step + 1e-6))
        valid = np.all(low <= high, axis=1)
        index = np.clip(np.round((center[:, None] - offset - first) / step), low, np.maximum(low, high))
        at = first + index * step
    anchors = np.tile(at, 2) + (grid.cell - np.tile(offset, 2) if by_shape else grid.cell)
    shared = np.minimum(anchors[..., 2:], boxes[:, None, 2:]) - np.maximum(anchors[..., :2], boxes[:, None, :2])
    overlap = np.where((shared > 0).all(-1) & valid, shared.prod(-1), 0.0)
    area = (grid.cell[:, 2:] - grid.cell[:, :2]).prod(1) + (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    iou = overlap / np.maximum(area - overlap, 1e-12)
    which = iou.argmax(1)
    rows = np.arange(len(boxes))
    return iou[rows, which], anchors[rows, which]
