"""The check of a detector on its data, and the pages about runs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal import presets
from foveal.checks.assignment import encode
from foveal.checks.overfit import Overfit
from foveal.data.records.dataset import Dataset, Record
from foveal.errors import FovealError
from foveal.evaluation.curves import Curve
from foveal.parts.coders import Delta
from foveal.parts.priors.anchors import PyramidAnchors
from foveal.report.comparison.settings import curves, settings_table
from foveal.report.page import Example, render
from foveal.report.plots import lines, precision_recall
from foveal.report.read_run import read_record
from foveal.report.summary import run_summary, seeds_summary
from foveal.training.seeds import summarize_seeds


def one_image(folder: Path, boxes: list[list[float]], labels: list[int]) -> Dataset:
    path = folder / "one.png"
    Image.new("RGB", (128, 128), "gray").save(path)
    box = np.array(boxes, np.float64)
    no = np.zeros(len(boxes), bool)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    record = Record("one", path, 128, 128, box, np.array(labels, np.int64), no, no, no, area)
    return Dataset(("cat", "dog"), [record])


SMALL: Any = replace(presets.retinanet_mini, input=replace(presets.retinanet_mini.input, short=128))  # type: ignore[attr-defined]


def test_encoded_objects_round_trip(tmp_path: Path) -> None:
    (stage,) = encode(SMALL, one_image(tmp_path, [[10, 10, 60, 70], [70, 20, 120, 100]], [0, 1]))
    assert (stage.name, stage.objects, stage.lost, stage.broken) == ("task", 2, [], [])
    assert stage.ap == pytest.approx(1.0)
    assert stage.passed


def test_two_objects_on_one_prior_are_a_reported_collision(tmp_path: Path) -> None:
    """IoU 0.92 and one class: matching or suppression must lose one of them."""
    (stage,) = encode(SMALL, one_image(tmp_path, [[10, 10, 60, 70], [10, 10, 60, 65]], [0, 0]))
    assert len(stage.lost) == 1
    assert "image one, object" in stage.lost[0]
    assert stage.passed


def test_coder_that_does_not_round_trip_is_detected(tmp_path: Path) -> None:
    """A clamp far too tight: log(1.1) lets a side grow by a tenth only, so large objects come back too small."""
    task = replace(SMALL.task, coder=Delta(clamp=float(np.log(1.02))))
    spec = replace(SMALL, task=task, anchors=PyramidAnchors(scale=4.0))
    (stage,) = encode(spec, one_image(tmp_path, [[4, 30, 124, 70]], [0]))
    assert not stage.passed
    assert "decoded with IoU" in stage.broken[0]


def test_both_stages_of_a_two_stage_detector_are_checked(tmp_path: Path) -> None:
    spec: Any = replace(presets.faster_rcnn_mini, input=SMALL.input)
    stages = encode(spec, one_image(tmp_path, [[10, 10, 60, 70], [70, 20, 120, 100]], [0, 1]))
    assert [(s.name, s.passed) for s in stages] == [("rpn", True), ("roi", True)]
    assert [s.ap for s in stages] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("ap50", "first", "last", "message"),
    [
        (0.95, 2.0, 0.1, "learned"),
        (0.1, 2.0, 1.9, "loss hardly falls"),
        (0.1, 2.0, 0.1, "score does not follow"),
        (None, None, None, "more time"),
    ],
)
def test_verdict_names_the_failing_component(
    ap50: float | None, first: float | None, last: float | None, message: str
) -> None:
    assert message in Overfit(8, ap50, first, last).verdict


def run_folder(folder: Path) -> Path:
    run_json = {
        "spec": "RetinaNet()",
        "classes": ["<b>cat</b>"],
        "arguments": {"data": "<script>"},
        "environment": {},
    }
    (folder / "run.json").write_text(json.dumps(run_json))
    rows = [
        {"step": 5, "split": "train", "loss": 2.0, "cls": 1.5, "lr": 0.1, "seconds_data": 1.0, "seconds_x": 3.0},
        {"step": 5, "split": "val", "loss": 1.9, "AP": None, "AP50": 0.25},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    results = {"protocol": "coco", "split": "val", "images": 3, "AP": 0.125, "AP50": 0.25, "AP75": None}
    per_class = {"<b>cat</b>": {"AP": 0.125, "AP50": 0.25}, "dog": {"AP": None, "AP50": None}}
    (folder / "results.json").write_text(json.dumps({**results, "per_class": per_class, "last": {"AP": 0.1}}))
    return folder


def test_page_is_complete_and_escaped(tmp_path: Path) -> None:
    record = read_record(run_folder(tmp_path))
    image = Image.new("RGB", (40, 30))
    page = render(record, [Example("a<b", image, image)], None, ["a note & more"])
    assert "<script" not in page
    assert "<b>cat" not in page
    assert "&lt;b&gt;cat" in page
    assert "a&lt;b" in page
    assert "a note &amp; more" in page
    assert "<b>12.5</b>AP" in page  # the headline, in percent
    assert "COCO: AP over IoU .50:.05:.95" in page
    assert page.count('<figure class="chart">') == 3  # losses, scores, learning rate
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "75.0 %" in page  # 3 of 4 seconds
    assert 'src="http' not in page


@pytest.mark.parametrize("name", ["a$_$b", "$", "_", "_a", r"a\$b$c"])
def test_class_names_special_to_matplotlib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``$...$`` would be a formula (and ``a$_$b`` a broken one), and a label in ``_`` is left out of a legend."""
    from matplotlib.text import Text

    drawn: list[str] = []
    original: Any = getattr(Text, "_preprocess_math")  # noqa: B009

    def preprocess(self: Any, text: str) -> Any:
        shown = original(self, text)
        drawn.append(shown[0].strip() if not shown[1] else "a formula")
        return shown

    monkeypatch.setattr(Text, "_preprocess_math", preprocess)
    assert lines({name: ([1.0, 2.0], [0.1, 0.2])}, title="t", x="x", y="y")[:4] == b"\x89PNG"
    assert name in drawn
    curve = Curve(np.array([0.5, 1.0]), np.array([1.0, 0.5]), np.array([0.9, 0.8]), 3)
    assert precision_recall({name: curve}, iou=0.5)[:4] == b"\x89PNG"
    assert f"{name} (3)" in drawn


