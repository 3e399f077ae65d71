"""How the masks of an object are written by formats that have a shape and no box beside it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.shapes import box_around
from ..records.dataset import IndexedMask, Record
from ..records.findings import counted
from ..records.segmentation import masks_of
from .plan import ExportPlan

_SAME = 1e-6  # pixels


class MaskShape(NamedTuple):
    """An object as one shape: a box, polygons, or a bitmap at (left, top)."""

    box: tuple[float, float, float, float]
    polygons: list[list[float]] | None = None
    bits: NDArray[np.bool_] | None = None  # (h, w)
    left: int = 0
    top: int = 0


def shapes_of(plan: ExportPlan, record: Record, format: str, worst: dict[str, float]) -> list[MaskShape]:
    """The shape of each object: its mask where it has one, else its box.

    ``worst`` collects by how many pixels a box differs from that of its mask, which is what is read again, and the
    number of such objects (:func:`report_boxes`).
    """
    masks: list[Any] = list(record.masks or [None] * len(record))
    if any(isinstance(mask, dict | IndexedMask) for mask in masks):
        dense = masks_of(masks, record.width, record.height)
        extents = dense.extents()
    shapes = []
    for k, mask in enumerate(masks):
        box = tuple(record.boxes[k].tolist())
        shape = MaskShape(box)
        if isinstance(mask, list):
            shape = MaskShape(box_around([v for polygon in mask for v in polygon]), mask)
        elif mask is not None and extents[k].any():
            left, top, right, bottom = map(int, extents[k].tolist())
            bits = masks_of([mask], record.width, record.height).dense()[0, top:bottom, left:right]
            shape = MaskShape((left, top, right, bottom), None, bits, left, top)
        edge = record.width, record.height, record.width, record.height
        read = [min(max(v, 0.0), side) for v, side in zip(shape.box, edge, strict=True)]
        difference = max(abs(a - b) for a, b in zip(read, box, strict=True))
        if difference > _SAME:
            worst["count"] = worst.get("count", 0) + 1
            worst["pixels"] = max(worst.get("pixels", 0.0), difference)
        shapes.append(shape)
    return shapes


def report_boxes(plan: ExportPlan, format: str, worst: dict[str, float]) -> None:
    """Notes the boxes that change."""
    if worst:
        boxes = counted(int(worst["count"]), "box", "boxes")
        message = f"{boxes} written as around the mask (other by up to {worst['pixels']:.3g} px)"
        plan.lose("boxes-changed", f"{message}: {format} has no box beside a mask", "warning")
