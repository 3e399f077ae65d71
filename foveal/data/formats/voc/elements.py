"""Reads the texts of one VOC annotation file (XML), as VOC's own tools and others write it.

Tags count in any capitals and namespace. A box may be a ``<bndbox>``, with its corners as elements or attributes; where
there is none, it is the box around a ``<robndbox>`` (roLabelImg) or a ``<polygon>``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from ....files.reading import Unreadable, read_xml
from ..validate import number

SOURCE = "foveal"  # <source><annotation> of files that foveal wrote: their boxes may be one pixel wide
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DEEPEST = 8  # levels of elements around an object, or around a box in it
_SHAPES = ("bndbox", "robndbox", "polygon")
_POINT = re.compile(r"([xy])\d*")


@dataclass(frozen=True, slots=True)
class XmlObject:
    """The texts of one box of an ``<object>``."""

    number: int  # of the object in its file, from 1
    name: str
    corners: tuple[str | None, ...] | None  # xmin, ymin, xmax, ymax; None without a box
    difficult: str | None
    crowd: str | None
    box: int = 0  # of the object, from 1; 0 for the only one
    shape: str = "bndbox"  # what the corners are from: bndbox, robndbox or polygon
    nested: bool = False  # inside another element than the <annotation>
    deleted: bool = False  # by LabelMe's <deleted>
    parent: bool = False  # holds another <object>
    names: bool = False  # has several different <name>, all of which are in ``name``

    @property
    def where(self) -> str:
        """For findings: ``object 3 (nut)``."""
        box = f", box {self.box}" if self.box else ""
        return f"object {self.number}{box}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True)
class XmlFile:
    """The texts of one XML file, not validated yet; small, since thousands are held in memory."""

    filename: str
    width: str | None
    height: str | None
    one_pixel: bool  # xmin = xmax means a box of one pixel
    guessed: bool  # whether the encoding was guessed
    objects: tuple[XmlObject, ...]
    strays: tuple[str, ...] = ()  # the elements with a box or an outline that are no objects
    bare: bool = False  # nothing but the root element


def read_file(xml: Path) -> XmlFile:
    """Reads one file. Parts of an object are not objects. Raises :class:`~foveal.files.reading.Unreadable`."""
    root, guessed = read_xml(xml)
    if _tag(root) != "annotation":
        several = sum(_tag(child) == "annotation" for child in root)
        if several:
            raise Unreadable(f"{several} <annotation> in one file, expected one", "Write a file for each image")
        raise Unreadable(f"XML, but not a VOC annotation: its root element is <{root.tag}>", "Export it again")
    top = _children(root)
    size = top.get("size", [])
    source = [child for element in top.get("source", []) for child in element]
    return XmlFile(
        filename=_text(top, "filename") or _text(top, "path"),
        width=_attribute_or_text(size, "width"),
        height=_attribute_or_text(size, "height"),
        one_pixel=any(_tag(child) == "annotation" and (child.text or "").strip() == SOURCE for child in source),
        guessed=guessed,
        objects=tuple(
            one for n, (element, nested) in enumerate(_objects(root), 1) for one in _boxes(element, n, nested)
        ),
        strays=tuple(_strays(root)),
        bare=not len(root),
    )


# ------------------------------------------------------------------------------------------------- inner
def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2].lower()


def _children(element: Element) -> dict[str, list[Element]]:
    found: dict[str, list[Element]] = {}
    for child in element:
        found.setdefault(_tag(child), []).append(child)
    return found


def _objects(element: Element, depth: int = 0) -> Iterator[tuple[Element, bool]]:
    """The objects below an element, and whether they are inside another element; without the parts of objects."""
    for child in element:
        if _tag(child) == "object":
            yield child, depth > 0
        elif len(child) and depth < _DEEPEST:
            yield from _objects(child, depth + 1)


def _strays(element: Element, depth: int = 0) -> Iterator[str]:
    for child in element:
        tag = _tag(child)
        if tag in _SHAPES:
            yield _tag(element)
        elif tag != "object" and len(child) and depth < _DEEPEST:
            yield from _strays(child, depth + 1)


def _text(children: dict[str, list[Element]], tag: str) -> str:
    return next((text for child in children.get(tag, ()) if (text := (child.text or "").strip())), "")


def _texts(elements: list[Element]) -> str | None:
    """The text of elements that should be one: of several different ones all, which is then invalid."""
    texts = dict.fromkeys((element.text or "").strip() for element in elements)
    return " and ".join(texts) if texts else None


def _attribute_or_text(elements: list[Element], tag: str) -> str | None:
    """The text of the children ``tag`` of elements, or else their attribute of that name."""
    found = [child for element in elements for child in element if _tag(child) == tag]
    if found:
        return _texts(found)
    values = [value for element in elements for key, value in element.attrib.items() if key.lower() == tag]
    return " and ".join(dict.fromkeys(values)) if values else None


def _boxes(element: Element, n: int, nested: bool) -> Iterator[XmlObject]:
    """Each box of an ``<object>``; an object without a box is one without corners."""
    children = _children(element)
    names = {text for child in children.get("name", ()) if (text := (child.text or "").strip())}
    name = _texts(children.get("name", [])) or element.get("name") or ""
    shape, boxes = _corners(element, children)
    for k, corners in enumerate(boxes or [None], 1):
        yield XmlObject(
            number=n,
            name=" ".join(name.split()) if re.search(r"[\t\r\n]", name) else name.strip(),
            corners=corners,
            difficult=_texts(children.get("difficult", [])),
            crowd=_texts(children.get("crowd", [])),
            box=k if len(boxes) > 1 else 0,
            shape=shape,
            nested=nested,
            names=len(names) > 1,
            deleted=_text(children, "deleted") == "1",
            parent="object" in children,
        )


def _corners(element: Element, children: dict[str, list[Element]]) -> tuple[str, list[tuple[str | None, ...] | None]]:
    boxes = children.get("bndbox") or list(_inside(element, "bndbox"))
    if boxes:
        return "bndbox", [tuple(_attribute_or_text([box], corner) for corner in CORNERS) for box in boxes]
    rotated = [tuple(_around_rotated(box)) for box in _inside(element, "robndbox")]
    if rotated:
        return "robndbox", list(rotated)
    outlines = [tuple(_around_points(polygon)) for polygon in _inside(element, "polygon")]
    return ("polygon", list(outlines)) if outlines else ("bndbox", [])


def _inside(element: Element, tag: str, depth: int = 0) -> Iterator[Element]:
    """Elements at several depths, but not in parts or other objects."""
    for child in element:
        name = _tag(child)
        if name == tag:
            yield child
        elif len(child) and depth < _DEEPEST and name not in ("part", "parts", "object"):
            yield from _inside(child, tag, depth + 1)


def _around_rotated(element: Element) -> list[str | None]:
    """The corners of the box around a center, a size and an angle in radians, as texts."""
    texts = [_attribute_or_text([element], tag) for tag in ("cx", "cy", "w", "h", "angle")]
    values = [number((text or "").strip()) for text in texts]
    cx, cy, w, h, angle = values
    if cx is None or cy is None or w is None or h is None or angle is None or not math.isfinite(angle):
        return [None] * 4
    x = (abs(w * math.cos(angle)) + abs(h * math.sin(angle))) / 2
    y = (abs(w * math.sin(angle)) + abs(h * math.cos(angle))) / 2
    return [repr(value) for value in (cx - x, cy - y, cx + x, cy + y)]


def _around_points(element: Element) -> list[str | None]:
    """The corners of the box around the points of a polygon, as texts."""
    found: dict[str, list[float]] = {"x": [], "y": []}
    for child in element.iter():
        match = _POINT.fullmatch(_tag(child))
        value = number((child.text or "").strip()) if match else None
        if match and value is None:
            return [None] * 4
        if match and value is not None:
            found[match.group(1)].append(value)
    xs, ys = found["x"], found["y"]
    if len(xs) != len(ys) or len(xs) < 3:
        return [None] * 4
    return [repr(value) for value in (min(xs), min(ys), max(xs), max(ys))]
