"""Writes a dataset as LabelMe's JSON files."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..records.dataset import Record
from .plan import ExportPlan, lose_overlaps, plain_number, write_document, write_image
from .shapes import MaskShape, report_boxes, shapes_of


def write_labelme(plan: ExportPlan, out: Path, link: bool) -> None:
    """``[SPLIT/]NAME.jpg`` and ``[SPLIT/]NAME.json``."""
    lose_overlaps(plan, "LabelMe")
    worst: dict[str, float] = {}
    for record, folder, name in zip(plan.records, plan.folder, plan.names, strict=True):
        write_image(record, out / folder / name, link)
        shapes = shapes_of(plan, record, "LabelMe", worst)
        doc = labelme_document(record, shapes, plan.classes, name)
        write_document(doc, out / folder / f"{Path(name).stem}.json")
    report_boxes(plan, "LabelMe", worst)


def labelme_document(record: Record, shapes: list[MaskShape], classes: tuple[str, ...], name: str) -> dict[str, Any]:
    """The document of one image. The polygons of an object share a ``group_id``."""
    entries: list[dict[str, Any]] = []
    for k, shape in enumerate(shapes):
        flags = {key: True for key in ("difficult", "crowd") if getattr(record, key)[k]}
        entry: dict[str, Any] = {
            "label": classes[record.labels[k]],
            "group_id": None,
            "description": "",
            "flags": flags,
        }
        if shape.polygons is not None:
            group = k if len(shape.polygons) > 1 else None
            entry |= {"shape_type": "polygon", "group_id": group}
            entries += [{**entry, "points": _pairs(polygon)} for polygon in shape.polygons]
            continue
        if shape.bits is None:
            entries.append({**entry, "shape_type": "rectangle", "points": _pairs(shape.box)})
            continue
        height, width = shape.bits.shape
        corners = (shape.left, shape.top, shape.left + width - 1, shape.top + height - 1)
        file = io.BytesIO()
        Image.fromarray(shape.bits.astype(np.uint8) * 255).save(file, "PNG")
        text = base64.b64encode(file.getvalue()).decode()
        entries.append({**entry, "shape_type": "mask", "points": _pairs(corners), "mask": text})
    head: dict[str, Any] = {"version": "5.4.1", "flags": {}, "shapes": entries, "imagePath": name, "imageData": None}
    return {**head, "imageHeight": record.height, "imageWidth": record.width}


def _pairs(values: Any) -> list[list[float]]:
    numbers = [plain_number(float(v)) for v in values]
    return [[numbers[k], numbers[k + 1]] for k in range(0, len(numbers), 2)]
