"""What the page of a run and that of a comparison share: curves with bands, kinds of errors, funnels, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from markupsafe import Markup

from ..evaluation.statistics.curve_bands import CurveBand
from ..evaluation.statistics.error_kinds import KINDS
from ..files.text import one_line
from .charts import Frame, Series, line_chart
from .statistics.operating import Calibration

CLASSES = 20  # with a precision-recall curve of their own
KIND_HELP = {
    "class": "on an object, but of another class",
    "localization": "near an object of its class, but with an IoU under the threshold",
    "both": "near an object of another class",
    "duplicate": "on an object that a better detection has found",
    "background": "on no object",
    "missed": "objects that no detection points at",
}


@dataclass(frozen=True)
class BarRow:
    """A name and a value of each side, drawn as bars."""

    name: str
    help: str
    values: tuple[float | None, ...]  # of each side
    shares: tuple[float, ...]  # 0..1 of the longest bar


def environment() -> jinja2.Environment:
    """Templates of this package; all values are escaped."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("foveal.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    templates.filters["score"] = lambda value: "–" if value is None else f"{value:.4f}"
    templates.filters["signed"] = lambda value: "–" if value is None else f"{value:+.4f}"
    templates.filters["count"] = lambda value: "–" if value is None else f"{value:,.1f}".removesuffix(".0")
    templates.filters["line"] = one_line
    return templates


def curve_charts(sides: Sequence[tuple[str, int, Mapping[str, CurveBand]]], iou: float) -> list[tuple[str, Markup]]:
    """(class, its precision-recall curves); under ``""`` the mean over classes. ``sides``: name, color, curves."""
    names = list(dict.fromkeys(name for _, _, bands in sides for name in bands))
    out = []
    for name in names[: CLASSES + 1]:
        lines = [
            Series(label, color, b.recall, b.precision, b.low, b.high)
            for label, color, bands in sides
            if (b := bands.get(name)) is not None
        ]
        title = f"{one_line(name) or 'Mean over classes'}: precision and recall at IoU {iou:g}"
        out.append((one_line(name), line_chart(lines, Frame("recall", "precision", (0, 1), (0, 1.02)), title)))
    return out


def calibration_chart(sides: Sequence[tuple[str, int, Calibration]]) -> Markup:
    """Share of hits over score; on the diagonal a score is a probability."""
    lines = [
        Series(f"{name}, error {c.error:.3f}" if c.error is not None else name, color, np.array(c.score),
               np.array(c.precision), dots=True)
        for name, color, c in sides
    ]  # fmt: skip
    frame = Frame("score", "share of hits", (0, 1), (0, 1.02))
    return line_chart(lines, frame, "Calibration: how often a detection of this score is right", diagonal=True)


def error_rows(sides: Sequence[Mapping[str, Mapping[str, float]]]) -> tuple[list[BarRow], list[BarRow]]:
    """The kinds of false detections, and of objects that were not found, of each side."""
    false = [side["false_detections"] for side in sides]
    lost = [side["not_found"] for side in sides]
    helps = {"class": "only a detection of another class points at it", "missed": KIND_HELP["missed"],
             "localization": "only a badly placed detection points at it"}  # fmt: skip
    return _rows(false, [k for k in KINDS if k in false[0]], KIND_HELP), _rows(
        lost, [k for k in KINDS if k in lost[0]], helps
    )


def funnel_rows(sides: Sequence[Mapping[str, float] | None]) -> list[BarRow]:
    """The verdicts on the objects of each side; empty where no side has them."""
    known = [side for side in sides if side is not None]
    if not known:
        return []
    total = max([sum(side.values()) for side in known] + [1])
    rows = [
        BarRow(name, "", values, tuple((v or 0) / total for v in values))
        for name in known[0]
        if any(values := tuple(None if side is None else side[name] for side in sides)) or name == "found"
    ]
    return rows


def _rows(sides: Sequence[Mapping[str, float]], names: Sequence[str], helps: Mapping[str, str]) -> list[BarRow]:
    most = max([side[name] for side in sides for name in names] + [1])
    return [
        BarRow(name, helps.get(name, ""), tuple(s[name] for s in sides), tuple(s[name] / most for s in sides))
        for name in names
    ]
