"""VGG Image Annotator (VIA), version 3: a project whose regions are lists of numbers.

Shapes, classes and what is dropped are those of versions 1 and 2 (:mod:`.via`). Segments of videos are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....files.reading import Unreadable
from ...records.findings import Findings
from ..entries import NamedImage
from ..entry_source import EntrySource
from ..shapes import numbers_of
from .json_file import read_checked
from .via import ViaRegion, name_regions, read_regions

_IMAGE = 2  # the type of a file; others are video and audio
_FIELDS = {  # number of a shape -> its name and fields in VIA 2
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("polygon", ()),  # extreme points
}


class Via3Source(EntrySource):
    """One project of VIA 3, or one for each split."""

    format = "via3"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        doc = read_checked(file, findings)
        keys = ("file", "view", "metadata")
        if not isinstance(doc, dict) or not all(isinstance(doc.get(key), dict) for key in keys):
            raise Unreadable("not a project of VIA 3: expected file, view and metadata", "Export it again")
        images = {fid: image for fid, entry in doc["file"].items() if (image := _image(fid, entry, file, findings))}
        attributes = doc.get("attribute")
        names = attributes if isinstance(attributes, dict) else {}
        of_image: dict[str, list[dict[str, Any]]] = {}
        for key, entry in doc["metadata"].items():
            where = f"metadata[{key!r:.40}]"
            view = doc["view"].get(str(entry.get("vid"))) if isinstance(entry, dict) else None
            fids = view.get("fid_list") if isinstance(view, dict) else None
            fid = str(fids[0]) if isinstance(fids, list) and len(fids) == 1 else None
            numbers = numbers_of(entry.get("xy")) if isinstance(entry, dict) else None
            if fid in images and numbers == []:  # a label of the whole file
                findings.add("note", "attributes-ignored", file, where, "an answer about the whole image, ignored")
            elif fid is None or fid not in images or numbers is None or entry.get("z"):
                message = f"{str(entry)[:80]} is no region of an image; dropped"
                findings.add("warning", "shape-invalid", file, where, message, "Draw it again")
            else:
                region = {"shape_attributes": _shape(numbers), "region_attributes": _texts(entry.get("av"), names)}
                of_image.setdefault(fid, []).append(region)
        regions: list[ViaRegion] = []
        for fid, image in images.items():
            found = list(read_regions(of_image.get(fid, []), image.where, file, findings))
            image.objects = [r.object for r in found]
            regions += found
        name_regions(regions, file, findings)
        return list(images.values())


def _image(fid: str, entry: Any, file: Path, findings: Findings) -> NamedImage | None:
    name = entry.get("fname") if isinstance(entry, dict) else None
    where = f"file[{fid!r:.40}]"
    if not isinstance(name, str) or not name.strip() or entry.get("type", _IMAGE) != _IMAGE:
        message = f"{str(entry)[:60]} is no image; skipped"
        findings.add("warning", "image-invalid", file, where, message, "Remove it from the project")
        return None
    return NamedImage(name.strip(), where, layout="top-left")


def _shape(numbers: list[float]) -> dict[str, Any]:
    """The numbers of a region as VIA 2's ``shape_attributes``."""
    kind, fields = _FIELDS.get(int(numbers[0]), (f"shape {numbers[0]:g}", ()))
    shape: dict[str, Any] = {"name": kind, **dict(zip(fields, numbers[1:], strict=False))}
    return shape if fields else {**shape, "all_points_x": numbers[1::2], "all_points_y": numbers[2::2]}


def _texts(values: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Attribute name -> text; of a choice, that of the option."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        attribute = attributes.get(str(key))
        attribute = attribute if isinstance(attribute, dict) else {}
        options = attribute.get("options")
        options = options if isinstance(options, dict) else {}
        chosen = [str(options.get(option, option)) for option in str(value).split(",")] if options else [str(value)]
        name = str(attribute.get("aname", key))
        found[name] = chosen[0] if len(chosen) == 1 else dict.fromkeys(chosen, True)
    return found
