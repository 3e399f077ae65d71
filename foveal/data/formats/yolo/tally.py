"""Counts what is odd about the lines of YOLO label files, so that each cause is one finding and not one a line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...records.findings import Finding, Findings, Severity
from .lines import Dialect
from .shapes import LineKind, Shapes

Place = tuple[Path, str]
_FIX = "Correct or remove the line"


class LineTally:
    """What was seen in the lines of one read."""

    def __init__(self) -> None:
        self.numbers: Counter[int] = Counter()  # class numbers, known and unknown
        self._errors: dict[str, list[Place]] = {}  # message -> lines
        self._ways: dict[Dialect, list[Place]] = {}
        self._kinds: dict[LineKind, list[tuple[int, Place]]] = {}

    def error(self, message: str, file: Path, where: str) -> None:
        """A line that cannot be read."""
        self._errors.setdefault(message, []).append((file, where))

    def read_so(self, way: Dialect, file: Path, where: str) -> None:
        """A line that is not written as YOLO's are."""
        self._ways.setdefault(way, []).append((file, where))

    def taken(self, kind: LineKind, columns: int, file: Path, where: str) -> None:
        """A line of more than a class and a box."""
        self._kinds.setdefault(kind, []).append((columns, (file, where)))

    def report(self, shapes: Shapes, findings: Findings) -> None:
        """One finding for each cause, at the first line that has it."""
        for message, places in self._errors.items():
            file, where = places[0]
            more = f"; {_extent(places)} have the same" if len(places) > 1 else ""
            findings.append(Finding("line-columns", "error", str(file), where, message + more, _FIX, len(places)))
        for way, places in self._ways.items():
            file, where = places[0]
            message = f"{_extent(places)} {way.phrase}; read so"
            findings.add("warning", way.code, file, where, message, way.fix)
        for kind, lines in self._kinds.items():
            columns, (file, where) = lines[0]
            code, severity, phrase, fix = _kind(kind, columns, shapes)
            message = f"{_extent([place for _, place in lines])} {phrase}"
            findings.add(severity, code, file, where, message, fix)


def _extent(places: list[Place]) -> str:
    files = len({file for file, _ in places})
    if len(places) == 1:
        return "1 line"
    return f"{len(places)} lines in {files} file{'s' * (files > 1)}"


def _kind(kind: LineKind, columns: int, shapes: Shapes) -> tuple[str, Severity, str, str]:
    """Code, severity, what was taken of such lines, and what to do."""
    if kind == "polygon":
        return "polygon-line", "note", "hold a polygon, whose box is used", ""
    if kind == "rotated":
        return "rotated-box", "note", "hold the corners of a rotated box; the upright box around them is used", ""
    if kind == "keypoints":
        number, values = shapes.keypoints or ((columns - 4) // 2, 2)
        said = "" if shapes.stated else " (by the numbers: add kpt_shape to the yaml to state it)"
        return "keypoints-ignored", "note", f"hold {number} keypoints of {values} numbers, which are ignored{said}", ""
    phrase = "have a sixth column between 0 and 1, which is ignored: are these detections with a confidence?"
    return "sixth-column", "warning", phrase, "Remove the sixth column"
