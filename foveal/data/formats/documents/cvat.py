"""CVAT's XML, "CVAT for images 1.1".

A box is a box; a polygon, an ellipse or a mask is a box with a mask; points, lines, cuboids and skeletons are dropped.
``occluded``, tags and attributes are ignored, but for ``difficult`` and ``crowd`` (``is_crowd``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ....files.reading import Unreadable, read_xml
from ...records.findings import Findings, counted
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import angle_of, bitmap_mask, box_around, ellipse, ellipse_box, listed, numbers_of, report_guess, turned
from ..validate import flag, number

_SHAPES = ("box", "polygon", "ellipse", "mask")
_CROWD = ("crowd", "is_crowd", "iscrowd")
_LARGEST = 1 << 30  # bytes of a file with many images


class CvatSource(EntrySource):
    """One XML file of CVAT, or several of one dataset."""

    format = "cvat"
    states_splits = True

    @cached_property
    def _declared(self) -> dict[Path, list[str]]:
        """File -> classes of its task, filled by :meth:`parse`."""
        return {}

    def class_names(self) -> Sequence[str]:
        return [name for names in self._declared.values() for name in names]

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        root, guessed = read_xml(file, _LARGEST)
        if guessed:
            report_guess(file, findings)
        if root.tag != "annotations":
            raise Unreadable(f"not CVAT's XML: its root element is <{root.tag}>", "Export it again")
        images = root.findall("image")
        tracks = root.findall("track")
        if tracks:
            message = f"{len(tracks)} tracks of a video ('CVAT for video 1.1'), which name no images"
            fix = 'Export it as "CVAT for images 1.1" or as COCO, with images'
            if not images:
                raise Unreadable(message, fix)
            findings.add("error", "tracks-unsupported", file, "", message, fix)
        self._declared[file] = _labels(root)
        ignored: Counter[str] = Counter()
        for child in root:
            if child.tag not in ("version", "meta", "image", "track"):
                ignored[f"<{child.tag}>"] += 1
        entries = [_read_image(image, n, file, findings, ignored) for n, image in enumerate(images)]
        if ignored:
            what = listed(f"{key} ({count})" for key, count in ignored.most_common())
            findings.add("note", "attributes-ignored", file, "", f"these are not kept: {what}")
        return [entry for entry in entries if entry is not None]


def _labels(root: Element) -> list[str]:
    """The class names of the task, in its order, without the parts of skeletons."""
    labels = [label for path in ("task", "job", "project") for label in root.findall(f"meta/{path}/labels/label")]
    names = [(label.findtext("name") or "").strip() for label in labels if label.find("parent") is None]
    return [name for name in names if name]


def _read_image(image: Element, n: int, file: Path, findings: Findings, ignored: Counter[str]) -> NamedImage | None:
    name = (image.get("name") or "").strip()
    where = f"image {image.get('id') or n}"
    if not name:
        findings.add("warning", "image-invalid", file, where, "it has no name; skipped", "Add its name")
        return None
    width, height = number(image.get("width")), number(image.get("height"))
    size = (width, height) if width is not None and height is not None else None
    subset = (image.get("subset") or "").strip()
    entry = NamedImage(name, where, size=size, split=subset.lower() if subset and subset.lower() != "default" else None)
    dropped: Counter[str] = Counter()
    groups: dict[tuple[str, str], NamedObject] = {}
    for k, shape in enumerate(image, 1):
        kind = shape.tag
        if kind == "tag":
            ignored["tags of images"] += 1
        elif kind not in _SHAPES:
            dropped[kind] += 1
        else:
            place = f"{where}: {kind} {k}"
            found = _read_shape(shape, place, size, ignored)
            if isinstance(found, str):
                findings.add("warning", "shape-invalid", file, place, f"{found}; dropped", "Draw it again")
            elif not _joined(shape, found, groups, ignored):
                entry.objects.append(found)
    for kind, count in dropped.items():
        what = f"{counted(count, 'shape')} of the kind {kind!r}, which is no box; dropped"
        findings.add("warning", "shape-without-area", file, where, what, "Draw a box or a polygon")
    return entry


def _joined(
    shape: Element, found: NamedObject, groups: dict[tuple[str, str], NamedObject], ignored: Counter[str]
) -> bool:
    """Adds a polygon to the object of its class and ``group_id``, if there is one."""
    group = shape.get("group_id") or "0"
    if group == "0" or found.polygons is None:
        return False
    first = groups.setdefault((found.name, group), found)
    if first is found or first.polygons is None:
        return False
    first.polygons = [*first.polygons, *found.polygons]
    first.box = box_around([*first.box, *found.box])
    ignored["polygons that are parts of the object of their group_id"] += 1
    return True


def _read_shape(
    shape: Element, where: str, size: tuple[float, float] | None, ignored: Counter[str]
) -> NamedObject | str:
    """The object of a shape, or why it cannot be used."""
    found = NamedObject((shape.get("label") or "").strip(), (0, 0, 0, 0), where, "")
    problem = _set_area(shape, found, size, ignored)
    if problem:
        return problem
    if flag(shape.get("occluded")):
        ignored["occluded"] += 1
    for attribute in shape.findall("attribute"):
        key = (attribute.get("name") or "").strip()
        value = flag((attribute.text or "").strip())
        if key.lower() == "difficult":
            found.difficult = bool(value)
        elif key.lower() in _CROWD:
            found.crowd = bool(value)
        else:
            ignored[f"attribute {key!r}"] += 1
    return found


def _set_area(shape: Element, found: NamedObject, size: tuple[float, float] | None, ignored: Counter[str]) -> str:
    """Sets box, mask and the text of the shape; why it cannot be used, or ""."""
    if shape.tag == "polygon":
        points = numbers_of((shape.get("points") or "").replace(";", ",").split(","))
        if points is None or len(points) < 6 or len(points) % 2:
            return f"its points {str(shape.get('points'))[:60]!r} are not pairs of numbers"
        found.box, found.polygons = box_around(points), [points]
        found.shown = f"of the polygon {str(shape.get('points'))[:40]} ..."
        return ""
    if shape.tag == "mask":
        return _set_mask(shape, found, size)
    keys = ("xtl", "ytl", "xbr", "ybr") if shape.tag == "box" else ("cx", "cy", "rx", "ry")
    values = numbers_of([shape.get(key) for key in keys])
    rotation = angle_of(shape.get("rotation"))
    found.shown = ", ".join(f"{key} {shape.get(key)}" for key in keys)
    if values is None or rotation is None:
        return f"its {found.shown} are not numbers"
    a, b, c, d = values
    if shape.tag == "ellipse":
        found.box, found.polygons = ellipse_box(a, b, c, d, rotation), [ellipse(a, b, c, d, rotation)]
    elif rotation % 360:
        found.box = box_around(turned((a, b, c, d), rotation, ((a + c) / 2, (b + d) / 2)))
        ignored["rotation of boxes (the box around each is used)"] += 1
    else:
        found.box = a, b, c, d
    return ""


def _set_mask(shape: Element, found: NamedObject, size: tuple[float, float] | None) -> str:
    """The mask of run lengths in a rectangle: row by row, zeros first."""
    corner = numbers_of([shape.get(key) for key in ("left", "top", "width", "height")])
    runs = numbers_of((shape.get("rle") or "").split(","))
    if corner is None or runs is None or size is None:
        return "its mask has no run lengths, rectangle or image size"
    left, top, width, height = map(int, corner)
    lengths = np.array(runs).astype(np.int64)
    if min(width, height) <= 0 or (lengths < 0).any() or lengths.sum() != width * height or width * height > 1 << 28:
        return f"the run lengths of its mask do not fit its {width} x {height} pixels"
    bits = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    found.mask = bitmap_mask(bits, left, top, (int(size[0]), int(size[1])))
    found.shown = f"of the mask left {left}, top {top}, width {width}, height {height}"
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    if found.mask is None or not len(rows):
        return "its mask is empty or reaches over the edge of the image"
    x, y = float(left), float(top)
    found.box = x + float(columns[0]), y + float(rows[0]), x + float(columns[-1]) + 1, y + float(rows[-1]) + 1
    return ""
