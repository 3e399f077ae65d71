"""Writes a dataset as CreateML's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..records.dataset import Record
from .plan import ExportPlan, lose_flags, lose_masks, plain_number, write_document, write_image


def write_createml(plan: ExportPlan, out: Path, link: bool) -> None:
    """``[SPLIT/]NAME.jpg`` and ``[SPLIT/]_annotations.createml.json``, as Roboflow lays it out."""
    lose_flags(plan, "CreateML")
    lose_masks(plan, "CreateML")
    for record, folder, name in zip(plan.records, plan.folder, plan.names, strict=True):
        write_image(record, out / folder / name, link)
    for split, members in plan.members.items():
        doc = [createml_entry(plan, i, split) for i in members]
        (out / split).mkdir(exist_ok=True)
        write_document(doc, out / split / "_annotations.createml.json")


def createml_entry(plan: ExportPlan, i: int, split: str) -> dict[str, Any]:
    """The entry of one image; an image of another split's folder is named by its path from here."""
    record, folder = plan.records[i], plan.folder[i]
    name = plan.names[i] if folder == split else f"../{folder}/{plan.names[i]}"
    return {"image": name, "annotations": [_annotation(record, k, plan.classes) for k in range(len(record))]}


def _annotation(record: Record, k: int, classes: tuple[str, ...]) -> dict[str, Any]:
    x1, y1, x2, y2 = record.boxes[k].tolist()
    sides = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}
    coordinates = {side: plain_number(value) for side, value in sides.items()}
    return {"label": classes[record.labels[k]], "coordinates": coordinates}
