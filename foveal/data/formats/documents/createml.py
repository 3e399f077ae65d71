"""CreateML: a JSON list of images, whose boxes are center and size in pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....files.reading import Unreadable
from ...records.findings import Findings
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import numbers_of
from .json_file import read_checked

_SIDES = ("x", "y", "width", "height")
_NAMES = ("image", "imagefilename", "imageFilename", "filename", "file")
_LISTS = ("annotations", "annotation", "objects")


class CreateMlSource(EntrySource):
    """One CreateML file, or one for each split."""

    format = "createml"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        doc = read_checked(file, findings)
        if not isinstance(doc, list):
            raise Unreadable("not a CreateML file: expected a list of images", "Export it again")
        images = []
        for n, entry in enumerate(doc):
            where = f"[{n}]"
            name = next((entry[key] for key in _NAMES if entry.get(key)), None) if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.strip():
                message = f"{str(entry)[:60]} names no image; skipped"
                findings.add("warning", "image-invalid", file, where, message, 'Add "image"')
                continue
            if not any(key in entry for key in _LISTS):
                message = f"{name!r} has no list of annotations, so its objects are unknown; skipped"
                findings.add("warning", "annotation-missing", file, where, message, 'Add "annotations" (may be empty)')
                images.append(NamedImage(name.strip(), where, skipped=True))
                continue
            objects = _objects(entry, where, file, findings)
            images.append(NamedImage(name.strip(), where, objects, layout="centers"))
        return images


def _objects(entry: dict[str, Any], where: str, file: Path, findings: Findings) -> list[NamedObject]:
    annotations: Any = next((entry[key] for key in _LISTS if key in entry), None)
    annotations = [] if annotations is None else annotations
    if not isinstance(annotations, list):
        message = (
            f"its annotations are {str(annotations)[:60]}, expected a list; the image counts as one without objects"
        )
        findings.add("error", "annotation-invalid", file, where, message, "Correct it")
        return []
    objects = []
    for k, annotation in enumerate(annotations):
        place = f"{where}: annotations[{k}]"
        sides = annotation.get("coordinates") if isinstance(annotation, dict) else None
        values = numbers_of([sides.get(side) for side in _SIDES]) if isinstance(sides, dict) else None
        if values is None:
            message = f"its coordinates {str(sides)[:80]} are not x, y, width and height; dropped"
            findings.add("warning", "box-not-number", file, place, message, "Correct it")
            continue
        cx, cy, w, h = values
        label = annotation.get("label")
        name = label.strip() if isinstance(label, str) else "" if label is None else str(label)
        shown = ", ".join(f"{side} {value:.12g}" for side, value in zip(_SIDES, values, strict=True))
        objects.append(NamedObject(name, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), place, shown))
    return objects
