"""Parses one YOLO label file: a line ``class cx cy w h`` for each object, in fractions of the image's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....files.reading import Unreadable, read_text
from ...records.findings import Findings
from ..validate import Box, ParsedObject, number


@dataclass(frozen=True)
class YoloClasses:
    """The classes of a ``data.yaml``."""

    names: tuple[str, ...] = ()  # without repeats
    label_of: tuple[int, ...] = ()  # class number in the label files -> index into ``names``


def read_objects(
    file: Path, size: tuple[int, int], classes: YoloClasses, flags: object, findings: Findings
) -> Iterator[ParsedObject]:
    """The objects of an image of ``size`` (width, height); lines that cannot be parsed become findings.

    ``flags`` is the file's entry in ``flags.json``: ``{"crowd": [line numbers], "difficult": [...]}``.
    """
    try:
        text, _ = read_text(file)
    except Unreadable as error:
        findings.add("error", "annotation-unreadable", file, "", error.message, error.fix)
        return
    if not classes.names:  # an error of its own
        return
    crowd, difficult = _flagged_lines(flags, "crowd"), _flagged_lines(flags, "difficult")
    for n, line in enumerate(text.splitlines(), 1):
        parsed = _parse_line(line.split(), n, file, size, classes, findings) if line.strip() else None
        if parsed is not None:
            parsed.crowd, parsed.difficult = n in crowd, n in difficult
            yield parsed


def _parse_line(
    columns: list[str], n: int, file: Path, size: tuple[int, int], classes: YoloClasses, findings: Findings
) -> ParsedObject | None:
    where = f"line {n}"
    polygon = len(columns) >= 7 and len(columns) % 2 == 1
    if len(columns) != 5 and not polygon:
        hint = " (a sixth column may be a confidence: are these detections?)" if len(columns) == 6 else ""
        message = f"{len(columns)} columns, expected class and four numbers{hint}"
        findings.add("error", "line-columns", file, where, message, "Correct or remove the line")
        return None
    numbers: list[float] = []
    for text in columns[1:]:
        value = number(text)
        if value is None:
            message = f"{text[:40]!r} is not a number; dropped"
            findings.add("warning", "box-not-number", file, where, message, "Correct it")
            return None
        numbers.append(value)
    index = number(columns[0])
    if index is None or not math.isfinite(index) or index != int(index) or not 0 <= index < len(classes.label_of):
        message = f"the class {columns[0][:40]!r} is not one of 0..{len(classes.label_of) - 1}; dropped"
        findings.add("warning", "class-unknown", file, where, message, "Correct it or add its name to the yaml")
        return None
    label = classes.label_of[int(index)]
    where += f" ({classes.names[label]})"
    finite = all(map(math.isfinite, numbers))
    if polygon and finite:
        message = f"a polygon of {len(numbers) // 2} points; its box is used"
        findings.add("note", "polygon-line", file, where, message)
    shown = f"of the polygon {' '.join(columns[1:7])} ..." if polygon else " ".join(columns[1:])
    if max(numbers) > 2 and finite:
        shown += " (these look like pixels, expected fractions of the image)"
    return ParsedObject(_polygon_box(numbers, size) if polygon else _center_box(numbers, size), label, where, shown)


def _center_box(numbers: Sequence[float], size: tuple[int, int]) -> Box:
    (cx, cy, w, h), (width, height) = numbers, size
    return (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height


def _polygon_box(numbers: Sequence[float], size: tuple[int, int]) -> Box:
    """The smallest box around x1 y1 x2 y2 ...; NaN where a number is not finite."""
    if not all(map(math.isfinite, numbers)):
        return (math.nan,) * 4
    (xs, ys), (width, height) = (numbers[0::2], numbers[1::2]), size
    return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height


def _flagged_lines(flags: object, key: str) -> set[int]:
    lines = flags.get(key) if isinstance(flags, dict) else None
    return {n for n in lines if isinstance(n, int)} if isinstance(lines, list) else set()
