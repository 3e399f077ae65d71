"""Intervals: how wide they are, when there is none, and where they are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.cli import main as cli
from foveal.evaluation import DetectionTable, GroundTruth, intervals, score_detections
from foveal.evaluation.coco import NUMBERS
from foveal.evaluation.statistics.intervals import NORMAL, bootstrap_bounds, student
from tests.evaluation import test_masks
from tests.evaluation.test_coco import as_json
from tests.helpers.simulated_runs import make_objects, make_run


def test_student() -> None:
    """The two-sided 5 % points of printed tables."""
    for freedom, expected in ((1, 12.706), (2, 4.303), (4, 2.776), (19, 2.093), (60, 2.000), (np.inf, 1.960)):
        assert student(freedom) == pytest.approx(expected, abs=5e-4)


def test_bounds_by_hand() -> None:
    """Resamples that lie .01 too high around their own mean: the interval lies around the score, and is wider by
    sqrt(n / (n - 1)) and Student's t for 24 degrees of freedom (2.0639)."""
    deviation = np.linspace(-0.1, 0.1, 2001)
    low, high, se = bootstrap_bounds(0.5, 0.51 + deviation, 25) or (0, 0, 0)
    wider = np.sqrt(25 / 24) * 2.0639 / NORMAL
    assert low == pytest.approx(0.5 - 0.095 * wider, abs=1e-5)
    assert high == pytest.approx(0.5 + 0.095 * wider, abs=1e-5)
    assert se == pytest.approx(deviation.std(ddof=1) * np.sqrt(25 / 24))


def test_undefined_resamples_are_left_out_unless_there_are_many() -> None:
    replicates = np.append(np.linspace(0.4, 0.6, 95), np.full(5, np.nan))
    assert bootstrap_bounds(0.5, replicates, 30) == bootstrap_bounds(0.5, replicates[:95], 30)
    replicates[:10] = np.nan
    assert bootstrap_bounds(0.5, replicates, 30) is None
    assert bootstrap_bounds(float("nan"), np.linspace(0.4, 0.6, 95), 30) is None


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc10"])
def test_standard_error_is_the_spread_over_data_sets(protocol: str) -> None:
    """Over 80 sets of 60 images; the estimate of the spread itself is good to 8 %."""
    values, errors = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        objects = make_objects(rng, 60)
        results = score_detections(objects.table, make_run(rng, objects), protocol)
        name = next(iter(results.numbers))
        values.append(results.numbers[name])
        interval = intervals(objects.table, make_run(rng, objects), protocol, resamples=200).numbers[name]
        errors.append(interval.se)
    assert np.mean(np.array(errors, float)) == pytest.approx(np.std(np.array(values, float), ddof=1), rel=0.25)


def test_fewer_than_twenty_images_are_not_judged() -> None:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 19)
    few = score_detections(objects.table, make_run(rng, objects))
    assert few.intervals.refused and few.intervals.numbers["AP"].low is None
    assert "19 images hold an object; fewer than 20" in few.intervals.note
    assert few.text(intervals=True).count(" to ") == 0 and few.intervals.note in few.text(intervals=True)
    objects = make_objects(rng, 20)
    enough = score_detections(objects.table, make_run(rng, objects))
    assert not enough.intervals.refused and enough.intervals.numbers["AP"].low is not None
    # each class is in some of the 20 images only
    assert all(row["AP"].low is None and row["AP"].images < 20 for row in enough.intervals.per_class.values())
    assert " to " in enough.text(intervals=True)


def test_images_without_a_counting_object_do_not_count() -> None:
    rng = np.random.default_rng(1)
    objects = make_objects(rng, 30)
    truth = replace(objects.table, difficult=objects.table.image >= 15)
    assert intervals(truth, make_run(rng, objects)).numbers["AP"].images == 15


def test_intervals_stay_between_zero_and_one_and_hold_the_score() -> None:
    for quality in (0.02, 1.3):
        rng = np.random.default_rng(2)
        objects = make_objects(rng, 25)
        results = score_detections(objects.table, make_run(rng, objects, quality))
        for name, interval in results.intervals.numbers.items():
            value = results.numbers[name]
            if interval.low is not None and interval.high is not None and value is not None:
                assert 0 <= interval.low <= value <= interval.high <= 1


