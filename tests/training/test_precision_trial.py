"""The precision of a new run on a CPU with bf16 is the faster one, by a trial that leaves the run's numbers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foveal
from foveal import presets
from foveal.assembly.detector import Detector
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError
from foveal.recipe import FrozenMaps, OnImages, Precision
from foveal.training import precision_trial
from foveal.training.precision_trial import pass_times, prepare_for_training, tried

CPU = torch.device("cpu")
TINY = ["input=Resize(64, 96)", "backbone=SmallResNet((8, 8, 8, 8))", "neck.channels=8"]


class Clock:
    """Seconds that pass with each reading, by the format in turn."""

    def __init__(self, fp32: float, bf16: float) -> None:
        self.steps, self.now, self.readings = (fp32, bf16), 0.0, 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


def times(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> tuple[dict[Precision, float], list[str]]:
    """:func:`pass_times` where the passes take these seconds, and the formats of the passes."""
    clock, passes = Clock(fp32, bf16), list[str]()

    def fake(spec: object, classes: object, each: Precision) -> object:
        def run() -> None:
            clock.now += fp32 if each == "32" else bf16
            passes.append(each)

        return run

    monkeypatch.setattr(precision_trial, "_pass", fake)
    return pass_times(presets.get("retinanet_mini"), "abc", clock), passes


def test_clear_ratio_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    found, passes = times(monkeypatch, 1.0, 2.0)
    assert found == {"32": 1.0, "bf16": 2.0} and passes == ["32", "bf16"] * 2


def test_close_ratio_takes_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found, passes = times(monkeypatch, 1.0, 1.1)
    assert found == pytest.approx({"32": 1.0, "bf16": 1.1}) and passes == ["32", "bf16"] * (1 + precision_trial.ROUNDS)


def test_slow_passes_end_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(times(monkeypatch, 30.0, 29.0)[1]) == 4


@pytest.fixture
def bf16_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("foveal.runtime.precision.cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr("foveal.runtime.precision.faster", lambda s: "bf16" if s["bf16"] < 0.97 * s["32"] else "32")
    precision_trial._measured.clear()
    yield
    precision_trial._measured.clear()


@pytest.mark.usefixtures("bf16_cpu")
@pytest.mark.parametrize(("fp32", "bf16", "expected"), [(2.0, 1.0, "bf16"), (1.0, 2.0, "32"), (1.0, 0.99, "32")])
def test_the_faster_format_is_used_and_kept_on_resuming(
    fp32: float, bf16: float, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"32": fp32, "bf16": bf16}
    monkeypatch.setattr(precision_trial, "pass_times", lambda *_: seconds)
    make_shapes(tmp_path / "data", images=6, size=(64, 64), masks=False)
    options = {"data": tmp_path / "data", "out": tmp_path / "run", "batch": 2, "workers": 0, "progress": False}
    foveal.train("retinanet_mini", epochs=1, overrides=TINY, device="cpu", **options)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == expected
    seconds.update({"32": bf16, "bf16": fp32})  # another machine would choose otherwise
    foveal.train("retinanet_mini", epochs=1, overrides=TINY, device="cpu", resume=True, **options)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == expected


@pytest.mark.usefixtures("bf16_cpu")
def test_runs_that_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_trial, "pass_times", lambda *_: pytest.fail("timed"))
    mini = presets.get("retinanet_mini")
    assert tried(mini, "abc", CPU, 2) == ("bf16", "")
    assert tried(presets.get("fast_rcnn_mini"), "abc", CPU, None) == ("bf16", "")
    assert tried(presets.get("rcnn_mini"), "abc", CPU, None) == ("bf16", "")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert tried(mini, "abc", CPU, None) == ("bf16", "")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setattr("foveal.runtime.precision.cpu_flags", frozenset)
    assert tried(mini, "abc", CPU, None) == ("32", "")


@pytest.mark.parametrize("name", ["retinanet_mini", "faster_rcnn_mini", "mask_rcnn_mini", "yolo_v3_mini", "detr_mini"])
def test_real_passes_of_a_family(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_trial, "ROUNDS", 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = pass_times(presets.get(name), ("one",))
    assert set(found) == {"32", "bf16"} and min(found.values()) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("bf16_cpu")
def test_unusable_data_is_reported_without_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_trial, "pass_times", lambda *_: pytest.fail("timed"))
    with pytest.raises(FovealError, match="nowhere"):
        foveal.train("retinanet_mini", data=tmp_path / "nowhere", out=tmp_path / "run", device="cpu", progress=False)


def test_passes_are_those_of_the_detector_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the data's classes, prepared as a training run prepares it, for each format."""
    prepared: list[tuple[int, str]] = []

    def seen(detector: Detector, device: torch.device, precision: Precision) -> None:
        prepared.append((len(detector.classes), precision))
        prepare_for_training(detector, device, precision)

    monkeypatch.setattr(precision_trial, "prepare_for_training", seen)
    monkeypatch.setattr(precision_trial, "ROUNDS", 1)
    pass_times(presets.get("retinanet_mini"), ("cat", "dog"))
    assert prepared == [(2, "32"), (2, "bf16")]


def test_frozen_layers_whose_maps_are_stored_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each format computes them once of its two images, before the passes."""
    outputs: list[torch.Size] = []

    def seen(detector: Detector, device: torch.device, precision: Precision) -> None:
        detector.get_submodule("backbone.stem.0").register_forward_hook(lambda *args: outputs.append(args[2].shape))
        prepare_for_training(detector, device, precision)

    monkeypatch.setattr(precision_trial, "prepare_for_training", seen)
    monkeypatch.setattr(precision_trial, "ROUNDS", 1)
    spec = presets.get("retinanet_mini")
    stages = (OnImages(trains=("neck", "head")),)
    pass_times(replace(spec, fit=replace(spec.fit, stages=stages, frozen_maps=FrozenMaps())), ("cat",))
    assert [shape[1] for shape in outputs if shape[0] == 2 and shape[3] > 1] == [32, 32]
