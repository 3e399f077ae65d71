"""``report.html``: one run on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from ..files.atomic import write_text
from .charts import Frame, Series, line_chart, thinned
from .evaluation_file import RunEvaluation
from .figures import environment
from .gallery import template_file
from .insight import run_insight
from .plots import inline, jpeg
from .read_run import RunRecord

PROTOCOLS = {
    "coco": "COCO: AP over IoU .50:.05:.95, 101 recall points, at most 100 detections an image",
    "voc07": "PASCAL VOC 2007: mean AP at IoU .5, 11 recall points",
    "voc10": "PASCAL VOC 2010: mean AP at IoU .5, area under the curve",
}
SIZES = {"APs": "small objects", "APm": "medium", "APl": "large", "AR100": "recall, 100 detections"}


@dataclass(frozen=True)
class Example:
    """A validation image, drawn twice."""

    name: str
    truth: Image.Image  # the annotated objects
    detections: Image.Image


def write_report(
    record: RunRecord,
    examples: Sequence[Example] = (),
    evaluation: RunEvaluation | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes ``report.html`` into the run folder and returns its path. ``notes`` are sentences for the reader."""
    path = record.path / "report.html"
    write_text(path, render(record, examples, evaluation, notes))
    return path


def render(
    record: RunRecord, examples: Sequence[Example], evaluation: RunEvaluation | None, notes: Sequence[str]
) -> str:
    """The page as text. ``evaluation``: what the run detected in its validation images, where that is known."""
    results = record.results
    shown = [(e.name, inline(jpeg(e.truth), "jpeg"), inline(jpeg(e.detections), "jpeg")) for e in examples]
    styles = ("page.css", "charts.css", "pages.css", "gallery.css")
    return (
        environment()
        .get_template("report.html")
        .render(
            css=Markup("\n").join(map(template_file, styles)),
            title=record.path.resolve().name,
            detector=str(record.run.get("spec", "")).split("(", 1)[0],
            headline=_headline(results),
            intervals=results.get("intervals") or {},
            protocol=PROTOCOLS.get(str(results.get("protocol")), ""),
            split=results.get("split"),
            images=results.get("images"),
            step=results.get("step"),
            last=(results.get("last") or {}).get("AP"),
            per_class=_per_class(results),
            charts=_charts(record),
            inside=None if evaluation is None else run_insight(record, evaluation),
            examples=shown,
            notes=list(notes),
            spec=record.run.get("spec", ""),
            facts=_facts(record),
            time=_time(record),
        )
    )


def _headline(results: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Big numbers: (name, what it is, fraction)."""
    if "mAP" in results:
        return [("mAP", "mean over classes", results["mAP"])]
    big = [("AP", "mean over IoU .50:.95", results.get("AP")), ("AP50", "at IoU .50", results.get("AP50"))]
    big += [("AP75", "at IoU .75", results.get("AP75"))]
    if "masks" in results:
        masks = results["masks"]
        big += [("mask AP", "of masks, mean over IoU .50:.95", masks["AP"]), ("mask AP50", "at IoU .50", masks["AP50"])]
    return [*big, *((name, text, results.get(name)) for name, text in SIZES.items())] if results else []


def _per_class(results: dict[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """(class, AP, AP50, the interval of AP), the best first."""
    intervals = (results.get("intervals") or {}).get("per_class") or {}
    rows = [
        (name, v.get("AP"), v.get("AP50"), (intervals.get(name) or {}).get("AP"))
        for name, v in (results.get("per_class") or {}).items()
    ]
    return sorted(rows, key=lambda row: -1.0 if row[1] is None else row[1], reverse=True)


def _charts(record: RunRecord) -> list[Markup]:
    """Losses, validation scores and the learning rate over the iterations."""

    def collected(pairs: Sequence[tuple[str, str, str]]) -> list[Series]:
        found = [(label, split, record.series(split, name)) for label, split, name in pairs]
        found = [(label, split, series) for label, split, series in found if series[0]]
        return [
            thinned(label, k, *series, dashed=split == "val" and label.startswith("loss"))
            for k, (label, split, series) in enumerate(found)
        ]

    parts = [(f"{n} (training)", "train", n) for n in record.losses("train")]
    names = ("AP", "AP50", "AP75", "masks.AP", "masks.AP50")
    charts = [
        line_chart(
            collected([*parts, ("loss (validation)", "val", "loss")]), Frame("iteration", "loss", whole=True), "Losses"
        ),
        line_chart(
            collected([(name, "val", name) for name in names]),
            Frame("iteration", "AP", whole=True),
            "Validation scores (coco)",
        ),
        line_chart(
            collected([("learning rate", "train", "lr")]),
            Frame("iteration", "learning rate", whole=True),
            "Learning rate",
        ),
    ]
    return [chart for chart in charts if chart]


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    run = record.run
    environment, arguments = run.get("environment", {}), run.get("arguments", {})
    rows = [("data", str(arguments.get("data"))), ("classes", ", ".join(run.get("classes", ())))]
    for name, part in run.get("data_sets", {}).items():
        rows.append((name, f"{part['images']} images, {part['objects']} objects, split {part['split'] or '(all)'}"))
    if run.get("note"):
        rows.append(("note", str(run["note"])))
    rows += [("seed", str(run.get("seed"))), ("batch", str(run.get("batch_size")))]
    rows += [("precision", str(run.get("precision"))), ("processes", str(run.get("processes")))]
    rows += [
        ("CPU", f"{environment.get('processor')} ({environment.get('device')}, {environment.get('threads')} threads)")
    ]
    rows += [("platform", str(environment.get("platform")))]
    rows += [(name, str(version)) for name, version in environment.get("versions", {}).items()]
    return rows


def _time(record: RunRecord) -> list[tuple[str, float]]:
    """Where the time of the iterations goes: (name, share of all)."""
    last: dict[str, float] = {}
    for row in record.metrics:
        for name, value in row.items():
            if name.startswith("seconds_") and isinstance(value, (int, float)):
                last[name[8:]] = last.get(name[8:], 0.0) + value
    total = sum(last.values())
    return [(name, value / total) for name, value in last.items()] if total else []
