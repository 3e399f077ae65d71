"""Whether one detector is better than another: paired intervals, seeds, verdicts and what they would take."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from foveal.errors import UsageError
from foveal.evaluation import DetectionTable, PairComparison, compare_pairs, intervals, score_detections
from foveal.evaluation.statistics.comparing import score_difference
from tests.helpers.simulated_runs import Objects, make_objects, make_run


def simulated(seed: int, images: int, baseline: list[float], candidate: list[float]) -> PairComparison:
    """Runs of these qualities on the same images."""
    rng = np.random.default_rng(seed)
    objects = make_objects(rng, images)
    sides = [[make_run(rng, objects, quality) for quality in side] for side in (baseline, candidate)]
    return compare_pairs(objects.table, *sides, resamples=300)


def halves(objects: Objects, run: DetectionTable) -> tuple[DetectionTable, DetectionTable]:
    """A run, and the same without half of its detections."""
    return run, run[np.arange(len(run)) % 2 == 0]


def test_better_worse_and_equal() -> None:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 80)
    full, half = halves(objects, make_run(rng, objects, 0.9))
    gain = compare_pairs(objects.table, half, full).numbers["AP"]
    loss = compare_pairs(objects.table, full, half).numbers["AP"]
    assert (gain.verdict, gain.reason, loss.verdict) == ("better", "", "worse")
    assert gain.low is not None and gain.high is not None and loss.low is not None
    assert 0 < gain.low < gain.high and loss.low == pytest.approx(-gain.high)
    assert gain.baseline == score_detections(objects.table, half).numbers["AP"]
    same = compare_pairs(objects.table, full, full)
    for name in ("AP", "AP50", "AR100"):
        d = same.numbers[name]
        assert (d.value, d.low, d.high, d.verdict) == (0, None, None, "cannot tell")
        assert d.reason == "the two are equal on these images"
    nothing = full[:0]
    perfect = DetectionTable.build(
        objects.table.image, objects.table.label, objects.table.box, np.full(len(objects.table), 0.9)
    )
    all_or_nothing = compare_pairs(objects.table, nothing, perfect)
    assert all_or_nothing.numbers["AP"].verdict == "better" and all_or_nothing.numbers["AP"].low == 1.0
    assert any(note.startswith("Baseline: There are no detections at all") for note in all_or_nothing.notes)


def test_the_interval_is_paired() -> None:
    """Two runs that share all but a few detections: far narrower than two intervals apart would suggest."""
    rng = np.random.default_rng(1)
    objects = make_objects(rng, 100)
    run = make_run(rng, objects)
    other = run[np.arange(len(run)) % 20 > 0]
    d = compare_pairs(objects.table, run, other).numbers["AP"]
    alone = intervals(objects.table, run).numbers["AP"]
    assert d.se_images is not None and alone.se is not None and d.se_images < alone.se / 3


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc10"])
def test_every_number_and_every_class_has_a_difference(protocol: str) -> None:
    rng = np.random.default_rng(2)
    objects = make_objects(rng, 60)
    runs = [make_run(rng, objects) for _ in range(2)]
    got = compare_pairs(objects.table, *runs, protocol, resamples=200)
    both = [score_detections(objects.table, run, protocol) for run in runs]
    assert list(got.numbers) == list(both[0].numbers) and list(got.per_class) == list(both[0].per_class)
    for name, d in got.numbers.items():
        assert (d.baseline, d.candidate) == (both[0].numbers[name], both[1].numbers[name])
    for label, row in got.per_class.items():
        for name, d in row.items():
            assert d.candidate == both[1].per_class[label][name] and d.low is not None
    assert json.loads(json.dumps(got.to_dict(), allow_nan=False)) == got.to_dict()
    text = got.text()
    assert "class 2" in text and "note: One run a side" in text and "by chance" not in text


def test_many_classes_come_with_a_warning_of_chance() -> None:
    rng = np.random.default_rng(7)
    objects = make_objects(rng, 400, classes=20)
    got = compare_pairs(objects.table, make_run(rng, objects), make_run(rng, objects), "voc10", resamples=200)
    assert sum(row["AP"].low is not None for row in got.per_class.values()) == 20
    assert "Of 20 classes, about 1 would look better or worse by chance alone." in got.notes


def test_under_twenty_images_nothing_is_judged() -> None:
    got = simulated(3, 19, [0.2], [1.2])
    d = got.numbers["AP"]
    assert d.value is not None and d.value > 0.2 and d.low is None and d.verdict == "cannot tell"
    assert d.reason == "19 images hold an object, and fewer than 20 say too little"
    assert f"cannot tell: {d.reason}" in got.text()
    assert simulated(3, 40, [0.2], [1.2]).numbers["AP"].verdict == "better"
    undefined = got.numbers["APl"]
    assert undefined.value is None and undefined.reason == "the score is undefined"


def test_cannot_tell_names_the_images_it_would_take() -> None:
    """n (1.96 se / difference)^2, rounded up to two digits."""
    value, se, n = 0.02, 0.03, 100
    z = np.random.default_rng(0).normal(size=4001)
    repeated = value + se * (z - z.mean()) / z.std()
    d = score_difference(np.array([0.5]), np.array([0.52]), np.zeros((1, 4001)), repeated[None], n, n)
    assert d.verdict == "cannot tell" and d.seeds_needed is None and d.se_seeds is None
    expected = n * (1.96 * se * np.sqrt(n / (n - 1)) / value) ** 2  # 873.2
    assert d.images_needed is not None and expected <= d.images_needed <= 1.03 * expected
    assert d.reason == f"a difference of this size takes about {d.images_needed:,} images"
    many = score_difference(np.array([0.5]), np.array([0.5 + 1e-6]), np.zeros((1, 4001)), repeated[None] - value, n, n)
    assert many.images_needed is None and many.reason == "a difference of this size is too small for any set"


def test_seeds_alone_are_welchs_test() -> None:
    """Where the images do not matter (resamples without spread): scipy's interval of a difference of means."""
    rng = np.random.default_rng(4)
    for a, b in (([0.50, 0.52, 0.51], [0.53, 0.57, 0.52]), (rng.normal(0.5, 0.01, 5), rng.normal(0.52, 0.03, 2))):
        a, b = np.array(a), np.array(b)
        flat = [np.repeat(side[:, None], 50, 1) for side in (a, b)]
        d = score_difference(a, b, *flat, 1000, 1000)
        expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert (d.low, d.high) == pytest.approx((expected.low, expected.high))
        assert d.se_images == 0 and d.se_seeds == pytest.approx(
            np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        )


