"""Best F1, calibration and false alarms."""

from __future__ import annotations

import numpy as np
import pytest

from foveal.evaluation import DetectionTable, GroundTruth, score_detections
from foveal.report.statistics.operating import (
    PooledDetections,
    best_f1,
    calibration,
    empty_images,
    false_alarms,
    pooled,
)
from tests.helpers.simulated_runs import make_objects, make_run


@pytest.mark.parametrize("seed", range(5))
def test_the_best_f1_is_the_largest_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = make_objects(rng, 40)
    table = make_run(rng, objects)
    table = table[np.arange(len(table))]
    table.score[:] = np.round(table.score, 1)  # ties
    point = best_f1(pooled(score_detections(objects.table, table).curves))
    assert point is not None
    seen = {}
    for score in np.unique(table.score):
        kept = score_detections(objects.table, table[table.score >= score])
        hits = sum(round(c.recall[-1] * c.objects) for c in kept.curves.values() if len(c.recall))
        precision, recall = hits / (table.score >= score).sum(), hits / len(objects.table)
        seen[float(score)] = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert point.f1 == pytest.approx(max(seen.values()))
    assert seen[point.score] == pytest.approx(point.f1)
    assert 2 * point.precision * point.recall / (point.precision + point.recall) == pytest.approx(point.f1)


def test_nothing_hit_has_no_best_threshold() -> None:
    assert best_f1(PooledDetections(np.array([0.9, 0.1]), np.array([False, False]), 3)) is None
    assert best_f1(PooledDetections(np.zeros(0), np.zeros(0, bool), 0)) is None


def test_calibration_by_hand() -> None:
    """Two bins: .95 and .91 with one hit of two (distance .43), .15 without a hit (distance .15)."""
    found = calibration(PooledDetections(np.array([0.95, 0.91, 0.15]), np.array([True, False, False]), 2))
    assert found.count == (1, 2)
    assert found.score == pytest.approx((0.15, 0.93))
    assert found.precision == pytest.approx((0.0, 0.5))
    assert found.error == pytest.approx((2 * 0.43 + 0.15) / 3)
    assert calibration(PooledDetections(np.zeros(0), np.zeros(0, bool), 2)).error is None


def test_false_alarms_of_images_without_objects() -> None:
    box = [[0, 0, 9, 9]]
    truth = GroundTruth.build(["with", "crowd", "none", "empty"], ["a"], [0, 1], [0, 0], box * 2, crowd=[False, True])
    table = DetectionTable.build([0, 1, 2, 2, 2, 3], [0] * 6, box * 6, [0.9, 0.9, 0.9, 0.5, 0.1, 0.2])
    assert empty_images(truth).tolist() == [False, False, True, True]
    assert false_alarms(truth, table, 0.5) == 1.0  # two on two images
    assert false_alarms(truth[np.array([0])], table[table.image < 1], 0.5) == 0.0
    full = GroundTruth.build(["with"], ["a"], [0], [0], box)
    assert false_alarms(full, table[table.image == 0], 0.5) is None
