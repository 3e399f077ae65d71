"""The recipe: schedules against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from foveal.config.parse import parse_value
from foveal.config.table import Vocabulary
from foveal.errors import UsageError
from foveal.recipe import SGD, AdamW, Constant, Cosine, Recipe, Stage, Steps


def test_steps_falls_at_fractions_and_at_epochs() -> None:
    # 20 updates, 5 an epoch: 0.5 is update 10, 3 is the start of epoch 3, update 15
    schedule = Steps(at=(0.5, 3), factor=0.1)
    values = [schedule.scale(step, 20, 5) for step in (0, 9, 10, 14, 15, 19)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_fraction_that_floating_point_misses_still_counts() -> None:
    assert 0.1 * 3 * 10 > 3.0  # the mark lies a hair above update 3
    assert Steps(at=(0.1 * 3,), factor=0.5).scale(3, 10, 1) == 0.5


def test_cosine() -> None:
    schedule = Cosine(final=0.1)
    assert schedule.scale(0, 100, 10) == 1.0
    assert schedule.scale(50, 100, 10) == pytest.approx(0.55)  # half-way between 1 and 0.1
    assert schedule.scale(25, 100, 10) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.scale(100, 100, 10) == pytest.approx(0.1)


def test_constant() -> None:
    assert {Constant().scale(step, 10, 5) for step in range(10)} == {1.0}


def test_warmup_is_linear_and_at_most_a_fifth() -> None:
    fit = Recipe(warmup_steps=4, warmup_factor=0.2, schedule=Constant())
    assert [fit.scale(step, 100, 10) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # 10 updates: two of warm-up
    assert [fit.scale(step, 10, 10) for step in range(3)] == pytest.approx([0.2, 0.6, 1.0])
    assert fit.scale(0, 4, 4) == 1.0  # a fifth of 4 is none


def test_warmup_and_schedule_multiply() -> None:
    fit = Recipe(warmup_steps=2, warmup_factor=0.5, schedule=Steps(at=(0.05,), factor=0.1))
    assert fit.scale(1, 20, 20) == pytest.approx(0.75 * 0.1)


def test_learning_rate_is_linear_in_the_batch() -> None:
    fit = Recipe(lr=0.02, batch=16)
    assert fit.scaled_lr(16) == 0.02
    assert fit.scaled_lr(4) == pytest.approx(0.005)
    assert fit.scaled_lr(8, Stage(lr=0.1)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch": 0},
        {"accumulate": 0},
        {"ema": 1.0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"stages": ()},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"warmup_steps": -5},
        {"warmup_factor": -0.1},
        {"bias_lr": -1.0},
        {"backbone_lr": -1.0},
        {"predictor_lr": -1.0},
        {"early_stop": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"fit.{next(iter(settings))}"):
        Recipe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"lr": -0.1}, {"lr": math.nan}, {"trains": ()}])
def test_impossible_stages_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"fit.stages: {next(iter(settings))}"):
        Stage(**settings)


def test_the_recipe_is_a_literal() -> None:
    fit = Recipe(
        epochs=3,
        solver=AdamW(weight_decay=0.05),
        schedule=Cosine(final=0.01),
        ema=0.99,
        stages=(Stage(trains=("backbone", "neck"), epochs=1), Stage(solver=SGD(nesterov=True), lr=0.1)),
    )
    assert parse_value(repr(fit), Vocabulary(), where="fit") == fit
