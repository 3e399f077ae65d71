"""A comparison on a terminal: sides, differences with their verdicts, classes, settings."""

from __future__ import annotations

from collections.abc import Iterator

from ...files.text import one_line
from ..summary import text_table
from .compared import Pair, RunComparison
from .settings import settings_table

CLASSES = 20  # of a pair; the others are counted


def comparison_text(comparison: RunComparison) -> str:
    """Lines of plain text."""
    c = comparison
    truth = c.first.truth
    split = f" of split {c.first.split}" if c.first.split else ""
    head = f"{c.first.images} images{split}, {len(truth)} objects, {len(truth.classes)} classes, protocol {c.protocol}"
    rows = [["side", "runs", c.headline, "std over seeds"]]
    for side in c.sides:
        mean, spread = side.mean(c.headline), side.spread(c.headline)
        rows.append([side.letter, one_line(side.label), _score(mean), _score(spread)])
    lines = [head, "", text_table([[row[0], row[1].ljust(max(len(r[1]) for r in rows)), *row[2:]] for row in rows])]
    for pair in c.pairs:
        lines += ["", *_pair(c, pair)]
    lines += ["", settings_table([run.record for run in c.runs])]
    notes = [*c.notes, *(note for pair in c.pairs for note in pair.scores.notes)]
    return "\n".join([*lines, "", *(f"note: {one_line(note)}" for note in dict.fromkeys(notes))])


def _pair(c: RunComparison, pair: Pair) -> Iterator[str]:
    verdict = pair.scores.numbers[c.headline]
    yield f"{pair.name}: {verdict.verdict}" + (f": {verdict.reason}" if verdict.reason else "")
    yield f"  {pair.spec_note}"
    for name, d in pair.scores.numbers.items():
        yield f"  {name:<6} {_score(d.baseline):>7} {_score(d.candidate):>7}  {d}"
    number = next(iter(next(iter(pair.scores.per_class.values()), {})), None)
    if number is None:
        return
    found = pair.discoveries(number)
    names = sorted(pair.scores.per_class, key=lambda n: -abs(pair.scores.per_class[n][number].value or 0))
    width = max(len(one_line(name)) for name in names)
    yield f"  {number} of the classes{' (*: remains when all are judged together)' if any(found.values()) else ''}"
    for name in names[:CLASSES]:
        d = pair.scores.per_class[name][number]
        mark = " *" if found.get(name) else ""
        yield f"  {one_line(name):<{width}} {_score(d.baseline):>7} {_score(d.candidate):>7}  {d}{mark}"
    if len(names) > CLASSES:
        yield f"  and {len(names) - CLASSES} more classes"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
