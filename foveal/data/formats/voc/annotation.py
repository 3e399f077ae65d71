"""The objects of one VOC annotation file.

Boxes are 1-based and inclusive in the file, half-open here: xmin and ymin are reduced by 1, xmax and ymax are not
(VOC2012 devkit, section 6). A box with xmin = xmax is nearly always a click without an extent and is reported as empty;
only in files that foveal wrote itself it means one pixel. Corners of polygons and rotated boxes are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...records.dataset import IndexedMask
from ...records.findings import Findings
from ..validate import ParsedObject, Tally, flag, number, valid_size
from .elements import CORNERS, XmlFile, XmlObject

_DECIMAL_COMMA = re.compile(r"-?\d+,(\d{1,2}|\d{4,})")  # three digits may as well be thousands


def stated_size(file: XmlFile, xml: Path, findings: Findings) -> tuple[float, float] | None:
    """The stated (width, height); ``None`` where it is missing or invalid (a finding)."""
    if not file.width or not file.height:
        return None
    numbers = valid_size(file.width, file.height)
    if numbers is None:
        message = f"the size {file.width} x {file.height} is invalid; the size of the image file is used"
        findings.add("warning", "size-invalid", xml, "size", message, "Correct it")
    return numbers


@dataclass(frozen=True)
class ObjectParser:
    """Parses the objects of the files of one dataset."""

    label_of: dict[str, int]  # name -> label
    class_file: Path | None  # where the names are from, if there is one
    findings: Findings
    tally: Tally

    def objects(self, file: XmlFile, xml: Path, masks: Path | None = None) -> Iterator[ParsedObject]:
        """The objects that can be parsed; each of the others is a finding. ``masks`` is the image of their masks."""
        for raw in file.objects:
            if raw.deleted:
                self._tell("object-deleted", xml, raw, "{n} marked as deleted (LabelMe); left out")
                continue
            if raw.parent:
                message = "an <object> inside this one is not used (is </object> missing?)"
                self.findings.add("warning", "object-in-object", xml, raw.where, message, "Put it beside this one")
            label = self._label(raw, xml)
            corners = None if label is None else self._corners(raw, xml)
            if label is None or corners is None:
                continue
            self._tell_variants(raw, xml, file, corners)
            x1, y1, x2, y2 = corners
            flat = x2 <= x1 or y2 <= y1
            # without the shift validate_box() reports a flat box as empty or inverted
            shift = 0 if raw.shape != "bndbox" or (flat and not file.one_pixel) else 1
            yield ParsedObject(
                (x1 - shift, y1 - shift, x2, y2),
                label,
                raw.where,
                ", ".join(f"{c} {v:.12g}" for c, v in zip(CORNERS, corners, strict=True)),
                crowd=self._flag("crowd", raw.crowd, xml, raw),
                difficult=self._flag("difficult", raw.difficult, xml, raw),
                mask=None if masks is None or raw.box else IndexedMask(str(masks), raw.number),
                numbers=corners if raw.shape == "bndbox" else None,
            )

    def _tell(self, code: str, xml: Path, raw: XmlObject, message: str, what: str = "object", fix: str = "") -> None:
        self.tally.add("note", code, xml, raw.where, what, message, fix)

    def _tell_variants(self, raw: XmlObject, xml: Path, file: XmlFile, corners: tuple[float, ...]) -> None:
        """What is no error but not as in VOC; told once for all files."""
        if raw.box == 2:
            self._tell("boxes-in-object", xml, raw, "{n} with more than one <bndbox>; each box is an object of its own")
        if raw.nested:
            self._tell("object-nested", xml, raw, "{n} inside another element than <annotation>; used like the others")
        if raw.shape == "robndbox":
            self._tell(
                "box-around-rotated", xml, raw, "{n} with a rotated box alone; the upright box around it is used"
            )
        elif raw.shape == "polygon":
            self._tell("box-around-polygon", xml, raw, "{n} with a polygon alone; the box around it is used")
        elif 0 in corners[:2] and not file.one_pixel:
            message = (
                "{n} from pixel 0, but VOC counts from 1: the tool that wrote them probably counts from 0, "
                "so that boxes may be one pixel too far left and up"
            )
            self._tell("numbers-from-zero", xml, raw, message, "box", "Add 1 to every corner if they count from 0")

    def _label(self, raw: XmlObject, xml: Path) -> int | None:
        if not raw.name:
            message, fix = "it has no <name>; dropped", "Add its class name"
            self.findings.add("warning", "class-missing", xml, raw.where, message, fix)
            return None
        if raw.names:
            message, fix = "it has several different <name>; dropped", "Keep the name of its class"
            self.findings.add("warning", "class-missing", xml, raw.where, message, fix)
            return None
        if raw.name not in self.label_of:
            known = f"is not in {self.class_file}" if self.class_file else "is unknown"
            message, fix = f"the class {raw.name!r} {known}; dropped", "Correct the name or add it to classes.txt"
            self.findings.add("warning", "class-unknown", xml, raw.where, message, fix)
            return None
        return self.label_of[raw.name]

    def _corners(self, raw: XmlObject, xml: Path) -> tuple[float, float, float, float] | None:
        if raw.corners is None:
            message = "it has no <bndbox>; dropped"
            self.findings.add("warning", "box-missing", xml, raw.where, message, "Add its box")
            return None
        values = []
        for corner, given in zip(CORNERS, raw.corners, strict=True):
            text = (given or "").strip()
            value = number(text)
            if value is None and _DECIMAL_COMMA.fullmatch(text):
                value = float(text.replace(",", "."))
                self._tell("decimal-comma", xml, raw, f"{{n}} with a decimal comma ({text}); read as a point", "number")
            if value is None:
                what = f"<{corner}> is {text!r}, not a number" if text else f"it has no <{corner}>"
                if raw.shape != "bndbox":
                    what = f"its <{raw.shape}> has no valid numbers"
                self.findings.add("warning", "box-not-number", xml, raw.where, f"{what}; dropped", "Correct it")
                return None
            values.append(value)
        return values[0], values[1], values[2], values[3]

    def _flag(self, name: str, text: str | None, xml: Path, raw: XmlObject) -> bool:
        value = flag(text)
        if value is None:
            message = f"<{name}> is {text!r}, expected 0 or 1; taken as 0"
            self.findings.add("warning", "flag-invalid", xml, raw.where, message, "Correct it")
        return bool(value)