def test_a_perfect_and_an_empty_detector_have_no_interval() -> None:
    """Every resample has the same score: 1.0000 to 1.0000 would claim to know it exactly."""
    rng = np.random.default_rng(3)
    truth = make_objects(rng, 30).table
    perfect = score_detections(
        truth, DetectionTable.build(truth.image, truth.label, truth.box, np.full(len(truth), 0.9))
    )
    assert perfect.numbers["AP"] == 1.0 and perfect.intervals.numbers["AP"].low is None
    assert perfect.intervals.numbers["AR1"].low is not None  # one detection an image and class is not always enough
    empty = score_detections(truth, DetectionTable.build([], [], [], []))
    assert empty.numbers["AP"] == 0.0 and empty.intervals.refused
    assert empty.intervals.note == "No intervals: every resample of the images has the same scores."
    nothing = GroundTruth.build(range(30), ["x"], [], [], [])
    assert score_detections(nothing, DetectionTable.build([], [], [], [])).intervals.refused


def test_intervals_are_the_same_every_time() -> None:
    rng = np.random.default_rng(4)
    objects = make_objects(rng, 40)
    run = make_run(rng, objects)
    assert intervals(objects.table, run).to_dict() == intervals(objects.table, run).to_dict()


def test_results_json_keeps_its_keys_and_gets_new_ones() -> None:
    rng = np.random.default_rng(5)
    objects = make_objects(rng, 60)
    results = score_detections(objects.table, make_run(rng, objects))
    plain, more = results.to_dict(), results.to_dict(intervals=True, errors=True)
    assert list(more) == [*plain, "intervals", "errors"]
    assert {k: more[k] for k in plain} == plain
    assert list(more["intervals"]) == ["level", "resamples", *NUMBERS, "per_class"]
    assert set(more["intervals"]["AP"]) == {"low", "high", "se", "images"}
    assert more["intervals"]["APl"] == {"low": None, "high": None, "se": None, "images": 0}
    assert json.loads(json.dumps(more, allow_nan=False)) == more


def test_masks_have_intervals_of_their_own() -> None:
    truth, found, *_ = test_masks.random_set(0)
    results = score_detections(truth, found)
    got = results.to_dict(intervals=True)["intervals"]
    assert set(got["masks"]) == set(got) - {"masks"}
    text = results.text(intervals=True)
    assert "boxes" in text and "mAP50" in text


def eval_files(folder: Path, images: int) -> list[str]:
    rng = np.random.default_rng(6)
    objects = make_objects(rng, images)
    data, records = as_json(objects.table, make_run(rng, objects))
    for entry in data["images"]:
        entry["file_name"] = f"{entry['id']}.jpg"
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(records))
    return ["eval", "--detections", str(folder / "found.json"), "--data", str(folder / "truth.json")]


def test_eval_prints_the_interval_beside_the_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = eval_files(tmp_path, 60)
    target = ["--json", str(tmp_path / "scores.json")]
    assert cli.main([*call, *target]) == 0
    out, scores = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    interval = scores["intervals"]["AP"]
    assert f"AP     {scores['AP']:.4f}  {interval['low']:.4f} to {interval['high']:.4f}" in out.splitlines()
    assert "they say nothing about another training run" in out and "errors" not in scores
    assert all(line == line.rstrip() for line in out.splitlines())

    assert cli.main([*call, *target, "--no-intervals"]) == 0
    plain_out, plain = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    assert " to " not in plain_out and plain == {k: v for k, v in scores.items() if k != "intervals"}

    assert cli.main([*call, *target, "--errors"]) == 0
    out, more = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    lines = {line.split()[0]: line.split()[1:] for line in out.split("errors at IoU 0.5")[1].splitlines()[1:8]}
    assert lines["total"] == [str(more["errors"][key]["total"]) for key in ("false_detections", "not_found")]
    assert list(lines) == ["class", "localization", "both", "duplicate", "background", "missed", "total"]


def test_eval_says_why_there_are_no_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(eval_files(tmp_path, 12)) == 0
    assert "No intervals: 12 images hold an object" in capsys.readouterr().out


def test_intervals_of_an_unknown_protocol_are_an_error() -> None:
    from foveal.errors import UsageError

    options: dict[str, Any] = {"max_det": 3}
    with pytest.raises(UsageError, match="max_dets"):
        intervals(make_objects(np.random.default_rng(0), 3).table, DetectionTable.build([], [], [], []), **options)
