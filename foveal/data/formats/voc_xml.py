"""One VOC annotation file.

Boxes are 1-based and inclusive in the file, half-open here: 1 is taken from xmin and ymin, nothing from xmax and ymax
(VOC2012 devkit, section 6). A box with xmin = xmax is taken for what it nearly always is, a click without a size; only
our own files, which say so, mean one pixel by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...files.reading import Unreadable, read_xml
from ..records.dataset import Drawn
from ..records.findings import Findings
from .validate import Object, flag, number

WRITTEN_BY_US = "foveal"  # <source><annotation> of our own files: their boxes follow the rule to the letter
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class RawObject:
    """One ``<object>`` as it is written."""

    name: str
    corners: tuple[str | None, ...] | None  # xmin, ymin, xmax, ymax; None without <bndbox>
    difficult: str | None
    crowd: str | None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an XML file says, with nothing judged yet; small, for a data set keeps thousands."""

    filename: str
    width: str | None
    height: str | None
    to_the_letter: bool
    guessed: bool  # its encoding
    raw: tuple[RawObject, ...]

    def size(self, xml: Path, findings: Findings) -> tuple[float, float] | None:
        """The stated (width, height); ``None`` where it is missing, or no size (a finding)."""
        if not self.width or not self.height:
            return None
        width, height = number(self.width), number(self.height)
        if width is None or height is None or not (0 <= width < 1e9 and 0 <= height < 1e9):
            message = f"the size {self.width} x {self.height} is no size; that of the image is used"
            findings.add("warning", "size-invalid", xml, "size", message, "Correct it")
            return None
        return width, height

    def objects(
        self,
        xml: Path,
        index: dict[str, int],
        fixed: bool,
        class_file: Path | None,
        findings: Findings,
        drawn: Path | None = None,
    ) -> Iterator[Object]:
        """The objects that can be understood; each of the others is a finding.

        ``index`` is name -> label, and ``fixed`` whether ``class_file`` made it; ``drawn``: the picture of their masks.
        """
        for n, raw in enumerate(self.raw, 1):
            where = f"object {n}" + (f" ({raw.name})" if raw.name else "")
            if not raw.name:
                findings.add("warning", "class-missing", xml, where, "it has no <name>; dropped", "Name its class")
                continue
            if raw.name not in index:
                known = f"is not in {class_file}" if fixed else "is unknown"
                message, fix = f"the class {raw.name!r} {known}; dropped", "Correct the name, or add it to classes.txt"
                findings.add("warning", "class-unknown", xml, where, message, fix)
                continue
            corners = _corners(raw, xml, where, findings)
            if corners is None:
                continue
            x1, y1, x2, y2 = corners
            flat = (
                x2 <= x1 or y2 <= y1
            )  # then validate_box() shall call it empty or inverted, unless it means one pixel
            low = 0 if flat and not self.to_the_letter else 1
            yield Object(
                (x1 - low, y1 - low, x2, y2),
                index[raw.name],
                where,
                ", ".join(f"{c} {v:.12g}" for c, v in zip(_CORNERS, corners, strict=True)),
                crowd=_flag("crowd", raw.crowd, xml, where, findings),
                difficult=_flag("difficult", raw.difficult, xml, where, findings),
                mask=None if drawn is None else Drawn(str(drawn), n),
            )


def read_annotation(xml: Path) -> Annotation:
    """Reads one file. Parts nested in an object are no objects of their own. Raises :class:`~.files.Unreadable`."""
    root, guessed = read_xml(xml)
    if root.tag.rpartition("}")[2] != "annotation":
        raise Unreadable(f"XML, but no VOC annotation: its root is <{root.tag}>", "Export it again")
    objects = []
    for element in root.findall("object"):
        box = element.find("bndbox")
        corners = None if box is None else tuple(box.findtext(corner) for corner in _CORNERS)
        name = (element.findtext("name") or "").strip()
        objects.append(RawObject(name, corners, element.findtext("difficult"), element.findtext("crowd")))
    return Annotation(
        filename=(root.findtext("filename") or "").strip(),
        width=root.findtext("size/width"),
        height=root.findtext("size/height"),
        to_the_letter=(root.findtext("source/annotation") or "").strip() == WRITTEN_BY_US,
        guessed=guessed,
        raw=tuple(objects),
    )


def _corners(raw: RawObject, xml: Path, where: str, findings: Findings) -> tuple[float, float, float, float] | None:
    if raw.corners is None:
        findings.add("warning", "box-missing", xml, where, "it has no <bndbox>; dropped", "Add its box")
        return None
    values = []
    for corner, text in zip(_CORNERS, raw.corners, strict=True):
        value = number((text or "").strip())
        if value is None:
            what = f"<{corner}> is {text.strip()!r}, not a number" if text and text.strip() else f"no <{corner}>"
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
