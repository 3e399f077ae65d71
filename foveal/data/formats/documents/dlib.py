"""dlib's imglab: an XML file that lists images with their boxes.

A box to ignore is a crowd of its class; parts (landmarks) are ignored. Boxes without a label are of one class,
``object``, where no box has a label.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from ....files.reading import Unreadable, read_xml
from ...records.findings import Findings, counted
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import numbers_of, report_guess
from ..validate import flag
from .via import ONLY_CLASS

_SIDES = ("left", "top", "width", "height")
_LARGEST = 1 << 30  # bytes of a file with many images


class DlibSource(EntrySource):
    """One XML file of imglab, or one for each split."""

    format = "dlib"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        root, guessed = read_xml(file, _LARGEST)
        if guessed:
            report_guess(file, findings)
        if root.tag.lower() != "dataset":
            raise Unreadable(f"not dlib's XML: its root element is <{root.tag}>", "Export it again")
        images = []
        for n, element in enumerate(root.iter("image")):
            name = (element.get("file") or "").strip()
            if not name:
                findings.add("warning", "image-invalid", file, f"image {n}", "it has no file; skipped", "Add its file")
                continue
            size = numbers_of([element.get("width"), element.get("height")])
            objects = [o for k, box in enumerate(element.iter("box")) if (o := _read_box(box, n, k, file, findings))]
            images.append(NamedImage(name, f"image {n}", objects, (size[0], size[1]) if size else None))
            images[-1].layout = "top-left"
        objects = [o for image in images for o in image.objects]
        if objects and not any(o.name for o in objects):
            message = f"the {len(objects)} boxes have no label, so they are of one class, called {ONLY_CLASS!r}"
            findings.add("warning", "classes-missing", file, "", message, "Add labels if there are several classes")
            for found in objects:
                found.name = ONLY_CLASS
        parts = sum(1 for _ in root.iter("part"))
        if parts:
            findings.add("note", "attributes-ignored", file, "", f"{counted(parts, 'part')} (landmarks), ignored")
        return images


def _read_box(box: Element, n: int, k: int, file: Path, findings: Findings) -> NamedObject | None:
    numbers = numbers_of([box.get(side) for side in _SIDES])
    shown = ", ".join(f"{side} {box.get(side)}" for side in _SIDES)
    where = f"image {n}: box {k}"
    if numbers is None:
        message = f"its {shown} are not numbers; dropped"
        findings.add("warning", "box-not-number", file, where, message, "Correct it")
        return None
    x, y, w, h = numbers
    crowd, difficult = flag(box.get("ignore")), flag(box.get("difficult"))
    name = (box.findtext("label") or "").strip()
    return NamedObject(name, (x, y, x + w, y + h), where, shown, crowd=bool(crowd), difficult=bool(difficult))
