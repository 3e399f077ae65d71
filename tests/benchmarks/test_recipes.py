"""The screening of recipes: its design, its effects and its interval, against planted numbers."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recipes  # type: ignore[import-not-found]

    return recipes


@pytest.mark.parametrize(("levers", "runs"), [(1, 2), (2, 4), (3, 8), (4, 8), (8, 16), (11, 32)])
def test_no_lever_is_confounded_with_another_or_with_a_pair(recipes: Any, levers: int, runs: int) -> None:
    table = np.where(recipes.design(levers), 1, -1)
    assert table.shape == (runs, levers) and not table.sum(0).any()
    for a, b in itertools.combinations(range(levers), 2):
        assert table[:, a] @ table[:, b] == 0
        for c in range(levers):
            assert c in (a, b) or (table[:, a] * table[:, b]) @ table[:, c] == 0


def test_planted_effects_are_found_exactly(recipes: Any) -> None:
    """Also where two levers together add something of their own."""
    wanted = np.array([0.05, -0.02, 0.0, 0.01, 0.03])
    blocks = {
        name: {tuple(row): base + wanted @ row + 0.04 * (row[0] == row[1]) for row in recipes.design(5)}
        for name, base in (("a seed 0", 0.3), ("a seed 1", 0.5))
    }
    np.testing.assert_allclose(recipes.effects(blocks), [wanted, wanted], atol=1e-12)


def test_the_interval_by_hand(recipes: Any) -> None:
    # Sets of unequal numbers of seeds count alike: (.02 + .06) / 2 and not the mean of all blocks.
    assert recipes.pooled(np.array([0.01, 0.03, 0.06]), ["a", "a", "b"])[0] == pytest.approx(0.04)
    # Four sets without noise between seeds: the sets' standard error is .01 x sqrt(5/3) / 2, the t of 3 degrees 3.182.
    values = np.array([0.02, 0.02, 0.03, 0.03, 0.04, 0.04, 0.05, 0.05])
    value, low, high = recipes.pooled(values, list("aabbccdd"))
    half = 3.182 * 0.01 * np.sqrt(5 / 3) / 2
    assert value == pytest.approx(0.035) and low == pytest.approx(0.035 - half, abs=0.004)
    assert high == pytest.approx(0.035 + half, abs=0.004)
    assert recipes.pooled(np.array([0.02]), ["a"]) is None  # one block says nothing about another


def test_the_summary_takes_complete_blocks(recipes: Any, tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=tmp_path, seed=0, seeds=2, preset="retinanet_mini", minutes=1.0, precision="32", tiny=False, overrides=[],
        score="AP50",
    )  # fmt: skip
    levers = recipes.LEVERS[:2]
    runs = list(recipes.planned(args, levers, ["shapes"]))
    assert len(runs) == len({run.key for run in runs}) == 8
    rows = [
        {
            "block": run.block, "number": run.number, "digest": run.digest, "seconds": 60.0,
            "processor_seconds": 59.0 if run.number else 30.0,
            "scores": {"AP50": 0.5 + 0.1 * run.levels[0] - 0.02 * run.levels[1]},
        }
        for run in runs
    ]  # fmt: skip
    written = [json.dumps(row) + "\n" for row in rows]
    path = tmp_path / "runs-1.jsonl"
    path.write_text("".join(written[:7]) + written[7][:40])  # cut off by a kill
    text = recipes.summary(args, levers, ["shapes"])
    assert "7 of 8 runs, 1 of 2 blocks complete" in text and "1 of 4 runs had less than 90% of a core" in text
    assert "| mosaic | +0.1000 | needs two blocks | cannot tell | +0.1000 |" in text
    (tmp_path / "runs-2.jsonl").write_text(written[7])  # the other shard
    text = recipes.summary(args, levers, ["shapes"])
    assert "| mosaic | +0.1000 | +0.1000 to +0.1000 | better | +0.1000 |" in text
    assert "| mix-up | -0.0200 | -0.0200 to -0.0200 | worse | -0.0200 |" in text
    args.minutes = 2.0  # other runs
    assert "0 of 8 runs" in recipes.summary(args, levers, ["shapes"])


def test_the_overrides_are_those_of_the_presets(recipes: Any) -> None:
    from foveal import presets
    from foveal.config.overrides import override
    from foveal.data.augment.combine import MixUp, Mosaic
    from foveal.data.augment.transforms import HorizontalFlip

    levels = [True, True] + [False] * 6
    spec = override(presets.retinanet_lite, recipes.overrides(recipes.LEVERS, levels))
    assert (
        spec.fit.augment == (Mosaic(), MixUp(), HorizontalFlip())
        and spec.backbone.frozen_stages == 0
        and spec.fit.ema is None
    )
    spec = override(presets.retinanet_lite, recipes.overrides(recipes.LEVERS, [False] * 2 + [True] * 6))
    assert (spec.backbone.frozen_stages, spec.fit.ema, spec.fit.keep) == (2, 0.9999, "last")
    assert len(spec.fit.augment) == 3 and spec.fit.repeat_threshold == 0.3
