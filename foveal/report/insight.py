"""What the report of a run says about its detections: curves, errors, funnel, threshold, the hardest images."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from ..evaluation import score_detections
from ..evaluation.statistics.curve_bands import curve_bands
from ..files.aliases import Floats, Ints
from .evaluation_file import RunEvaluation
from .figures import calibration_chart, curve_charts, error_rows, funnel_rows
from .gallery import GalleryList, GalleryRun, gallery_json, gallery_scripts
from .read_run import RunRecord
from .statistics.operating import best_f1, calibration, empty_images, false_alarms, pooled

HARDEST = 24  # images
WITHOUT_POINT = 0.5  # threshold where nothing is hit
PAGES = "inspection"  # folder of a run for the pages of foveal inspect
LEGEND = (
    ("object", "object found"),
    ("lost", "object not found"),
    ("hit", "detection that finds it"),
    ("false", "false alarm"),
)


def run_insight(record: RunRecord, evaluation: RunEvaluation) -> dict[str, Any]:
    """The values of this part of the template."""
    truth, table = evaluation.truth, evaluation.table
    results = score_detections(truth, table, "coco")
    every = pooled(results.curves)
    point = best_f1(every)
    cut = WITHOUT_POINT if point is None else point.score
    at_cut = score_detections(truth, table[table.score >= cut], "coco")
    counts = {"false_detections": at_cut.errors.false_detections(), "not_found": at_cut.errors.not_found()}
    false, lost = error_rows([counts])
    funnel = None
    if evaluation.verdicts is not None:
        verdicts = np.bincount(evaluation.verdicts[evaluation.verdicts >= 0], minlength=len(evaluation.verdict_texts))
        funnel = dict(zip(evaluation.verdict_texts, verdicts.tolist(), strict=True))
    order, influence = hardest(results.influence.numbers["AP"])
    commands = [_command(record, evaluation, int(i)) for i in order]
    runs = [GalleryRun(0, record.path.name, table, cut)]
    return {
        "curves": curve_charts([(record.path.name, 0, curve_bands([results.run]))], results.curves.iou),
        "calibration": calibration_chart([("detections", 0, calibration(every))]),
        "point": point,
        "false_alarms": false_alarms(truth, table, cut),
        "without": int(empty_images(truth).sum()),
        "false_rows": false,
        "lost_rows": lost,
        "totals": [[sum(row.values[0] or 0 for row in rows)] for rows in (false, lost)],
        "funnel": funnel_rows([funnel]),
        "gallery": gallery_json(truth, runs, [GalleryList("hardest", (0,), order, influence, tuple(commands))]),
        "legend": LEGEND,
        "scripts": gallery_scripts(),
    }


def hardest(influence: Floats) -> tuple[Ints, Floats]:
    """The images that pull the score down, the worst first, with their influence on it."""
    values = np.nan_to_num(influence)
    order = np.argsort(values, kind="stable")[:HARDEST]
    order = order[values[order] < 0]
    return order, values[order]


def _command(record: RunRecord, evaluation: RunEvaluation, index: int) -> str:
    """What writes the inside view of an image."""
    truth, arguments = evaluation.truth, record.run.get("arguments", {})
    if truth.files is None:
        return ""
    data = arguments.get("val") or arguments.get("data")
    sets = " ".join(f"--data {quote(str(each))}" for each in (data if isinstance(data, list) else [data]))
    out = quote(str(record.path / PAGES))
    return f"foveal inspect {quote(str(record.path))} {quote(str(Path(truth.files[index])))} {sets} --out {out}"
