"""Scores of weighted images: with weights of 1 those of the evaluation, with copies those of the copied set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foveal.evaluation import Coco, DetectionTable, GroundTruth, Results, Voc, score_detections
from foveal.evaluation.statistics.ranked import RankedDetections, class_parts, weighted_scores
from foveal.evaluation.statistics.resampling import replicate
from tests.evaluation import test_coco, test_masks, test_voc
from tests.helpers.simulated_runs import make_objects, make_run

PROTOCOLS = [Coco(), Coco((1, 2, 3, 5)), Voc("11-point"), Voc("area"), Voc("area", iou=0.3, strict=True, plus_one=True)]


def ones(ranked: RankedDetections) -> Any:
    return np.ones((ranked.images, 1), np.uint8)


def as_array(values: Iterator[float | None] | Any) -> Any:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def assert_same(results: Results) -> None:
    again = replicate(results.run.ranked, ones(results.run.ranked), exact=True)
    np.testing.assert_allclose(again.numbers[0], as_array(results.numbers.values()), rtol=0, atol=1e-12)
    for k, row in enumerate(results.per_class.values()):
        np.testing.assert_allclose(again.per_class[0, k], as_array(row.values()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_weights_of_one_give_the_scores_of_the_evaluation(protocol: Coco | Voc) -> None:
    """Crowds, difficult objects, ties, classes and images without objects, more detections than are evaluated."""
    rng = np.random.default_rng(11)
    for n in range(120):
        truth, found = (test_coco if n % 2 else test_voc).random_set(rng)
        if n % 4 == 1:
            truth = replace(truth, difficult=rng.random(len(truth)) < 0.2, ignore=rng.random(len(truth)) < 0.1)
        assert_same(score_detections(truth, found, protocol))


def test_weights_of_one_give_the_scores_of_masks() -> None:
    truth, found, *_ = test_masks.random_set(3)
    results = score_detections(truth, found)
    assert results.masks is not None and results.mask_run is not None
    again = replicate(results.mask_run.ranked, ones(results.mask_run.ranked), exact=True)
    expected = as_array(v for name, v in results.masks.items() if name != "per_class")
    np.testing.assert_allclose(again.numbers[0], expected, rtol=0, atol=1e-12)


def copied(truth: GroundTruth, found: DetectionTable, times: Any) -> tuple[GroundTruth, DetectionTable]:
    """A set that holds each image as often as ``times`` (I,) says, the copies side by side."""
    images = np.repeat(np.arange(len(truth.images)), times)
    first = np.cumsum(times) - times

    def rows(image: Any) -> tuple[Any, Any]:
        n = times[image]
        new = np.repeat(first[image], n) + np.concatenate([np.arange(k) for k in n] or [np.zeros(0, int)])
        return np.repeat(np.arange(len(image)), n), new

    g, image_g = rows(truth.image)
    d, image_d = rows(found.image)
    return (
        replace(truth[g], images=tuple(range(len(images))), image=image_g, sizes=None),
        replace(found[d], image=image_d),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_a_weight_is_that_many_copies_of_the_image(protocol: Coco | Voc) -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        truth, found = test_coco.random_set(rng)
        # pycocotools' order of images is that of their ids; equal scores inside an image would interleave its copies
        truth = replace(truth, images=tuple(range(len(truth.images))), difficult=rng.random(len(truth)) < 0.1)
        found = replace(found, score=rng.permutation(len(found)) / 1000)
        times = rng.integers(0, 4, len(truth.images))
        results = score_detections(*copied(truth, found, times), protocol)
        ranked = score_detections(truth, found, protocol).run.ranked
        again = replicate(ranked, times.astype(np.uint8)[:, None], exact=True)
        np.testing.assert_allclose(again.numbers[0], as_array(results.numbers.values()), rtol=0, atol=1e-12)
        for k, row in enumerate(results.per_class.values()):
            np.testing.assert_allclose(again.per_class[0, k], as_array(row.values()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
def test_recalls_that_are_hit_exactly(protocol: str) -> None:
    """35 of 100 hits reach the recall .35 of ``linspace`` only with one more: its float lies above 35 / 100."""
    for objects, hits in [(100, 35), (100, 41), (20, 7), (10, 3), (10, 7), (200, 94), (50, 41), (100, 57)]:
        box = np.tile([0.0, 0, 50, 50], (objects, 1))
        truth = GroundTruth.build(range(objects), ["x"], np.arange(objects), np.zeros(objects, int), box)
        found = DetectionTable.build(np.arange(hits), np.zeros(hits, int), box[:hits], np.linspace(1, 0.5, hits))
        results = score_detections(truth, found, protocol)
        for exact in (True, False):
            again = replicate(results.run.ranked, ones(results.run.ranked), exact=exact)
            assert again.numbers[0, 0] == pytest.approx(results.headline, abs=1e-12 if exact else 1e-6)


def test_many_columns_at_once_equal_one_at_a_time() -> None:
    """Both ways through the running sums, and single against double precision."""
    rng = np.random.default_rng(2)
    truth = make_objects(rng, 40)
    ranked = score_detections(truth.table, make_run(rng, truth)).run.ranked
    draws = rng.integers(0, 4, (40, 130)).astype(np.uint8)
    many = replicate(ranked, draws, exact=True)
    single = replicate(ranked, draws)
    for r in range(130):
        one = replicate(ranked, draws[:, [r]], exact=True)
        np.testing.assert_allclose(many.numbers[r], one.numbers[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(single.numbers, many.numbers, rtol=0, atol=2e-6)


def test_large_classes_are_counted_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    truth = make_objects(rng, 30)
    ranked = score_detections(truth.table, make_run(rng, truth)).run.ranked
    monkeypatch.setattr("foveal.evaluation.statistics.ranked.EXACT", 3)
    for part in class_parts(ranked):
        weights = np.ones((len(part.images), 2), np.float32)
        assert weighted_scores(part, ranked.rule, weights).dtype == np.float64
