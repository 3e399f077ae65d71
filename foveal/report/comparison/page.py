"""The page of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...evaluation.statistics.comparing import ScoreDifference
from ...files.aliases import PathLike
from ...files.atomic import write_text
from ...files.text import one_line
from ..charts import Frame, IntervalRow, Point, Series, interval_chart, line_chart, point_chart, thinned
from ..figures import calibration_chart, curve_charts, environment, error_rows, funnel_rows
from ..gallery import GalleryList, GalleryRun, balanced, gallery_json, gallery_scripts, template_file
from ..statistics.operating import empty_images
from .compared import ComparedRun, Pair, RunComparison, Side
from .settings import short_value
from .sides import loss_definition, setting_differences

EACH = 15  # images of a pair in favor of each side
MOST_PAIRS = 5  # with a gallery
CLASS_ROWS = 40  # of a chart of differences
LEGEND = (
    ("object", "object found"),
    ("lost", "object not found"),
    ("only", "found by this side alone"),
    ("hit", "detection that finds it"),
    ("false", "false alarm"),
)


def write_comparison(comparison: RunComparison, path: PathLike) -> Path:
    """Writes the page to a file, which is complete or absent, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, comparison_page(comparison))
    return path


def comparison_page(comparison: RunComparison) -> str:
    """The page as text."""
    c, truth = comparison, comparison.first.truth
    sides = c.sides
    iou = c.runs[0].results.curves.iou
    names = list(c.runs[0].results.numbers)
    styles = ("page.css", "charts.css", "pages.css", "gallery.css")
    false, lost = error_rows([s.counts(at_cut=True) for s in sides])
    everything = error_rows([s.counts(at_cut=False) for s in sides])
    return (
        environment()
        .get_template("compare.html")
        .render(
            css=Markup("\n").join(map(template_file, styles)),
            scripts=gallery_scripts(),
            title=" / ".join(one_line(s.label, 60) for s in sides),
            c=c,
            sides=sides,
            heads=[(s.letter, s.index) for s in sides],
            split=c.first.split,
            objects=len(truth),
            names=names,
            pairs=[_pair(c, pair, names) for pair in c.pairs],
            settings=setting_differences([s.runs[0].record for s in sides]),
            short=short_value,
            curves=curve_charts([(_name(s), s.index, s.bands) for s in sides], iou),
            false_rows=false,
            lost_rows=lost,
            totals=[_totals(rows) for rows in (false, lost)],
            all_totals=[_totals(rows) for rows in everything],
            funnel=funnel_rows([s.funnel for s in sides]),
            without=int(empty_images(truth).sum()),
            calibration=calibration_chart([(_name(s), s.index, s.runs[0].calibration) for s in sides]),
            tradeoff=_tradeoff(c),
            training=_training(c),
            gallery=_gallery(c),
            legend=LEGEND,
        )
    )


def _name(side: Side) -> str:
    return f"{side.letter} {one_line(side.runs[0].label, 40)}" + (" ..." if len(side.runs) > 1 else "")


def _totals(rows: Sequence[Any]) -> list[float]:
    return [sum(row.values[k] or 0 for row in rows) for k in range(len(rows[0].values))] if rows else []


# -------------------------------------------------------------------------------------------- differences
def _pair(c: RunComparison, pair: Pair, names: Sequence[str]) -> dict[str, Any]:
    """A pair's table, charts and verdict."""
    per_class = pair.scores.per_class
    shown = list(next(iter(per_class.values()), {}))
    number = shown[0] if shown else c.headline
    found = pair.discoveries(number)
    order = sorted(per_class, key=lambda n: -abs(per_class[n][number].value or 0))
    color = pair.candidate.index
    return {
        "pair": pair,
        "headline": pair.scores.numbers[c.headline],
        "rows": [(name, pair.scores.numbers[name]) for name in names],
        "chart": interval_chart(
            [r for name in names if (r := _row(name, pair.scores.numbers[name], color)) is not None],
            f"{pair.name}: difference with its 95 % interval",
            f"{pair.candidate.letter} less {pair.baseline.letter}",
        ),
        "number": number,
        "classes": [(one_line(name), per_class[name], found.get(name)) for name in order],
        "class_chart": interval_chart(
            [r for n in order[:CLASS_ROWS] if (r := _row(one_line(n), per_class[n][number], color)) is not None],
            f"{pair.name}: {number} of each class",
            f"{pair.candidate.letter} less {pair.baseline.letter}",
        ),
        "judged": len(found),
        "remain": sum(found.values()),
        "significant": sum(row[number].verdict != "cannot tell" for row in per_class.values()),
    }


