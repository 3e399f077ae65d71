"""The table that ``foveal eval`` prints: scores of all classes and of each, with their intervals beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...files.text import one_line
from .intervals import Interval, Intervals

Score = float | None


@dataclass(frozen=True)
class ScoreSide:
    """The scores of boxes or of masks."""

    mark: str  # before the names of their columns
    numbers: Mapping[str, Score]
    per_class: Mapping[str, Mapping[str, Score]]
    intervals: Intervals | None  # None: not shown

    def number(self, name: str) -> str:
        """A cell."""
        return _cell(self.numbers[name], None if self.intervals is None else self.intervals.numbers[name])

    def of_class(self, label: str, name: str) -> str:
        """A cell."""
        interval = None if self.intervals is None else self.intervals.per_class[label][name]
        return _cell(self.per_class[label][name], interval)


def score_table(sides: Sequence[ScoreSide], objects: Mapping[str, int]) -> list[str]:
    """Lines. ``sides``: of boxes, then of masks where there are any; ``objects``: class -> objects that count."""
    first = sides[0]
    blank = " " * len(_cell(None, None if first.intervals is None else Interval(None, None, None, 0)))
    lines = []
    if len(sides) > 1:
        lines.append(" " * 7 + "  ".join(f"{name:>6}{blank[6:]}" for name in ("boxes", "masks")).rstrip())
    lines += [f"{name:<6} {'  '.join(s.number(name) for s in sides)}".rstrip() for name in first.numbers]
    columns = list(next(iter(first.per_class.values()), ()))
    width = max([len("class"), *(len(one_line(name)) for name in first.per_class)])
    titles = "  ".join(f"{s.mark + c:>6}{blank[6:]}" for s in sides for c in columns)
    lines += ["", f"{'class':<{width}}  objects  {titles}".rstrip()]
    for name in first.per_class:
        cells = "  ".join(s.of_class(name, c) for s in sides for c in columns)
        lines.append(f"{one_line(name):<{width}}  {objects[name]:>7}  {cells}".rstrip())
    return lines


def shown_score(value: Score) -> str:
    """Four digits; ``-`` where it is undefined."""
    return "-" if value is None else f"{value:.4f}"


def _cell(value: Score, interval: Interval | None) -> str:
    return f"{shown_score(value):>6}" + ("" if interval is None else f"  {interval!s:<16}")
