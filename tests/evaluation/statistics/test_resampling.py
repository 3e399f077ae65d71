"""Resamples, and every image left out against a real evaluation without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foveal.evaluation import DetectionTable, GroundTruth, pair_influence, score_detections
from foveal.evaluation.statistics import resampling
from foveal.evaluation.statistics.resampling import affordable, drawn, leave_one_out, replicate
from tests.helpers.simulated_runs import make_objects, make_run


def as_array(values: Any) -> Any:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def without(truth: GroundTruth, found: DetectionTable, image: int) -> tuple[GroundTruth, DetectionTable]:
    return truth[truth.image != image], found[found.image != image]


def small_set(seed: int) -> tuple[GroundTruth, DetectionTable]:
    """50 images with crowds, difficult objects, four sizes, a class of one image and one without any object."""
    rng = np.random.default_rng(seed)
    objects = make_objects(rng, 50)
    truth = replace(objects.table, classes=(*objects.table.classes, "rare", "none"))
    truth.label[np.flatnonzero(truth.image == 7)[:1]] = 3
    truth = replace(
        truth,
        crowd=rng.random(len(truth)) < 0.1,
        difficult=rng.random(len(truth)) < 0.1,
        area=truth.area * rng.choice([0.1, 1, 5], len(truth)),
    )
    truth.crowd[truth.label == 3] = truth.difficult[truth.label == 3] = False
    found = make_run(rng, replace(objects, table=truth))
    return truth, found


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc10"])
def test_leave_one_out_is_the_evaluation_without_the_image(protocol: str) -> None:
    truth, found = small_set(1)
    results = score_detections(truth, found, protocol)
    left = leave_one_out(results.run.ranked)
    for i in range(50):
        real = score_detections(*without(truth, found, i), protocol)
        np.testing.assert_allclose(left.numbers[i], as_array(real.numbers.values()), rtol=0, atol=1e-12)
        for k, row in enumerate(real.per_class.values()):
            np.testing.assert_allclose(left.per_class[i, k], as_array(row.values()), rtol=0, atol=1e-12)
        name = next(iter(results.numbers))
        value, lacking = results.numbers[name], real.numbers[name]
        assert value is not None and lacking is not None
        assert results.influence.numbers[name][i] == pytest.approx(value - lacking, abs=1e-12)
    assert np.isnan(left.per_class[7, 3]).all() and np.isfinite(left.per_class[8, 3]).all()
    assert np.isnan(results.influence.per_class["rare"][next(iter(results.per_class["rare"]))][7])


def test_blocks_do_not_change_leaving_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several blocks, and with so few images that the sums run the other way."""
    rng = np.random.default_rng(9)
    objects = make_objects(rng, 150)
    ranked = score_detections(objects.table, make_run(rng, objects)).run.ranked
    whole = leave_one_out(ranked)
    monkeypatch.setattr(resampling, "BLOCK", 1)
    parts = leave_one_out(ranked)
    np.testing.assert_allclose(parts.numbers, whole.numbers, rtol=0, atol=1e-12)


def test_influence_on_a_difference() -> None:
    rng = np.random.default_rng(3)
    objects = make_objects(rng, 30)
    runs = [make_run(rng, objects) for _ in range(4)]
    got = pair_influence(objects.table, runs[:1], runs[1:])
    ap = [[score_detections(*without(objects.table, r, i)).numbers["AP"] or 0 for r in runs] for i in (0, 5)]
    full = [score_detections(objects.table, r).numbers["AP"] or 0 for r in runs]

    def mean_difference(row: list[float]) -> float:
        return float(np.mean(row[1:])) - row[0]

    for i, row in zip((0, 5), ap, strict=True):
        assert got.numbers["AP"][i] == pytest.approx(mean_difference(full) - mean_difference(row), abs=1e-12)
    order = got.order("AP")
    assert (np.diff(got.numbers["AP"][order]) <= 0).all() and len(set(order.tolist())) == len(order) <= 30
    assert got.numbers["AP"][order[0]] == got.numbers["AP"].max()


def test_a_resample_has_as_many_images_as_the_set() -> None:
    draws = drawn(37, 250)
    assert draws.shape == (37, 250) and (draws.sum(0) == 37).all() and (draws == 0).any() and (draws > 1).any()
    np.testing.assert_array_equal(draws, drawn(37, 250))
    assert (draws != drawn(37, 250, seed=1)).any()
    # the number of times an image is drawn has the variance 1 - 1 / n
    assert drawn(37, 4000).var() == pytest.approx(1 - 1 / 37, rel=0.02)


def test_a_class_that_vanishes_is_undefined_and_enters_no_mean() -> None:
    """Two classes in an image each: without the second, AP is that of the first, and not half of it."""
    truth = GroundTruth.build([1, 2], ["x", "y"], [0, 1], [0, 1], [[0, 0, 50, 50]] * 2)
    found = DetectionTable.build([0], [0], [[0, 0, 50, 50]], [0.9])
    ranked = score_detections(truth, found).run.ranked
    got = replicate(ranked, np.array([[1, 2, 0, 0], [1, 0, 2, 0]], np.uint8), exact=True)
    np.testing.assert_allclose(got.numbers[:, 0], [0.5, 1.0, 0.0, np.nan])
    np.testing.assert_allclose(got.per_class[:, 0, 0], [1.0, 1.0, np.nan, np.nan])
    np.testing.assert_allclose(got.per_class[:, 1, 0], [0.0, np.nan, 0.0, np.nan])


def test_very_large_sets_get_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 20)
    ranked = score_detections(objects.table, make_run(rng, objects)).run.ranked
    assert affordable(ranked) == 1000
    monkeypatch.setattr(resampling, "WORK", 500 * (len(ranked.image) + ranked.matched.size))
    assert affordable(ranked) == 500
    monkeypatch.setattr(resampling, "WORK", 1)
    assert affordable(ranked) == 200