def _row(name: str, difference: ScoreDifference, color: int) -> IntervalRow | None:
    d = difference
    return None if d.value is None else IntervalRow(name, d.value, d.low, d.high, d.verdict, color)


# ------------------------------------------------------------------------------------------ time and losses
def _tradeoff(c: RunComparison) -> list[Markup]:
    """Scores over the time of an image, and over the time of training."""
    by_image, by_training = [], []
    for side in c.sides:
        for run in side.runs:
            score = run.results.numbers[c.headline]
            if score is None:
                continue
            found = run.results.intervals.numbers[c.headline]
            interval = None if found.low is None or found.high is None else (found.low, found.high)
            by_image.append(Point(_name(side), side.index, 1000 * run.evaluation.seconds, score, interval))
            if run.minutes is not None:
                by_training.append(Point(_name(side), side.index, run.minutes, score, interval))
    return [
        point_chart(by_image, Frame("ms an image, with reading it", c.headline), f"{c.headline} over detection time"),
        point_chart(by_training, Frame("minutes", c.headline), f"{c.headline} over training time"),
    ]


def _training(c: RunComparison) -> dict[str, Any]:
    """Validation curves on one axis, and losses on one for each definition."""
    score = [s for run in _all(c) if (s := _series(*run, "val", "AP")) is not None]
    definitions: dict[tuple[tuple[str, str], ...], list[tuple[Side, ComparedRun]]] = {}
    for side, run in _all(c):
        definitions.setdefault(loss_definition(run.record), []).append((side, run))
    charts = []
    for number, runs in enumerate(definitions.values(), 1):
        letters = ", ".join(dict.fromkeys(side.letter for side, _ in runs))
        title = f"Losses of {letters}" if len(definitions) > 1 else "Losses"
        lines = [
            s
            for split in ("train", "val")
            for side, run in runs
            if (s := _series(side, run, split, "loss", dashed=split == "val")) is not None
        ]
        frame = Frame("iteration", f"loss ({number})" if len(definitions) > 1 else "loss", whole=True)
        charts.append(line_chart(lines, frame, title))
    validation = line_chart(score, Frame("iteration", "AP", whole=True), "AP of the validations while training (coco)")
    return {"score": validation, "losses": [chart for chart in charts if chart], "definitions": len(definitions)}


def _all(c: RunComparison) -> list[tuple[Side, ComparedRun]]:
    return [(side, run) for side in c.sides for run in side.runs]


def _series(side: Side, run: ComparedRun, split: str, name: str, dashed: bool = False) -> Series | None:
    steps, values = run.record.series(split, name)
    if not steps:
        return None
    label = _name(side) + (" (validation)" if dashed else "")
    return thinned(label, side.index, steps, values, dashed=dashed)


# ------------------------------------------------------------------------------------------------ gallery
def _gallery(c: RunComparison) -> Markup | None:
    """The images that decide each difference, half of them for either side."""
    truth = c.first.truth
    runs = [GalleryRun(side.index, run.label, run.evaluation.table, run.cut) for side in c.sides for run in side.runs]
    lists = []
    for pair in c.pairs[:MOST_PAIRS]:
        order = balanced(pair.influence, EACH)
        commands = [_command(pair, truth.files[i] if truth.files else str(truth.images[i])) for i in order]
        sides = (pair.baseline.index, pair.candidate.index)
        lists.append(GalleryList(pair.name, sides, order, pair.influence[order], tuple(commands)))
    return gallery_json(truth, runs, lists) if lists else None


def _command(pair: Pair, file: str) -> str:
    """The command for the inside view of both sides; without the folders of this machine."""
    name = Path(file).name
    runs = (pair.baseline.runs[0].label, pair.candidate.runs[0].label)
    return "; ".join(f"foveal inspect {one_line(run)} {one_line(name)} --data DATA" for run in runs)
