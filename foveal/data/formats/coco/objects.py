"""Parses the categories and annotations of a COCO JSON file; what cannot be parsed becomes a finding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....masks.rle import Masks
from ...records.findings import Findings, Severity
from ...records.segmentation import read_lengths
from ..validate import Box, ParsedObject, flag, number, unique_names
from .ids import Key, as_key

Warn = Callable[[str, str, str, str], None]  # code, location in the file, message, fix
Tell = Callable[[Severity, str, str, str, str], None]  # severity, code, location, message with {n}, fix


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


def without_root(entries: list[Any], annotations: list[Any]) -> tuple[list[Any], str]:
    """The categories without Roboflow's root, and its name.

    The root has the lowest id, no object and no supercategory, and is the supercategory of all the others.
    """
    if not all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries) or len(entries) < 2:
        return entries, ""
    keys = [as_key(e.get("id")) for e in entries]
    numbers = [key for key in keys if isinstance(key, int)]
    used = {as_key(a.get("category_id")) for a in annotations if isinstance(a, dict)}
    for n, root in enumerate(entries):
        others = entries[:n] + entries[n + 1 :]
        top = root.get("supercategory") in (None, "", "none") and keys[n] == min(numbers, default=None)
        if top and keys[n] not in used and all(e.get("supercategory") == root["name"] for e in others):
            return others, str(root["name"])
    return entries, ""


def parse_object(
    annotation: dict[str, Any], label: int, name: str, where: str, warn: Warn, tell: Tell
) -> ParsedObject | None:
    """The object of an annotation, whose class is ``name``; ``None`` where its box cannot be parsed.

    ``warn`` takes what is wrong with it, ``tell`` what it has in common with others.
    """
    where = f"{where} ({name})"
    mask, shape = _segmentation(annotation.get("segmentation"))
    if shape:
        tell("note", shape, where, f"the segmentation of {{n}} is {_SHAPES[shape]}", "")
    box = _stated_box(annotation, where, tell)
    around = None if box is not None else _extent(mask)
    xywh = box or around
    if xywh is None:
        _report_no_box(annotation.get("bbox"), where, warn)
        return None
    if around is not None:
        tell("note", "box-from-mask", where, "{n} without a valid bbox: the box around the segmentation is used", "")
    x, y, w, h = xywh
    area = number(annotation.get("area"))
    if area is not None and not (math.isfinite(area) and area >= 0):
        warn("area-invalid", where, f"its area {area} is invalid; the area of its box is used", "Correct it")
        area = None
    flags = {key: flag(annotation.get(key)) for key in ("iscrowd", "difficult")}
    for key, value in flags.items():
        if value is None:
            message = f"{key} is {shortened(annotation.get(key))}, expected 0 or 1; taken as 0"
            warn("flag-invalid", where, message, "Correct it")
    if annotation.get("ignore") and not flags["iscrowd"]:
        message = '{n} with "ignore", which COCO does not have, are used like the others'
        tell("warning", "flag-unknown", where, message, "Set iscrowd, or remove them")
    return ParsedObject(
        (x, y, x + w, y + h),
        label,
        where,
        f"[{x:.12g}, {y:.12g}, {w:.12g}, {h:.12g}]",
        crowd=bool(flags["iscrowd"]),
        difficult=bool(flags["difficult"]),
        area=area,
        xywh=(x, y, w, h),
        mask=mask,
        from_mask=around is not None,
        numbers=(x, y, w, h) if around is None else None,
    )


_SHAPES = {
    "mask-flat": "a flat list of numbers; it is used as one polygon",
    "mask-points": "a list of points; it is used as one polygon",
    "mask-in-list": "a list of one dict of run lengths; the dict is used",
}


def _segmentation(value: Any) -> tuple[Any, str]:
    """A segmentation in COCO's form, and in which other form it was written (a key of ``_SHAPES``)."""
    if not isinstance(value, list) or not value:
        return value, ""
    if len(value) >= 6 and len(value) % 2 == 0 and set(map(type, value)) <= {int, float}:
        return [value], "mask-flat"
    if len(value) == 1 and isinstance(value[0], dict):
        return value[0], "mask-in-list"
    if len(value) == 1 and isinstance(value[0], list) and _points(value[0]):
        value = value[0]
    if _points(value):
        return [[number for point in value for number in point]], "mask-points"
    return value, ""


def _points(value: list[Any]) -> bool:
    pairs = (isinstance(p, list) and len(p) == 2 and set(map(type, p)) <= {int, float} for p in value)
    return len(value) >= 3 and all(pairs)


def _stated_box(annotation: dict[str, Any], where: str, tell: Tell) -> Box | None:
    """x, y, width and height of the bbox."""
    bbox = _four(annotation.get("bbox"))
    values = [number(v) for v in bbox] if isinstance(bbox, list) else []
    x, y, w, h = values if len(values) == 4 else (None,) * 4
    if x is None or y is None or w is None or h is None:
        return None
    if bbox is not annotation["bbox"]:
        message = f"the bbox of {{n}} is not a list of four numbers ({shortened(annotation['bbox'])}); read as {bbox}"
        tell("note", "box-form", where, message, "")
    if annotation.get("bbox_mode") == 0 and not isinstance(annotation["bbox_mode"], bool):
        tell("note", "box-mode", where, "{n} with bbox_mode 0, which is Detectron2's name for corners: read so", "")
        return x, y, w - x, h - y
    return x, y, w, h


def _four(bbox: Any) -> Any:
    """The list in a bbox that is a text, a list of one list, or a dict of x, y, width and height."""
    if isinstance(bbox, str) and len(bbox) < 200:
        try:
            return json.loads(bbox)
        except (ValueError, RecursionError):
            return bbox
    if isinstance(bbox, list) and len(bbox) == 1 and isinstance(bbox[0], list):
        return bbox[0]
    if isinstance(bbox, dict):
        for keys in (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height")):
            if set(keys) <= set(bbox):
                return [bbox[key] for key in keys]
    return bbox


def _report_no_box(bbox: Any, where: str, warn: Warn) -> None:
    if bbox is None or bbox == []:
        warn("box-missing", where, "it has no bbox; dropped", "Add its box")
    elif isinstance(bbox, list) and len(bbox) in (5, 8) and all(number(v) is not None for v in bbox):
        kind = "a rotated box or a confidence" if len(bbox) == 5 else "the corners of a rotated box"
        message = f"its bbox has {len(bbox)} numbers ({kind}?), expected x, y, width and height; dropped"
        warn("box-rotated", where, message, "Write the box around it as x, y, width, height")
    else:
        warn("box-not-number", where, f"its bbox {shortened(bbox)} is not four numbers; dropped", "Correct it")


def _extent(mask: Any) -> Box | None:
    """x, y, width and height of a segmentation; ``None`` where it cannot be read."""
    try:
        if isinstance(mask, dict):
            lengths, (height, width) = read_lengths(mask.get("counts")), map(int, mask["size"])
            if int(lengths.sum()) != height * width or (lengths < 0).any() or not lengths[1::2].any():
                return None
            x1, y1, x2, y2 = Masks.of_counts([lengths], (height, width)).extents()[0].tolist()
        elif isinstance(mask, list):
            polygons = [p for p in mask if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
            corners = np.array([n for p in polygons for n in p], np.float64).reshape(-1, 2)
            (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
        else:
            return None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return x1, y1, x2 - x1, y2 - y1


def shortened(value: object) -> str:
    """A value for a message: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
