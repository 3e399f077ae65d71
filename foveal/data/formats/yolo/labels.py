"""Parses YOLO label files: a line ``class cx cy w h`` for each object, in fractions of the image's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ....files.reading import read_text
from ...diagnosis.classes import folded
from ...records.convention import Convention
from ...records.findings import Findings
from ..validate import Box, ParsedObject, number
from .lines import NAMED, Line, is_cut_off, split_line
from .shapes import Shapes
from .tally import LineTally


@dataclass(frozen=True)
class YoloClasses:
    """The classes of a ``data.yaml``."""

    names: tuple[str, ...] = ()  # without repeats
    label_of: tuple[int, ...] = ()  # class number in the label files -> index into ``names``
    listed: tuple[str, ...] = ()  # name by class number

    def find(self, name: str) -> int | None:
        """The index into ``names`` of a name, or of the only one that is nearly equal to it."""
        exact, folded_names = self._by_name
        return exact.get(name, folded_names.get(folded(name)))

    @cached_property
    def _by_name(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        found: dict[str, set[int]] = {}
        for k, name in enumerate(self.names):
            found.setdefault(folded(name), set()).add(k)
        alone = {name: next(iter(labels)) for name, labels in found.items() if len(labels) == 1}
        return {name: k for k, name in enumerate(self.names)}, alone


class LabelText(NamedTuple):
    """The content of a label file: its lines that are not blank, and whether its end seems to be missing."""

    lines: list[Line]
    cut_off: bool


def read_label_text(file: Path, classes: YoloClasses) -> LabelText:
    """The content of a label file. Raises :class:`~foveal.files.reading.Unreadable`."""
    text, _ = read_text(file)
    numbered = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [split_line(line, n, lambda name: classes.find(name) is not None) for n, line in numbered]
    return LabelText(lines, is_cut_off(text))


@dataclass(frozen=True)
class LineParser:
    """Turns lines into objects by what is known about the whole set."""

    classes: YoloClasses
    shapes: Shapes
    convention: Convention
    findings: Findings
    tally: LineTally

    def objects(
        self, file: Path, lines: Sequence[Line], size: tuple[int, int], flags: object
    ) -> Iterator[ParsedObject]:
        """The objects of an image of ``size`` (width, height); lines that cannot be parsed become findings.

        ``flags`` is the file's entry in ``flags.json``: ``{"crowd": [line numbers], "difficult": [...]}``.
        """
        if not self.classes.names:  # an error of its own
            return
        crowd, difficult = _flagged_lines(flags, "crowd"), _flagged_lines(flags, "difficult")
        for line in lines:
            parsed = self._object(file, line, size)
            if parsed is not None:
                parsed.crowd, parsed.difficult = line.n in crowd, line.n in difficult
                yield parsed

    def _object(self, file: Path, line: Line, size: tuple[int, int]) -> ParsedObject | None:
        where = f"line {line.n}"
        kind = self.shapes.of(len(line.columns))
        if line.doubt or kind is None:
            what = f"{len(line.columns) + 1} columns, {line.doubt or self.shapes.problem(len(line.columns))}"
            self.tally.error(what, file, where)
            return None
        numbers = self._numbers(file, line, where)
        label = None if numbers is None else self._label(file, line, where)
        if numbers is None or label is None:
            return None
        for way in line.ways:
            self.tally.read_so(way, file, where)
        where += f" ({self.classes.names[label]})"
        finite = all(map(math.isfinite, numbers))
        if kind in ("polygon", "rotated"):
            shown = f"of the polygon {' '.join(line.columns[:6])} ..."
            if finite:
                self.tally.taken(kind, len(numbers), file, where)
            around = _around(numbers)
            box = (around[0] * size[0], around[1] * size[1], around[2] * size[0], around[3] * size[1])
            return ParsedObject(box, label, where, shown + _pixels(numbers), numbers=around, around=True)
        if kind != "box" and finite:
            self.tally.taken(kind, len(numbers), file, where)
        cx, cy, w, h = numbers[:4]
        shown = " ".join(line.columns[:4]) + (_pixels(numbers[:4]) if finite else "")
        return ParsedObject(_center_box((cx, cy, w, h), size), label, where, shown, numbers=(cx, cy, w, h))

    def _numbers(self, file: Path, line: Line, where: str) -> list[float] | None:
        numbers: list[float] = []
        for text in line.columns:
            value = number(text)
            if value is None:
                message = f"{text[:40]!r} is not a number; dropped"
                self.findings.add("warning", "box-not-number", file, where, message, "Correct it")
                return None
            numbers.append(value)
        return numbers

    def _label(self, file: Path, line: Line, where: str) -> int | None:
        """The label of the class as written: its number, or else its name."""
        count, first = len(self.classes.label_of), self.convention.first_class
        index = number(line.label)
        if index is not None and math.isfinite(index) and index == int(index):
            self.tally.numbers[min(int(index), 1 << 31)] += 1
            if 0 <= index - first < count:
                return self.classes.label_of[int(index) - first]
        elif index is None:
            label = self.classes.find(line.label)
            if label is not None:
                self.tally.read_so(NAMED, file, where)
                return label
        message = f"the class {line.label[:40]!r} is not one of {first}..{count - 1 + first}; dropped"
        fix = "Correct it or add its name to the list of names"
        self.findings.add("warning", "class-unknown", file, where, message, fix)
        return None


def _around(numbers: Sequence[float]) -> Box:
    """The smallest box around x1 y1 x2 y2 ...; NaN where a number is not finite."""
    if not all(map(math.isfinite, numbers)):
        return (math.nan,) * 4
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _center_box(numbers: Box, size: tuple[int, int]) -> Box:
    (cx, cy, w, h), (width, height) = numbers, size
    return (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height


def _pixels(numbers: Sequence[float]) -> str:
    large = max(numbers) > 2 and all(map(math.isfinite, numbers))
    return " (these look like pixels, expected fractions of the image)" if large else ""


def _flagged_lines(flags: object, key: str) -> set[int]:
    lines = flags.get(key) if isinstance(flags, dict) else None
    return {n for n in lines if isinstance(n, int)} if isinstance(lines, list) else set()
