"""LabelMe: a JSON file of shapes for each image (also AnyLabeling's and X-AnyLabeling's).

A rectangle is a box; a polygon, a circle or a mask is a box with a mask. Polygons, circles and masks of one class and
``group_id`` are one object, as LabelMe's own converters have it. Points and lines are dropped. ``difficult`` and
``crowd`` are read from the ``flags`` of a shape, where foveal writes them.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....files.reading import Unreadable
from ...records.findings import Findings, counted
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import bitmap_mask, box_around, ellipse, ellipse_box, listed, points_of
from ..validate import flag, valid_size
from .json_file import read_checked

_BOXES = ("rectangle", "rotation")  # the latter is X-AnyLabeling's: four corners
_NO_AREA = ("point", "points", "line", "linestrip")
_MAX_MASK = 1 << 26  # bytes of an encoded mask


class LabelMeSource(EntrySource):
    """A folder of LabelMe's JSON files."""

    format = "labelme"
    image_files = True

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        doc = read_checked(file, findings)
        shapes = doc.get("shapes") if isinstance(doc, dict) else None
        if not isinstance(shapes, list):
            raise Unreadable('not a LabelMe file: it has no list "shapes"', "Export it again")
        named = doc.get("imagePath")
        named = named.strip() if isinstance(named, str) else ""
        size = _size(doc, file, findings)
        image = NamedImage(named or file.stem, "imagePath", size=size, stem=not named, else_named=file.stem)
        _add_shapes(shapes, image, file, findings)
        return [image]


def _size(doc: dict[str, Any], file: Path, findings: Findings) -> tuple[float, float] | None:
    """The stated (width, height); ``None`` where it is missing or invalid (a finding)."""
    width, height = doc.get("imageWidth"), doc.get("imageHeight")
    if width is None or height is None:
        return None
    numbers = valid_size(width, height)
    if numbers is None:
        message = f"the size {str(width)[:40]} x {str(height)[:40]} is invalid; the size of the image file is used"
        findings.add("warning", "size-invalid", file, "imageWidth", message, "Correct it")
    return numbers


def _add_shapes(shapes: list[Any], image: NamedImage, file: Path, findings: Findings) -> None:
    """Fills ``image.objects``."""
    dropped: Counter[str] = Counter()
    ignored: dict[str, None] = {}
    groups: dict[tuple[str, str], NamedObject] = {}
    joined = 0
    for n, shape in enumerate(shapes, 1):
        if not isinstance(shape, dict):
            message = f"{str(shape)[:80]!r} is not a shape; dropped"
            findings.add("warning", "annotation-invalid", file, f"shape {n}", message, "Remove it")
            continue
        kind = str(shape.get("shape_type") or "polygon")  # the first versions have polygons only
        if kind in _NO_AREA:
            dropped[kind] += 1
            continue
        found = _read_shape(shape, kind, f"shape {n}", image.size)
        if isinstance(found, str):
            findings.add("warning", "shape-invalid", file, f"shape {n}", f"{found}; dropped", "Draw it again")
            continue
        ignored |= dict.fromkeys(_read_flags(shape, found, file, f"shape {n}", findings))
        group = shape.get("group_id")
        key = (found.name, str(group))
        if group is None or kind in _BOXES:
            image.objects.append(found)
        elif key in groups and _merge(groups[key], found):
            joined += 1
        else:
            groups[key] = found
            image.objects.append(found)
    for kind, count in dropped.items():
        what = f"{counted(count, 'shape')} of the kind {kind!r}, which has no area; dropped"
        findings.add("warning", "shape-without-area", file, "", what, "Draw a rectangle or a polygon")
    if ignored:
        findings.add("note", "attributes-ignored", file, "flags", f"these flags are ignored: {listed(ignored)}")
    if joined:
        message = f"{counted(joined, 'shape')} of the class and group_id of an earlier one, joined to its object"
        findings.add(
            "note", "shapes-grouped", file, "", message, "Remove the group_id if they are objects of their own"
        )


def _read_shape(shape: dict[str, Any], kind: str, where: str, size: tuple[float, float] | None) -> NamedObject | str:
    """The object of a shape, or why it cannot be used."""
    label = shape.get("label")
    name = label.strip() if isinstance(label, str) else "" if label is None else str(label)
    points = points_of(shape.get("points"))
    if points is None:
        return f"its points {str(shape.get('points'))[:60]} are not pairs of numbers"
    shown = f"of the {kind} {' '.join(f'{v:.12g}' for v in points[:8])}{' ...' * (len(points) > 8)}"
    found = NamedObject(name, (0, 0, 0, 0), where, shown)
    if kind in _BOXES and len(points) >= 4:
        found.box = box_around(points)
    elif kind == "polygon" and len(points) >= 6:
        found.box, found.polygons = box_around(points), [points]
    elif kind == "circle" and len(points) == 4:
        radius = math.dist(points[:2], points[2:])
        found.box = ellipse_box(points[0], points[1], radius, radius)
        found.polygons = [ellipse(points[0], points[1], radius, radius)]
    elif kind == "mask" and len(points) == 4:
        return _read_mask(shape.get("mask"), points, found, size)
    else:
        return f"a {kind!r} of {len(points) // 2} points cannot be read"
    return found


def _read_flags(shape: dict[str, Any], found: NamedObject, file: Path, where: str, findings: Findings) -> list[str]:
    """Sets ``difficult`` and ``crowd``. Returns the names of the other flags that are on."""
    flags: Any = shape.get("flags")
    flags = dict(flags) if isinstance(flags, dict) else {}
    values = {"difficult": flags.pop("difficult", None) or shape.get("difficult"), "crowd": flags.pop("crowd", None)}
    for key, value in values.items():
        on = flag(value)
        if on is None:
            message = f"{key} is {str(value)[:40]!r}, expected true or false; taken as false"
            findings.add("warning", "flag-invalid", file, where, message, "Correct it")
        setattr(found, key, bool(on))
    return [str(key) for key, value in flags.items() if value]


def _read_mask(
    text: object, points: list[float], found: NamedObject, size: tuple[float, float] | None
) -> NamedObject | str:
    """The object of a mask: a PNG in base64, whose corners are ``points``, both inclusive."""
    if size is None:
        return "its mask needs imageWidth and imageHeight"
    try:
        data = base64.b64decode(text if isinstance(text, str) and len(text) < _MAX_MASK else "", validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as png:
            bits = np.asarray(png.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError):
        return "its mask is not a PNG in base64"
    left, top = round(points[0]), round(points[1])
    found.mask = bitmap_mask(bits, left, top, (int(size[0]), int(size[1])))
    if found.mask is None:
        return f"its mask of {bits.shape[1]} x {bits.shape[0]} reaches over the edge of the image"
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    if not len(rows):
        return "its mask is empty"
    found.box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
    found.box = tuple(map(float, found.box))  # type: ignore[assignment]
    return found


def _merge(first: NamedObject, other: NamedObject) -> bool:
    """Adds the polygons of another shape to an object; whether both have polygons, as they must."""
    if first.polygons is None or other.polygons is None:
        return False
    first.polygons = [*first.polygons, *other.polygons]
    first.box = box_around([*first.box, *other.box])
    return True