def test_images_and_seeds_add_up() -> None:
    """The part of the images that is shared by the runs of a side is added; what differs from run to run is not added
    twice: with runs that share nothing the whole variance is that of the seeds."""
    rng = np.random.default_rng(5)
    a, b = np.array([0.50, 0.51, 0.53]), np.array([0.52, 0.53, 0.54])
    shared = rng.normal(0, 0.02, 4000)
    d = score_difference(a, b, np.repeat(a[:, None], 4000, 1), b[:, None] + shared, 500, 500)
    assert d.se_images == pytest.approx(0.02, rel=0.05)
    own = rng.normal(0, 0.02, (6, 4000))
    d = score_difference(a, b, a[:, None] + own[:3], b[:, None] + own[3:], 500, 500)
    assert d.se_images == pytest.approx(0, abs=0.004)


def test_cannot_tell_names_the_seeds_it_would_take() -> None:
    a, b = np.array([0.50, 0.52, 0.51]), np.array([0.53, 0.57, 0.50])
    flat = [np.repeat(side[:, None], 50, 1) for side in (a, b)]
    d = score_difference(a, b, *flat, 1000, 1000)
    assert d.verdict == "cannot tell" and d.images_needed is None and d.seeds_needed is not None
    assert d.reason == f"a difference of this size takes about {d.seeds_needed} seeds a side"

    def bound(k: int) -> float:
        """Welch's, with the same spread and ``k`` seeds a side."""
        parts = np.array([side.var(ddof=1) / k for side in (a, b)])
        freedom = 2 * (parts.sum() ** 2 / (parts**2).sum()) * k / 3  # (k - 1) grows as k / 3 of the two there were
        return float(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))

    assert bound(d.seeds_needed) <= b.mean() - a.mean() < bound(d.seeds_needed - 1)


def test_one_run_against_several_borrows_their_spread() -> None:
    a, b = np.array([0.50, 0.52, 0.51]), np.array([0.53])
    flat = [np.repeat(side[:, None], 50, 1) for side in (a, b)]
    d = score_difference(a, b, *flat, 1000, 1000)
    spread = a.var(ddof=1)
    assert d.se_seeds == pytest.approx(np.sqrt(spread / 3 + spread))
    mirrored = score_difference(b, a, flat[1], flat[0], 1000, 1000)
    assert (mirrored.low, mirrored.high) == pytest.approx((-(d.high or 0), -(d.low or 0)))
    got = simulated(6, 40, [0.7], [0.7, 0.7])
    assert "its spread over seeds is taken to be that of the other side" in got.text() and got.runs == (1, 2)


def test_equal_detectors_are_rarely_told_apart() -> None:
    """Three seeds a side of one recipe, whose seeds differ in quality: 30 pairs; the level is 5 %."""
    told = 0
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        sides = [rng.normal(0.7, 0.02, 3).tolist() for _ in range(2)]
        told += simulated(seed, 60, *sides).numbers["AP"].verdict != "cannot tell"
    assert told <= 5  # at 5 %, more than 5 of 30 have a chance of 1 in 300


def test_a_side_without_a_run_is_an_error() -> None:
    objects = make_objects(np.random.default_rng(0), 20)
    run: Any = make_run(np.random.default_rng(1), objects)
    with pytest.raises(UsageError, match="candidate has no run"):
        compare_pairs(objects.table, run, [])
