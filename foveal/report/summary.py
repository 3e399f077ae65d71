"""The end of a training run on the terminal: scores, classes, files, next commands. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from ..files.atomic import read_object
from ..files.text import one_line
from .read_run import RunRecord, read_record

CLASSES = 20  # shown at most; the others are counted
SCORES = ("AP", "AP50", "AP75")
FILES = {
    "report.html": "curves, scores and drawings",
    "results.json": "all scores",
    "metrics.jsonl": "losses and scores over time",
    "checkpoints/best": "the weights that eval and predict use",
}


def run_summary(run: str | Path) -> str:
    """Scores of the best and the last weights, scores per class, the files of the run, and what to do with them."""
    record = read_record(run)
    results = record.results
    if not results:
        return f"{run}: no results yet"
    if "split" not in results:  # an imported or damaged file
        return f"{run}: no validation yet, iteration {results.get('steps')}"
    head = f"{run}: validated on split {results['split']}, {results.get('images')} images, by protocol coco"
    return "\n\n".join([head, _scores(results), _files(record.path), _next(record)])


def seeds_summary(run: str | Path) -> str:
    """Mean and sample standard deviation of the scores of several runs that differ in their seed."""
    results = read_object(Path(run) / "results.json")
    rows: list[tuple[str, ...]] = [("", *SCORES)]
    sides = [("best", results), ("last", results.get("last") or {})]
    for name, part in sides[results.get("keep") == "last" :]:
        spread = part.get("spread") or {}
        rows.append((f"{name} weights, mean", *(_shown(part.get(score)) for score in SCORES)))
        rows.append((f"{name} weights, std", *(_shown(spread.get(score)) for score in SCORES)))
    seeds = ", ".join(map(str, results.get("seeds", ())))
    return f"{run}: seeds {seeds}, mean and sample standard deviation\n\n{text_table(rows)}"


def _scores(results: dict[str, Any]) -> str:
    last = results.get("last") or {}
    rows: list[tuple[str, ...]] = [("", *SCORES)]
    kept = "last" if results.get("keep") == "last" else "best"
    rows.append((f"{kept} weights (iteration {results.get('step')})", *_row(results)))
    if kept == "best":
        rows.append((f"last weights (iteration {results.get('steps')})", *_row(last)))
    if "masks" in results:
        rows.append((f"masks of the {kept} weights", *_row(results["masks"])))
    classes = results.get("per_class") or {}
    rows += [(f"  {one_line(name)}", *_row(values)) for name, values in list(classes.items())[:CLASSES]]
    more = f"\n  and {len(classes) - CLASSES} more classes" if len(classes) > CLASSES else ""
    return text_table(rows) + more


def _row(values: dict[str, Any]) -> list[str]:
    return [_shown(values[name]) if name in values else "" for name in SCORES]


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _files(folder: Path) -> str:
    rows = [(str(folder / name), what) for name, what in FILES.items() if (folder / name).exists()]
    width = max([len(path) for path, _ in rows], default=0)
    return "\n".join(["Files:", *(f"  {path:<{width}}  {what}" for path, what in rows)])


def _next(record: RunRecord) -> str:
    arguments = record.run.get("arguments", {})
    run, data = quote(str(record.path)), arguments.get("data")
    sets = " ".join(f"--data {quote(str(each))}" for each in (data if isinstance(data, list) else [data]))
    if arguments.get("images"):
        sets += f" --images {quote(str(arguments['images']))}"
    return "\n".join(
        [
            "Next:",
            f"  foveal eval {run} {sets}",
            f"  foveal predict {run} IMAGES --out {quote(f'{record.path}/drawings')}",
        ]
    )


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
