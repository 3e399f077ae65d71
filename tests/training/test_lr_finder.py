"""The learning-rate range test: its suggestion by hand, its rates, and that it is deterministic and leaves no run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.cli.main import main
from foveal.errors import FovealError, UsageError
from foveal.recipe import OnWindows
from foveal.report.lr_plot import find_and_plot
from foveal.training.lr_finder import HIGHEST, ITERATIONS, LOWEST, LRCurve, find_lr, smoothed, steepest
from tests.helpers.train_tiny import FIT, TinySpec, make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def tried(data: Path, out: Path, spec: TinySpec | None = None, **options: Any) -> LRCurve:
    quiet: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "32", "workers": 0}
    sets = {"data": data / "train.json", "val": data / "val.json", "out": out}
    return find_lr(spec or TinySpec(), **{**sets, **quiet, **options})


def test_the_suggestion_by_hand() -> None:
    # (.1 x 4) / .1 = 4; (.9 x .4 + .1 x 2) / .19 = .56 / .19
    assert smoothed([4.0, 2.0]) == pytest.approx([4.0, 0.56 / 0.19])
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    # slopes a decade, of both neighbors: 0, -.25, -1.5, (-1.75); the lowest loss itself is no candidate
    assert steepest(rates, [4.0, 4.0, 3.5, 1.0, 9.0]) == 1e-2
    assert steepest(rates, [4.0, 2.0, 1.5, 1.0, 9.0]) == 1e-4
    assert steepest(rates, [1.0, 2.0, 3.0, 4.0, 9.0]) == 1e-4  # it only rises: the smallest


def test_rates_rise_around_the_recipes(data: Path, tmp_path: Path) -> None:
    curve = tried(data, tmp_path / "run")
    # a batch of 4 is the recipe's, so that rates are as set
    want = [FIT.lr * LOWEST * (HIGHEST / LOWEST) ** (k / ITERATIONS) for k in range(len(curve.rates))]
    assert curve.rates == pytest.approx(want) and curve.recipe == FIT.lr
    assert 50 < len(curve.losses) <= ITERATIONS and np.isfinite(curve.losses).all()
    assert curve.steepest < curve.lowest
    assert not (tmp_path / "run").exists()
    again = tried(data, tmp_path / "run", workers=1)
    assert again.losses == curve.losses
    half = tried(data, tmp_path / "run", batch=2)
    assert half.rates[:50] == curve.rates[:50] and half.losses != curve.losses


def test_a_plot_and_a_line(data: Path, tmp_path: Path) -> None:
    sets = {"data": data / "train.json", "val": data / "val.json", "out": tmp_path / "run"}
    line = find_and_plot(TinySpec(), **sets, progress=False, device="cpu", precision="32", workers=0)
    found = json.loads((tmp_path / "run" / "lr_finder.json").read_text())
    assert f"fit.lr={found['suggestion']:g}" in line and len(found["loss"]) == len(found["fit.lr"])
    assert (tmp_path / "run" / "lr_finder.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_tried(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FovealError, match="only 3 iterations"):
        tried(data, tmp_path / "run", replace(TinySpec(), poison=3))
    windows = replace(TinySpec(), fit=replace(FIT, stages=(OnWindows(),)))
    with pytest.raises(UsageError, match="the first stage is OnWindows"):
        tried(data, tmp_path / "run", windows)
    assert main(["train", "retinanet_mini", "--data", str(data / "train.json"), "--preview", "--find-lr"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
