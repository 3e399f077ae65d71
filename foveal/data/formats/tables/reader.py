"""Tables (CSV): a row for each box, as TensorFlow, RetinaNet, Open Images, AutoML, VIA and many scripts write them.

Columns are recognized by the names in the header, in any capitals, else by what is in them. Boxes are taken as they
are, from edge to edge; where every coordinate is between 0 and 1 they are fractions of the image. A row without a box
is an image without objects.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ....files.reading import Unreadable
from ...records.findings import Findings, counted
from ...records.splits import split_word
from ..documents.via import ONLY_CLASS, ViaRegion, name_regions, read_shape
from ..entries import NamedImage, NamedObject
from ..rows import read_rows
from ..shapes import listed, report_guess
from ..validate import Box, flag, number
from .class_table import TableSource
from .columns import Columns, find_columns, has_extension, plain

_EMPTY = ("", "nan", "none", "null", "n/a", "na", "-")
_EDGE = 1.001  # fractions may be rounded up


class CsvSource(TableSource):
    """One table, or one for each split; ``class_file`` lists the names of its classes."""

    format = "csv"
    states_splits = True

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        rows, delimiter, guessed = read_rows(file)
        blank = [n for n, cells in rows if not any(cell.strip() for cell in cells)]
        rows = [(n, cells) for n, cells in rows if any(cell.strip() for cell in cells)]
        columns = find_columns([cells for _, cells in rows[:50]])
        if columns is None:
            fix = "Name the columns filename, class, xmin, ymin, xmax, ymax"
            raise Unreadable("no table of boxes: its columns are not recognized", fix)
        if guessed:
            report_guess(file, findings)
        if blank:
            message = f"{counted(len(blank), 'blank line')}; skipped"
            findings.add("note", "line-blank", file, f"line {blank[0]}", message)
        _report_columns(columns, file, findings)
        images = _Table(file, columns, delimiter, findings).images(rows)
        self.class_table.rename(images, file, findings)
        return images


def _report_columns(columns: Columns, file: Path, findings: Findings) -> None:
    fix = "Name the columns filename, class, xmin, ymin, xmax, ymax if this is wrong"
    for guess in columns.guessed:
        findings.add("warning", "columns-guessed", file, "", f"it is read with {guess}", fix)
    if columns.ignored:
        message = f"these columns are ignored: {listed(columns.ignored, 12)}"
        findings.add("note", "attributes-ignored", file, "", message)


class _Table:
    """One table while it is read."""

    def __init__(self, file: Path, columns: Columns, delimiter: str, findings: Findings) -> None:
        self.file, self.columns, self.findings = file, columns, findings
        self.decimal_comma = delimiter != ","
        self.found: dict[str, NamedImage] = {}
        self.regions: list[ViaRegion] = []
        self.scores: set[float | None] = set()

    def images(self, rows: Sequence[tuple[int, list[str]]]) -> list[NamedImage]:
        """The images of all rows, in the order of their first."""
        header = list(self.columns.header)
        names = list(map(plain, header))
        for n, cells in rows[1:] if header else rows:
            if header and list(map(plain, cells)) == names:
                self.findings.add("note", "row-repeated", self.file, f"line {n}", "the header again; skipped")
                continue
            if len(cells) < max(self.columns.at.values()) + 1:
                message = f"{len(cells)} columns, expected {len(header) or max(self.columns.at.values()) + 1}; skipped"
                self.findings.add(
                    "error", "line-columns", self.file, f"line {n}", message, "Correct or remove the line"
                )
                continue
            self._read_row(cells, f"line {n}")
        if self.columns.via:
            name_regions(self.regions, self.file, self.findings)
        elif "class" not in self.columns.at:
            self._report_no_class()
        self._report_scores()
        images = list(self.found.values())
        for image in images:
            image.layout = "top-left" if self.columns.via else self.columns.layout
        if not self.columns.via:
            self._find_fractions(images)
        self._check_splits(images)
        return images

    def _cell(self, cells: Sequence[str], role: str) -> str:
        return cells[self.columns.at[role]].strip() if role in self.columns.at else ""

    def _number(self, text: str) -> float | None:
        value = number(text)
        return number(text.replace(",", ".", 1)) if value is None and self.decimal_comma else value

    def _read_row(self, cells: Sequence[str], where: str) -> None:
        name = self._cell(cells, "image")
        if not name:
            message = "it names no image; skipped"
            self.findings.add("warning", "image-invalid", self.file, where, message, "Add the name of its image")
            return
        image = self.found.get(name)
        if image is None:
            image = self.found[name] = NamedImage(name, where, split=self._cell(cells, "split").lower() or None)
            image.size, image.stem = self._size(cells), not has_extension(name)
        elif image.size is not None and self._size(cells) not in (image.size, None):
            message = f"another size of {name!r} than in {image.where}; the size of the image file is used"
            self.findings.add("warning", "size-invalid", self.file, where, message, "Correct it")
            image.size = None
        if self.columns.via:
            self._read_region(cells, image, where)
            return
        found = self._read_box(cells, where)
        if found is not None:
            image.objects.append(found)

    def _size(self, cells: Sequence[str]) -> tuple[float, float] | None:
        width, height = (self._number(self._cell(cells, role)) for role in ("width", "height"))
        return (
            None if width is None or height is None or not (0 < width < 1e9 and 0 < height < 1e9) else (width, height)
        )

    def _read_box(self, cells: Sequence[str], where: str) -> NamedObject | None:
        """The object of a row; ``None`` for a row without a box, and, with a finding, for one that cannot be read."""
        if self.columns.box:
            texts = [self._cell(cells, role) for role in self.columns.box]
        else:
            texts = [part.strip() for part in self._cell(cells, "bbox").strip("[](){} ").replace(";", ",").split(",")]
        if all(text.lower() in _EMPTY for text in texts):
            return None
        values = [self._number(text) for text in texts]
        if len(values) != 4 or None in values:
            message = f"its box {', '.join(texts)[:80]!r} is not four numbers; dropped"
            self.findings.add("warning", "box-not-number", self.file, where, message, "Correct it")
            return None
        a, b, c, d = (value if value is not None else math.nan for value in values)
        box: Box = a, b, c, d
        if self.columns.layout == "top-left":
            box = a, b, a + c, b + d
        elif self.columns.layout == "centers":
            box = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        roles = self.columns.box or ("x", "y", "w", "h")
        shown = ", ".join(f"{self._header(role)} {text}" for role, text in zip(roles, texts, strict=True))
        name = self._cell(cells, "class") if "class" in self.columns.at else ONLY_CLASS
        self.scores.add(self._number(self._cell(cells, "score")) if "score" in self.columns.at else None)
        crowd, difficult = (self._flag(cells, role, where) for role in ("crowd", "difficult"))
        return NamedObject(name, box, where, shown, crowd, difficult)

    def _header(self, role: str) -> str:
        at = self.columns.at.get(role)
        return self.columns.header[at] if self.columns.header and at is not None else role

    def _flag(self, cells: Sequence[str], role: str, where: str) -> bool:
        text = self._cell(cells, role)
        value = flag(text)
        if value is None and text != "-1":  # Open Images: unknown
            message = f"{self._header(role)} is {text[:40]!r}, expected 0 or 1; taken as 0"
            self.findings.add("warning", "flag-invalid", self.file, where, message, "Correct it")
        return bool(value)

    def _read_region(self, cells: Sequence[str], image: NamedImage, where: str) -> None:
        """The region of a row of VIA's table."""
        try:
            shape, attributes = (json.loads(self._cell(cells, role) or "{}") for role in ("shape", "attributes"))
        except (ValueError, RecursionError):
            shape, attributes = None, {}
        if shape == {}:
            return
        found = read_shape(shape, where) if isinstance(shape, dict) else None
        if found is None:
            message = f"its shape {self._cell(cells, 'shape')[:80]} is no box and no area; dropped"
            self.findings.add("warning", "shape-invalid", self.file, where, message, "Draw a rect or a polygon")
            return
        image.objects.append(found)
        self.regions.append(ViaRegion(found, attributes if isinstance(attributes, dict) else {}))

    def _find_fractions(self, images: Sequence[NamedImage]) -> None:
        """Whether the coordinates are fractions of the image: all of them are between 0 and 1, and not all whole."""
        boxes = [o.box for image in images for o in image.objects]
        small = [box for box in boxes if _like_fractions(box)]
        if not small or all(v == int(v) for box in small for v in box):
            return
        if len(small) == len(boxes):
            for image in images:
                image.fractions = True
            message = "every coordinate is between 0 and 1, so they are fractions of the image"
            self.findings.add("note", "coordinates-fractions", self.file, "", message)
            return
        message = (
            f"{len(small)} of {len(boxes)} boxes have coordinates between 0 and 1, as if they were fractions; dropped"
        )
        self.findings.add(
            "warning", "box-fractions", self.file, "", message, "Write all boxes in pixels or in fractions"
        )
        for image in images:
            image.objects = [o for o in image.objects if not _like_fractions(o.box)]

    def _report_no_class(self) -> None:
        message = f"no column has a class, so the boxes are of one class, called {ONLY_CLASS!r}"
        self.findings.add("warning", "classes-missing", self.file, "", message, "Add a column class")

    def _report_scores(self) -> None:
        scores = {score for score in self.scores if score is not None}
        if scores - {1.0}:
            message = (
                f"its boxes have scores ({min(scores):g} to {max(scores):g}), which are ignored: are these detections?"
            )
            fix = "Use foveal eval --detections for detections"
            self.findings.add("warning", "scores-ignored", self.file, "", message, fix)

    def _check_splits(self, images: Sequence[NamedImage]) -> None:
        """Leaves out splits that are none: a column ``set`` or ``usage`` may be of another meaning."""
        words = Counter(image.split for image in images if image.split)
        strange = [word for word in words if not split_word(word) and word != "unassigned"]
        if strange:
            message = f"the column of splits has {listed(strange)}, which are no splits; it is ignored"
            self.findings.add("warning", "splits-ignored", self.file, "", message, "Write train, val and test")
        for image in images:
            image.split = split_word(image.split) if image.split and not strange else None


def _like_fractions(box: Box) -> bool:
    return all(-0.001 <= v <= _EDGE for v in box)
