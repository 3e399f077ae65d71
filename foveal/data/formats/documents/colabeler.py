"""Colabeler (精灵标注助手): an XML file for each image, with the objects in ``<outputs>``."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from ....files.reading import Unreadable, read_xml
from ...records.findings import Findings
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import box_around, numbers_of, report_guess
from ..validate import number

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class ColabelerSource(EntrySource):
    """A folder of Colabeler's XML files; boxes are taken as they are, from edge to edge."""

    format = "colabeler"
    image_files = True

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        root, guessed = read_xml(file)
        if guessed:
            report_guess(file, findings)
        outputs = root.find("outputs")
        if root.tag != "doc" or outputs is None:
            raise Unreadable("not Colabeler's XML: expected <doc> with <outputs>", "Export it again")
        width, height = number(root.findtext("size/width")), number(root.findtext("size/height"))
        size = (width, height) if width is not None and height is not None else None
        path = (root.findtext("path") or "").strip()
        image = NamedImage(path or file.stem, "path", size=size, stem=not path, else_named=file.stem)
        for n, item in enumerate(outputs.findall("object/item"), 1):
            found = _read_item(item, f"item {n}")
            if found is None:
                message = "it has neither a box nor a polygon; dropped"
                findings.add("warning", "shape-invalid", file, f"item {n}", message, "Draw it again")
            else:
                image.objects.append(found)
        return [image]


def _read_item(item: Element, where: str) -> NamedObject | None:
    name = (item.findtext("name") or "").strip()
    box = item.find("bndbox")
    if box is not None:
        values = numbers_of([(box.findtext(corner) or "").strip() for corner in _CORNERS])
        if values is None:
            return None
        shown = ", ".join(f"{corner} {value:.12g}" for corner, value in zip(_CORNERS, values, strict=True))
        return NamedObject(name, (values[0], values[1], values[2], values[3]), where, shown)
    polygon = item.find("polygon")
    if polygon is None:
        return None
    corners = {child.tag: (child.text or "").strip() for child in polygon}
    count = len([tag for tag in corners if re.fullmatch(r"x\d+", tag)])
    points = numbers_of([corners.get(f"{axis}{k}") for k in range(1, count + 1) for axis in "xy"])
    if points is None or count < 3:
        return None
    return NamedObject(name, box_around(points), where, f"of the polygon of {count} points", polygons=[points])
