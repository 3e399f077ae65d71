"""VGG Image Annotator (VIA), versions 1 and 2: a project, or its annotations alone.

A rect is a box; a polygon, a circle or an ellipse is a box with a mask; points and lines are dropped. VIA has no class:
it is the value of the one attribute that all regions share. Where regions have no attribute at all, they are of one
class, ``object``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable
from ...records.findings import Findings, counted
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import box_around, ellipse, ellipse_box, numbers_of
from ..validate import Box
from .json_file import read_checked

_USUAL = ("class", "label", "category", "name", "type", "object", "class_name", "species")
_NO_AREA = ("point", "polyline", "line")
ONLY_CLASS = "object"


@dataclass
class ViaRegion:
    """One region, whose attributes are not yet a class."""

    object: NamedObject
    attributes: dict[str, Any]


class ViaSource(EntrySource):
    """One JSON file of VIA, or one for each split."""

    format = "via"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        doc = read_checked(file, findings)
        entries = doc.get("_via_img_metadata", doc) if isinstance(doc, dict) else doc
        if not isinstance(entries, dict | list):
            raise Unreadable("not a VIA file: expected images with regions", "Export it again")
        images: list[NamedImage] = []
        regions: list[ViaRegion] = []
        for key, entry in entries.items() if isinstance(entries, dict) else enumerate(entries):
            where = f"[{str(key)[:60]!r}]" if isinstance(key, str) else f"[{key}]"
            name = entry.get("filename") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.strip():
                if not str(key).startswith("_via"):
                    message = f"{str(entry)[:60]} names no image; skipped"
                    findings.add("warning", "image-invalid", file, where, message, 'Add "filename"')
                continue
            if "regions" not in entry:
                message = f"{name!r} has no list of regions, so its objects are unknown; skipped"
                findings.add("warning", "annotation-missing", file, where, message, 'Add "regions" (may be empty)')
                images.append(NamedImage(name.strip(), where, skipped=True))
                continue
            found = list(read_regions(entry.get("regions"), where, file, findings))
            images.append(NamedImage(name.strip(), where, [r.object for r in found], layout="top-left"))
            regions += found
        name_regions(regions, file, findings)
        return images


def read_regions(regions: Any, where: str, file: Path, findings: Findings) -> Iterator[ViaRegion]:
    """The regions that are boxes or have an area; a list, or VIA 1's numbered object."""
    if isinstance(regions, dict):
        regions = list(regions.values())
    if regions is not None and not isinstance(regions, list):
        message = f"its regions are {str(regions)[:60]}, expected a list; the image counts as one without objects"
        findings.add("error", "annotation-invalid", file, where, message, "Correct it")
        return
    dropped: Counter[str] = Counter()
    for k, region in enumerate(regions or ()):
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        place = f"{where}: regions[{k}]"
        if isinstance(shape, dict) and shape.get("name") in _NO_AREA:
            dropped[str(shape["name"])] += 1
            continue
        found = read_shape(shape, place) if isinstance(shape, dict) else None
        if found is None:
            message = f"its shape {str(shape)[:80]} cannot be read; dropped"
            findings.add("warning", "shape-invalid", file, place, message, "Draw it again")
            continue
        yield ViaRegion(found, attributes if isinstance(attributes, dict) else {})
    for kind, count in dropped.items():
        what = f"{counted(count, 'region')} of the kind {kind!r}, which has no area; dropped"
        findings.add("warning", "shape-without-area", file, where, what, "Draw a rect or a polygon")


def read_shape(shape: dict[str, Any], where: str) -> NamedObject | None:
    """The object of ``shape_attributes``, without a class; ``None`` where the shape cannot be read."""

    def values(*keys: str) -> list[float]:
        found = numbers_of([shape.get(key) for key in keys])
        return found if found is not None else [math.nan] * len(keys)

    kind = shape.get("name")
    box: Box
    polygon: list[float] | None = None
    if kind == "rect":
        x, y, w, h = values("x", "y", "width", "height")
        box = x, y, x + w, y + h
    elif kind == "circle":
        cx, cy, r = values("cx", "cy", "r")
        box, polygon = ellipse_box(cx, cy, r, r), ellipse(cx, cy, r, r)
    elif kind == "ellipse":
        cx, cy, rx, ry = values("cx", "cy", "rx", "ry")
        theta = numbers_of([shape.get("theta", 0)])
        degrees = math.degrees(theta[0]) if theta else math.nan
        box, polygon = ellipse_box(cx, cy, rx, ry, degrees), ellipse(cx, cy, rx, ry, degrees)
    elif kind in ("polygon", "polyline"):
        xs, ys = numbers_of(shape.get("all_points_x")), numbers_of(shape.get("all_points_y"))
        if xs is None or ys is None or len(xs) != len(ys) or len(xs) < 3:
            return None
        polygon = [v for point in zip(xs, ys, strict=True) for v in point]
        box = box_around(polygon)
    else:
        return None
    if not all(map(math.isfinite, box)):
        return None
    numbers = ", ".join(f"{key} {value}" for key, value in shape.items() if key != "name" and "points" not in key)
    shown = f"{numbers}" if kind == "rect" else f"of the {kind} {numbers}".rstrip()
    return NamedObject("", box, where, shown, polygons=None if polygon is None else [polygon])


def name_regions(regions: list[ViaRegion], file: Path, findings: Findings) -> None:
    """Gives every region its class: the value of the attribute that all of them have."""
    given = Counter(key for region in regions for key, value in region.attributes.items() if _text(value))
    if not regions:
        return
    if not given:
        message = f"the {len(regions)} regions have no attribute, so they are of one class, called {ONLY_CLASS!r}"
        findings.add(
            "warning", "classes-missing", file, "region_attributes", message, "Add an attribute with the class"
        )
        for region in regions:
            region.object.name = ONLY_CLASS
        return
    most = max(given.values())
    best = [key for key in given if given[key] == most]
    usual = [key for word in _USUAL for key in best if key.lower() == word]
    if len(best) > 1 and len(usual) != 1:
        message = f"the class may be the attribute {' or '.join(repr(key) for key in sorted(best))}; none is used"
        fix = "Call the attribute with the class 'class'"
        findings.add("error", "classes-ambiguous", file, "region_attributes", message, fix)
        return
    chosen = (usual or best)[0]
    others = sorted(given.keys() - {chosen})
    if others:
        message = f"the class is the attribute {chosen!r}; others are ignored ({', '.join(map(repr, others[:10]))})"
        severity = "warning" if len(best) > 1 else "note"
        fix = "Call the attribute with the class 'class'" if len(best) > 1 else ""
        findings.add("warning" if severity == "warning" else "note", "attributes-ignored", file, "", message, fix)
    for region in regions:
        region.object.name = _text(region.attributes.get(chosen))


def _text(value: Any) -> str:
    """The value of an attribute as a class name: text, a number, or the one chosen option of a checkbox."""
    if isinstance(value, dict):
        chosen = [str(key) for key, on in value.items() if on in (True, "true", 1, "1")]
        return chosen[0].strip() if len(chosen) == 1 else ""
    if isinstance(value, bool) or value is None:
        return ""
    text = str(value).strip()
    return "" if text == "undefined" else text
