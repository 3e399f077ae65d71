"""Parses the categories and annotations of a COCO JSON file; what cannot be parsed becomes a finding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...records.findings import Findings
from ..validate import ParsedObject, flag, number, unique_names

Key = int | str  # an id of COCO's, see :func:`as_key`
Warn = Callable[[str, str, str, str], None]  # code, location in the file, message, fix


@dataclass
class Categories:
    """The categories of a COCO file, in the order of their ids."""

    names: list[str] = field(default_factory=list)  # without repeats
    ids: list[int] = field(default_factory=list)  # of each name
    label_of: dict[Key, int] = field(default_factory=dict)  # category id as written -> index into ``names``

    @classmethod
    def parse(cls, entries: list[Any], file: Path, findings: Findings) -> Categories:
        """Ids that are not numbers are numbered in the order of the file."""
        names: dict[int, str] = {}
        keys: dict[int, Key] = {}

        def warn(code: str, where: str, message: str, fix: str) -> None:
            findings.add("warning", code, file, where, message, fix)

        for n, entry in enumerate(entries):
            where = f"categories[{n}]"
            key = as_key(entry.get("id")) if isinstance(entry, dict) else None
            if key is None:
                warn("category-invalid", where, f"{shortened(entry)} has no id; dropped", "Give it an id")
                continue
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                message = f"category id {key} has no name; it is called {str(key)!r}"
                warn("category-invalid", where, message, "Give it a name")
                name = str(key)
            if key in keys.values():
                message = f"the category id {key} occurs twice; the repeat is dropped"
                warn("category-repeated", where, message, "Remove the repeat or change its id")
                continue
            id = key if isinstance(key, int) else len(names) + 1
            while id in names:
                id += 1
            names[id], keys[id] = name.strip(), key
        ids = sorted(names)
        unique, labels = unique_names([names[id] for id in ids], file, findings)
        first_ids: dict[int, int] = {}
        for id, label in zip(ids, labels, strict=True):
            first_ids.setdefault(label, id)
        label_of = {keys[id]: label for id, label in zip(ids, labels, strict=True)}
        return cls(unique, [first_ids[label] for label in range(len(unique))], label_of)


def parse_object(annotation: dict[str, Any], label: int, name: str, where: str, warn: Warn) -> ParsedObject | None:
    """The object of an annotation, whose class is ``name``; ``None`` where its box cannot be parsed."""
    where = f"{where} ({name})"
    bbox = annotation.get("bbox")
    if bbox is None or bbox == []:
        warn("box-missing", where, "it has no bbox; dropped", "Add its box")
        return None
    values = [number(v) for v in bbox] if isinstance(bbox, list) else []
    x, y, w, h = values if len(values) == 4 else (None,) * 4
    if x is None or y is None or w is None or h is None:
        warn("box-not-number", where, f"its bbox {shortened(bbox)} is not four numbers; dropped", "Correct it")
        return None
    area = number(annotation.get("area"))
    if area is not None and not (math.isfinite(area) and area >= 0):
        warn("area-invalid", where, f"its area {area} is invalid; the area of its box is used", "Correct it")
        area = None
    flags = {key: flag(annotation.get(key)) for key in ("iscrowd", "difficult")}
    for key, value in flags.items():
        if value is None:
            message = f"{key} is {shortened(annotation.get(key))}, expected 0 or 1; taken as 0"
            warn("flag-invalid", where, message, "Correct it")
    return ParsedObject(
        (x, y, x + w, y + h),
        label,
        where,
        f"[{x:.12g}, {y:.12g}, {w:.12g}, {h:.12g}]",
        crowd=bool(flags["iscrowd"]),
        difficult=bool(flags["difficult"]),
        area=area,
        xywh=(x, y, w, h),
        mask=annotation.get("segmentation"),
    )


def as_key(value: object) -> Key | None:
    """An id: whole numbers as ``int`` in any notation (7, 7.0, "7"), other text as it is, else ``None``."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 and str(int(text)) == text else text
    return None


def shortened(value: object) -> str:
    """A value for a message: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
