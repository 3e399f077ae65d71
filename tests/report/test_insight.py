"""What the report of a run says about its detections, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.evaluation import score_detections
from foveal.report.evaluation_file import RunEvaluation
from foveal.report.insight import hardest
from foveal.report.page import render, write_report
from foveal.report.read_run import RunRecord
from tests.helpers.compared_runs import make_evaluation, make_images, make_record
from tests.helpers.simulated_runs import make_objects, make_run
from tests.inspection.browser import chromium, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


def evaluated(folder: Path, images: int = 40) -> tuple[RunRecord, RunEvaluation]:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, images)
    evaluation = make_evaluation(make_images(folder / "images", objects), make_run(rng, objects, 0.6))
    results = score_detections(evaluation.truth, evaluation.table).to_dict(intervals=True)
    record = make_record(folder, divided=None)
    return replace(record, results={**record.results, **results}), evaluation


def test_the_page_of_a_run(browser: Any, tmp_path: Path) -> None:
    record, evaluation = evaluated(tmp_path)
    path = write_report(record, [], evaluation, ["A note."])
    results = score_detections(evaluation.truth, evaluation.table)
    interval = results.intervals.numbers["AP"]
    assert interval.low is not None and interval.high is not None
    for width, scheme in ((360, "dark"), (1280, "light")):
        with opened(browser, path, width=width, scheme=scheme) as page:
            text = page.locator("body").inner_text()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert f"95 %: {100 * interval.low:.1f} to {100 * interval.high:.1f}" in text
            assert "Miss funnel" in text and "The hardest images" in text and "A note." in text
            order, influence = hardest(results.influence.numbers["AP"])
            names = page.locator("article h3").all_inner_texts()
            assert names == [f"{i:03d}.jpg" for i in order[:12]]
            assert f"{influence[0]:.4f}" in text
            assert page.locator("figure.chart circle").count() >= 3  # three validations: a curve
            command = page.locator("article code").first.text_content()
            assert command is not None and command.startswith("foveal inspect ")
            assert "--data shapes" in command and f"{order[0]:03d}.jpg" in command


def test_the_hardest_image_is_the_one_without_which_ap_is_the_highest(tmp_path: Path) -> None:
    _, evaluation = evaluated(tmp_path, 24)
    truth, table = evaluation.truth, evaluation.table
    order, influence = hardest(score_detections(truth, table).influence.numbers["AP"])
    whole = score_detections(truth, table).numbers["AP"]
    assert whole is not None and (np.diff(influence) >= 0).all() and (influence < 0).all()
    without = []
    for image in range(len(truth.images)):
        rest = score_detections(truth[truth.image != image], table[table.image != image]).numbers["AP"]
        assert rest is not None
        without.append(whole - rest)
    assert int(np.argmin(without)) == order[0]
    assert influence[0] == pytest.approx(min(without), abs=1e-12)


def test_a_run_without_detections_objects_or_verdicts(browser: Any, tmp_path: Path) -> None:
    record, evaluation = evaluated(tmp_path, 22)
    none = replace(evaluation, table=evaluation.table[:0], verdicts=None)
    empty = replace(evaluation, truth=evaluation.truth[:0], verdicts=None)
    for name, one in (("none", none), ("empty", empty)):
        text = render(record, [], one, [])
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        with opened(browser, path) as page:
            assert "No detection finds an object" in page.locator("body").inner_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import""", text)