def test_summary_shows_scores_classes_files_and_next_commands(tmp_path: Path) -> None:
    lines_ = run_summary(run_folder(tmp_path)).splitlines()
    assert lines_[0] == f"{tmp_path}: validated on split val, 3 images, by protocol coco"
    cells = [line.split() for line in lines_]
    assert ["AP", "AP50", "AP75"] in cells
    assert ["best", "weights", "(iteration", "None)", "0.1250", "0.2500", "undefined"] in cells
    assert ["<b>cat</b>", "0.1250", "0.2500"] in cells
    assert ["dog", "undefined", "undefined"] in cells
    assert any(line.split()[:1] == [str(tmp_path / "metrics.jsonl")] for line in lines_)
    assert not any("report.html" in line for line in lines_)
    assert f"  foveal eval {tmp_path} --data '<script>'" in lines_


def test_the_summary_of_seeds_names_the_standard_deviation(tmp_path: Path) -> None:
    def run(ap: float) -> dict[str, Any]:
        scores = {"AP": ap, "AP50": None, "AP75": 0.5}
        return {"protocol": "coco", "split": "val", "images": 3, **scores, "last": scores}

    (tmp_path / "results.json").write_text(json.dumps(summarize_seeds([run(0.1), run(0.2), run(0.6)], [4, 5, 6])))
    cells = [line.split() for line in seeds_summary(tmp_path).splitlines()]
    assert cells[0] == f"{tmp_path}: seeds 4, 5, 6, mean and sample standard deviation".split()
    assert ["best", "weights,", "mean", "0.3000", "undefined", "0.5000"] in cells
    # by hand: deviations -.2, -.1, .3; their squares sum to .14; sqrt(.14 / 2) = .2646
    assert ["best", "weights,", "std", "0.2646", "undefined", "0.0000"] in cells


def test_a_summary_without_a_validation(tmp_path: Path) -> None:
    (run_folder(tmp_path) / "results.json").write_text('{"step": null, "steps": 7, "ended": "out of time", "last": {}}')
    assert run_summary(tmp_path) == f"{tmp_path}: no validation yet, iteration 7"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", '{"spec": "RetinaNet()", "arguments": 3}', "expected an object"),
        ("run.json", '{"spec": "RetinaNet("}', "the spec cannot be read"),
        ("metrics.jsonl", "5\n", "line 1: expected an object, found int"),
        ("metrics.jsonl", '{"split": "val", "AP": 0.5}\n', None),
        ("metrics.jsonl", '{"split": "val", "AP": 0.5, "step": "x"}\n', None),
        ("results.json", '{"AP": "high", "last": 3, "steps": [1]}', None),
    ],
)
def test_compare_accepts_incomplete_runs_or_rejects_them_by_name(
    tmp_path: Path, file: str, text: str, message: str | None
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        run_folder(folder)
    (a / file).write_text(text)
    if message is None:
        records = [read_record(a), read_record(b)]
        assert "Settings that differ" in settings_table(records)
        assert curves(records)[:4] == b"\x89PNG"
    else:
        with pytest.raises(FovealError, match=message) as refused:
            settings_table([read_record(a), read_record(b)])
        assert str(a) in str(refused.value)


def test_run_record_reads_series_and_rejects_invalid_folders(tmp_path: Path) -> None:
    record = read_record(run_folder(tmp_path))
    assert record.losses("train") == ["loss", "cls"]
    assert record.series("val", "AP50") == ([5], [0.25])
    assert record.series("val", "AP") == ([], [])  # undefined
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n')
    with pytest.raises(FovealError, match="line 2"):
        read_record(tmp_path)
    with pytest.raises(FovealError, match=r"run\.json is missing"):
        read_record(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", '{"protocol": "co', "[]"])
def test_files_that_were_cut_are_read_as_far_as_they_go(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``results.json`` can be written again, and the last line of a log may be half written; nothing is blocked."""
    folder = run_folder(tmp_path)
    (folder / "results.json").write_text(text)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 10, "spl')
    logging.getLogger("foveal").propagate = True
    record = read_record(folder)
    assert record.results == {} and len(record.metrics) == 2
    assert "results.json: cannot be read" in caplog.text
    assert run_summary(folder).endswith("no results yet")
