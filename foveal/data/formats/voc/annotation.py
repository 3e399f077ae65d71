"""Parses one VOC annotation file (XML).

Boxes are 1-based and inclusive in the file, half-open here: xmin and ymin are reduced by 1, xmax and ymax are not
(VOC2012 devkit, section 6). A box with xmin = xmax is nearly always a click without an extent and is reported as empty;
only in files that foveal wrote itself it means one pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....files.reading import Unreadable, read_xml
from ...records.dataset import IndexedMask
from ...records.findings import Findings
from ..validate import ParsedObject, flag, number

SOURCE = "foveal"  # <source><annotation> of files that foveal wrote: their boxes may be one pixel wide
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class XmlObject:
    """The texts of one ``<object>``."""

    name: str
    corners: tuple[str | None, ...] | None  # xmin, ymin, xmax, ymax; None without <bndbox>
    difficult: str | None
    crowd: str | None


@dataclass(frozen=True, slots=True)
class Annotation:
    """The texts of one XML file, not validated yet; small, since thousands are held in memory."""

    filename: str
    width: str | None
    height: str | None
    one_pixel: bool  # xmin = xmax means a box of one pixel
    guessed: bool  # whether the encoding was guessed
    raw: tuple[XmlObject, ...]

    def size(self, xml: Path, findings: Findings) -> tuple[float, float] | None:
        """The stated (width, height); ``None`` where it is missing or invalid (a finding)."""
        if not self.width or not self.height:
            return None
        width, height = number(self.width), number(self.height)
        if width is None or height is None or not (0 <= width < 1e9 and 0 <= height < 1e9):
            message = f"the size {self.width} x {self.height} is invalid; the size of the image file is used"
            findings.add("warning", "size-invalid", xml, "size", message, "Correct it")
            return None
        return width, height

    def objects(
        self,
        xml: Path,
        label_of: dict[str, int],
        class_file: Path | None,
        findings: Findings,
        masks: Path | None = None,
    ) -> Iterator[ParsedObject]:
        """The objects that can be parsed; each of the others is a finding.

        ``label_of`` is name -> label, from ``class_file`` if there is one; ``masks`` is the image of their masks.
        """
        for n, raw in enumerate(self.raw, 1):
            where = f"object {n}" + (f" ({raw.name})" if raw.name else "")
            if not raw.name:
                findings.add("warning", "class-missing", xml, where, "it has no <name>; dropped", "Add its class name")
                continue
            if raw.name not in label_of:
                known = f"is not in {class_file}" if class_file else "is unknown"
                message, fix = f"the class {raw.name!r} {known}; dropped", "Correct the name or add it to classes.txt"
                findings.add("warning", "class-unknown", xml, where, message, fix)
                continue
            corners = _corners(raw, xml, where, findings)
            if corners is None:
                continue
            x1, y1, x2, y2 = corners
            flat = x2 <= x1 or y2 <= y1
            # without the shift validate_box() reports a flat box as empty or inverted
            shift = 0 if flat and not self.one_pixel else 1
            yield ParsedObject(
                (x1 - shift, y1 - shift, x2, y2),
                label_of[raw.name],
                where,
                ", ".join(f"{c} {v:.12g}" for c, v in zip(_CORNERS, corners, strict=True)),
                crowd=_flag("crowd", raw.crowd, xml, where, findings),
                difficult=_flag("difficult", raw.difficult, xml, where, findings),
                mask=None if masks is None else IndexedMask(str(masks), n),
            )


def read_annotation(xml: Path) -> Annotation:
    """Reads one file. Parts nested in an object are not objects. Raises :class:`~foveal.files.reading.Unreadable`."""
    root, guessed = read_xml(xml)
    if root.tag.rpartition("}")[2] != "annotation":
        raise Unreadable(f"XML, but not a VOC annotation: its root element is <{root.tag}>", "Export it again")
    objects = []
    for element in root.findall("object"):
        box = element.find("bndbox")
        corners = None if box is None else tuple(box.findtext(corner) for corner in _CORNERS)
        name = (element.findtext("name") or "").strip()
        objects.append(XmlObject(name, corners, element.findtext("difficult"), element.findtext("crowd")))
    return Annotation(
        filename=(root.findtext("filename") or "").strip(),
        width=root.findtext("size/width"),
        height=root.findtext("size/height"),
        one_pixel=(root.findtext("source/annotation") or "").strip() == SOURCE,
        guessed=guessed,
        raw=tuple(objects),
    )


def _corners(raw: XmlObject, xml: Path, where: str, findings: Findings) -> tuple[float, float, float, float] | None:
    if raw.corners is None:
        findings.add("warning", "box-missing", xml, where, "it has no <bndbox>; dropped", "Add its box")
        return None
    values = []
    for corner, text in zip(_CORNERS, raw.corners, strict=True):
        value = number((text or "").strip())
        if value is None:
            what = f"<{corner}> is {text.strip()!r}, not a number" if text and text.strip() else f"it has no <{corner}>"
            findings.add("warning", "box-not-number", xml, where, f"{what}; dropped", "Correct it")
            return None
        values.append(value)
    return values[0], values[1], values[2], values[3]


def _flag(name: str, text: str | None, xml: Path, where: str, findings: Findings) -> bool:
    value = flag(text)
    if value is None:
        message = f"<{name}> is {text!r}, expected 0 or 1; taken as 0"
        findings.add("warning", "flag-invalid", xml, where, message, "Correct it")
    return bool(value)
