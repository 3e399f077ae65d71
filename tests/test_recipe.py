"""The recipe: schedules against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from foveal.config.overrides import override
from foveal.config.parse import parse_value
from foveal.config.table import Vocabulary
from foveal.errors import UsageError
from foveal.recipe import (
    SGD,
    SVM,
    AdamW,
    Constant,
    Cosine,
    OnImages,
    OnProposals,
    OnStoredMaps,
    OnWindows,
    Recipe,
    Ridge,
    Solve,
    Steps,
    WindowSampling,
)


def test_step_schedule_decays_at_fractions_and_epochs() -> None:
    # 20 iterations, 5 an epoch: 0.5 is iteration 10, 3 is the start of epoch 3, iteration 15
    schedule = Steps(at=(0.5, 3), factor=0.1)
    values = [schedule.scale(step, 20, 5) for step in (0, 9, 10, 14, 15, 19)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_fraction_with_rounding_error_still_counts() -> None:
    assert 0.1 * 3 * 10 > 3.0  # the boundary lies slightly above iteration 3
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
    # 10 iterations: two of warmup
    assert [fit.scale(step, 10, 10) for step in range(3)] == pytest.approx([0.2, 0.6, 1.0])
    assert fit.scale(0, 4, 4) == 1.0  # a fifth of 4 is none


def test_warmup_as_a_share_of_the_training() -> None:
    fit = Recipe(warmup_steps=10**6, warmup_share=0.05, warmup_factor=0.0, schedule=Constant())
    assert [fit.scale(step, 80, 10) for step in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])  # 4 of 80
    assert Recipe(warmup_share=0.0, schedule=Constant()).scale(0, 80, 10) == 1.0
    usual = Recipe(warmup_steps=10**6, warmup_factor=0.0, schedule=Constant())
    assert all(usual.scale(1, steps, 1) == 1 / (steps // 5) for steps in range(5, 2000))  # a fifth, exactly


def test_warmup_and_schedule_multiply() -> None:
    fit = Recipe(warmup_steps=2, warmup_factor=0.5, schedule=Steps(at=(0.05,), factor=0.1))
    assert fit.scale(1, 20, 20) == pytest.approx(0.75 * 0.1)


def test_learning_rate_scales_linearly_with_the_batch() -> None:
    fit = Recipe(lr=0.02, batch=16)
    assert fit.scaled_lr(16) == 0.02
    assert fit.scaled_lr(4) == pytest.approx(0.005)
    assert fit.scaled_lr(8, OnImages(lr=0.1)) == pytest.approx(0.05)


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
        {"early_stop": 2, "keep": "last"},
        {"keep": "both"},
        {"ema_share": 0.0},
        {"ema_share": 0.6},
        {"warmup_share": 1.1},
        {"backbone_decay": math.nan},
        {"repeat_threshold": -0.1},
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"fit.{next(iter(settings))}"):
        Recipe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"lr": -0.1}, {"lr": math.nan}, {"trains": ()}])
def test_invalid_stages_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"fit.stages: {next(iter(settings))}"):
        OnImages(**settings)


def test_the_recipe_is_a_literal() -> None:
    fit = Recipe(
        epochs=3,
        solver=AdamW(weight_decay=0.05),
        schedule=Cosine(final=0.01),
        ema=0.99,
        stages=(OnImages(trains=("backbone", "neck"), epochs=1), OnImages(solver=SGD(nesterov=True), lr=0.1)),
    )
    assert parse_value(repr(fit), Vocabulary(), where="fit") == fit


# -------------------------------------------------------------------------------------------------- the stages
DRAW = "Draw(positive=0.25, iou=0.5, low=0.0, per_image=64)"
STORED = {  # as written by earlier versions: one class with the fields of all kinds
    "Stage(trains=('',), inputs='images', task=None, begin=(), solver=None, lr=None, epochs=None, "
    f"draw={DRAW})": OnImages(),
    "Stage(trains=('rpn_head',), inputs='images', task='rpn', begin=('rpn_head',), solver=SGD(momentum=0.9, "
    f"weight_decay=0.0001, nesterov=False), lr=0.1, epochs=3, draw={DRAW})": OnImages(
        "rpn", trains=("rpn_head",), begin=("rpn_head",), solver=SGD(), lr=0.1, epochs=3
    ),
    "Stage(trains=('roi_head',), inputs='windows', task=None, begin=(), solver=None, lr=None, epochs=2, "
    "draw=Draw(positive=0.25, iou=0.5, low=0.1, per_image=8))": OnWindows(
        WindowSampling(low=0.1, per_image=8), trains=("roi_head",), epochs=2
    ),
    "Stage(trains=('roi_head.trunk',), inputs='maps', task=None, begin=(), solver=None, lr=0.5, epochs=None, "
    f"draw={DRAW})": OnStoredMaps(trains=("roi_head.trunk",), lr=0.5),
    "Stage(trains=('roi_head',), inputs='proposals', task=None, begin=('backbone',), solver=None, lr=None, "
    f"epochs=None, draw={DRAW})": OnProposals(trains=("roi_head",), begin=("backbone",)),
    "Stage(trains=('roi_head.predictor.bbox_pred',), inputs='features', task=None, begin=(), "
    "solver=Ridge(alpha=10.0, iou=0.3, norm=20.0, eps=0.001), lr=None, epochs=None, "
    f"draw={DRAW})": Solve(Ridge(alpha=10.0, iou=0.3), trains=("roi_head.predictor.bbox_pred",)),
    "Stage()": OnImages(),
    "Stage(('a',), 'features', solver=SVM(c=0.5))": Solve(SVM(c=0.5), trains=("a",)),
    "Stage(inputs='maps', draw=WindowSampling(low=0.1))": OnStoredMaps(WindowSampling(low=0.1)),
}


@pytest.mark.parametrize("text", STORED, ids=[str(i) for i in range(len(STORED))])
def test_stages_of_earlier_versions_are_read(text: str) -> None:
    assert parse_value(text, Vocabulary()) == STORED[text]
    assert parse_value(f"Fit(stages=({text},))", Vocabulary()) == Recipe(stages=(STORED[text],))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Stage(inputs='pictures')", "Stage"),
        ("Stage(inputs='features')", "Solve: solver is missing"),
        ("Stage(inputs='features', solver=Ridge(), epochs=3)", "Solve: unknown field epochs"),
        ("Stage(inputs='proposals', task='roi')", "OnProposals: unknown field task"),
        ("Stage(inputs='images', draw=WindowSampling(low=0.1))", "OnImages: unknown field draw"),
        ("Stage(solver=SVM())", "OnImages.solver: .* is not a Solver"),
        ("Stage(lr=1, lr=2)", "lr is given twice"),
        ("Stage(colour=1)", "unknown field colour"),
    ],
)
def test_invalid_stages_of_earlier_versions_are_still_rejected(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_value(text, Vocabulary())


def test_overrides_reach_the_fields_of_each_kind() -> None:
    fit = Recipe(stages=(OnImages("rpn"), OnWindows(), OnStoredMaps(), OnProposals(), Solve(SVM())))
    for index in range(4):
        changed = override(fit, [f"stages.{index}.lr=0.5", f"stages.{index}.epochs=2"]).stages[index]
        assert (changed.lr, changed.epochs) == (0.5, 2)  # type: ignore[attr-defined]
        assert type(changed) is type(fit.stages[index])
    assert override(fit, ["stages.1.draw.per_image=8"]).stages[1] == OnWindows(WindowSampling(per_image=8))
    assert override(fit, ["stages.4.solver.c=0.5"]).stages[4] == Solve(SVM(c=0.5))
    with pytest.raises(UsageError, match=r"stages.4: Solve: unknown setting lr. .*solver, trains"):
        override(fit, ["stages.4.lr=0.5"])
    with pytest.raises(UsageError, match=r"stages.3: OnProposals: unknown setting task"):
        override(fit, ["stages.3.task=rpn"])


def test_segments_are_neighbors_of_one_kind() -> None:
    small = WindowSampling(per_image=8)
    stages = (
        *(OnImages(trains=("a",), lr=0.1), OnImages(epochs=1)),
        *(OnImages("rpn"), OnImages("rpn", begin=("a",))),
        *(OnWindows(), OnWindows(epochs=2), OnWindows(small), OnStoredMaps(small)),
        *(OnProposals(), OnProposals(), Solve(SVM()), Solve(Ridge()), OnImages()),
    )
    lengths = [0 if isinstance(s, Solve) else len(s) for s in Recipe(stages=stages).segments]
    assert lengths == [2, 1, 1, 2, 1, 1, 1, 1, 0, 0, 1]
