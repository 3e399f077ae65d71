"""The step-up procedure of Benjamini and Hochberg."""

from __future__ import annotations

import numpy as np

from foveal.evaluation import compare_pairs
from foveal.evaluation.statistics.false_discovery import chance_of, class_discoveries, discoveries
from tests.helpers.simulated_runs import make_objects, make_run


def test_the_example_of_the_paper() -> None:
    """Section 4.2: fifteen hypotheses about thrombolytic treatments, of which four are rejected at .05."""
    chances = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    chances += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    order = np.random.default_rng(0).permutation(len(chances))
    found = discoveries([chances[i] for i in order])
    assert sorted(int(i) for i, real in zip(order, found, strict=True) if real) == [0, 1, 2, 3]
    assert discoveries([]) == []
    assert discoveries([0.04]) == [True]


def test_a_larger_chance_is_real_where_a_smaller_one_is_by_its_rank() -> None:
    """Of two, .03 alone is above .05 / 2, but .04 is not above .05: both are real."""
    assert discoveries([0.03, 0.04]) == [True, True]
    assert discoveries([0.03, 0.06]) == [False, False]


def test_a_chance_below_five_percent_is_a_verdict() -> None:
    rng = np.random.default_rng(1)
    objects = make_objects(rng, 200, classes=12)
    comparison = compare_pairs(objects.table, make_run(rng, objects, 0.55), make_run(rng, objects, 0.75))
    judged = 0
    for row in comparison.per_class.values():
        chance = chance_of(row["AP"])
        if row["AP"].low is None:
            assert chance is None
            continue
        judged += 1
        assert chance is not None
        assert (chance < 0.05) == (row["AP"].verdict != "cannot tell")
    found = class_discoveries(comparison.per_class, "AP")
    assert len(found) == judged > 3
    real = [name for name, kept in found.items() if kept]
    assert all(comparison.per_class[name]["AP"].verdict != "cannot tell" for name in real)


def test_equal_runs_have_no_chance() -> None:
    rng = np.random.default_rng(2)
    objects = make_objects(rng, 30)
    run = make_run(rng, objects)
    comparison = compare_pairs(objects.table, run, run)
    assert {chance_of(row["AP"]) for row in comparison.per_class.values()} == {None}
