"""Training end to end: the files it writes, how it ends, invalid arguments."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from foveal.checkpoints import folder as checkpoint
from foveal.errors import FovealError, UsageError
from foveal.files import lock
from foveal.files.lock import FolderInUse, locked
from foveal.recipe import Cosine, OnImages
from foveal.runtime.precision import choose, fast_bf16
from foveal.training.loop import loop
from foveal.training.loop.state import Pace, Plan, full_plan, timed_plan
from foveal.training.loop.update import NonFiniteLoss
from foveal.training.seeds import summarize_seeds
from tests.helpers.train_tiny import FIT, TinySpec, make_data, train_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def lines(out: Path, split: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def weights(out: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.read((out / "checkpoints" / which).resolve()).model  # type: ignore[return-value]


def tiny(**settings: Any) -> TinySpec:
    return TinySpec(fit=replace(FIT, **settings))


# --------------------------------------------------------------------------------------------- run folder
def test_a_run_folder(data: Path, tmp_path: Path) -> None:
    run = train_tiny(data, tmp_path / "run", tiny(ema=None))
    run_json = json.loads((run.path / "run.json").read_text())
    assert run_json["classes"] == ["red", "green"]
    assert run_json["spec"].startswith("TinySpec(")
    assert run_json["precision"] == "32"
    assert run_json["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert run_json["data_sets"]["train"] == {"split": None, "images": 12, "objects": 12, "format": "coco"}
    assert checkpoint.steps(run.path / "checkpoints")[-2:] == [6, 9]
    assert run.last.resolve().name == "step-9"
    assert run.results["protocol"] == "coco"
    assert run.results["images"] == 4
    assert run.results["steps"] == 9
    assert set(run.results) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "per_class", "last"}

    train, val = lines(run.path, "train"), lines(run.path, "val")
    assert [(r["epoch"], r["step"]) for r in val] == [(1, 3), (2, 6), (3, 9)]
    for row in train:
        assert row["loss"] == pytest.approx(row["cls"] + row["box"])
        assert {"lr", "images_per_second", "seconds_data", "seconds_forward", "seconds_backward"} <= row.keys()
    # iteration 8 of 9: warmed up after min(2, 9 // 5) = 1; the cosine is at 8/9
    assert train[-1]["lr"] == pytest.approx(0.05 * Cosine().scale(8, 9, 3))
    assert train[-1]["loss"] < train[0]["loss"]


def test_the_logged_loss_is_the_mean_since_the_last_line(data: Path, tmp_path: Path) -> None:
    """One epoch of three iterations at learning rate 0: the logged loss is the mean of the three losses."""
    spec = TinySpec(fit=replace(FIT, epochs=1, lr=0.0), dropout=0.0)
    seen: list[float] = []
    original = loop.Meter.add

    def add(self: Any, losses: dict[str, torch.Tensor]) -> None:
        seen.append(sum(float(v) for v in losses.values()))
        original(self, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Meter, "add", add)
        train_tiny(data, tmp_path, spec)
    assert lines(tmp_path, "train")[0]["loss"] == pytest.approx(statistics.fmean(seen))


def test_validation_on_training_images_is_reported_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``foveal check`` does it on purpose; a warning for every image of its temporary folder is useless."""
    train_tiny(data, tmp_path, tiny(epochs=1), val=data / "train.json", progress=True)
    output = capsys.readouterr().err
    assert "in the training and in the validation data" not in output
    assert "warning" not in output
    assert output.count("validating on the training images themselves") == 1


def test_runs_are_bitwise_reproducible_and_depend_on_the_seed(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_tiny(data, tmp_path / name, seed=seed)
    a, b, c = (tmp_path / n / "checkpoints/last/model.safetensors" for n in "abc")
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_number_of_workers_does_not_change_the_result(data: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        train_tiny(data, tmp_path / str(workers), workers=workers)
    a, b = (tmp_path / str(w) / "checkpoints/last/model.safetensors" for w in (0, 2))
    assert a.read_bytes() == b.read_bytes()


def test_run_stores_absolute_data_paths(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    train_tiny(Path(data.name), tmp_path / "run", tiny(epochs=1))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["data"] == str(data / "train.json")


def test_ema_weights_are_the_model(data: Path, tmp_path: Path) -> None:
    run = train_tiny(data, tmp_path)
    found = checkpoint.read(run.last.resolve())
    assert any(not torch.equal(found.model[k], found.raw[k]) for k in found.raw)
    without = train_tiny(data, tmp_path / "raw", tiny(ema=None))
    plain = checkpoint.read(without.last.resolve())
    assert not plain.raw
    assert all(torch.equal(plain.model[k], found.raw[k]) for k in found.raw), "averaging does not disturb the training"


def test_best_is_by_validation_ap(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _with_scores(monkeypatch, [0.2, 0.7, 0.5, 0.7, None], data, tmp_path, epochs=5)
    assert run.best.resolve().name == "step-12"  # the later of equal ones
    assert (run.results["AP"], run.results["last"]["AP"]) == (0.7, None)
    assert sorted(checkpoint.steps(tmp_path / "checkpoints")) == [12, 15]


def test_early_stopping(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two validations without a better AP."""
    run = _with_scores(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.9], data, tmp_path, epochs=5, early_stop=2)
    assert run.results["ended"] == "stopped early"
    assert run.results["steps"] == 12


def _with_scores(patch: pytest.MonkeyPatch, scores: list[float | None], data: Path, out: Path, **fit: Any) -> Any:
    """A run whose validations return these APs."""
    from foveal.training.loop.validate import Validator

    queue, original = iter(scores), Validator._evaluate

    def scored(self: Any, detections: Any, class_agnostic: bool) -> dict[str, Any]:
        return original(self, detections, class_agnostic) | {"AP": next(queue)}

    patch.setattr(Validator, "_evaluate", scored)
    return train_tiny(data, out, tiny(**fit))


def test_validation_every_other_epoch_and_at_the_end(data: Path, tmp_path: Path) -> None:
    train_tiny(data, tmp_path, tiny(val_every=2))
    assert [r["epoch"] for r in lines(tmp_path, "val")] == [2, 3]


def test_gradient_accumulation_uses_the_same_batch(data: Path, tmp_path: Path) -> None:
    """Without batch norm, noise and dropout two half batches give the gradients of the whole batch."""
    for accumulate in (1, 2):
        fit = replace(FIT, ema=None, accumulate=accumulate)
        train_tiny(data, tmp_path / str(accumulate), TinySpec(fit=fit, dropout=0.0, norm=False, noise=0.0))
    a, b = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    assert any(not torch.equal(a[k], b[k]) for k in a), "it did run in two parts"
    with pytest.raises(UsageError, match=r"fit\.accumulate=3"):
        train_tiny(data, tmp_path / "3", tiny(accumulate=3))


def test_each_stage_trains_its_own_parameters(data: Path, tmp_path: Path) -> None:
    stages = (OnImages(trains=("cls", "box"), epochs=1), OnImages(trains=("backbone",), epochs=1, lr=0.01))
    train_tiny(data, tmp_path, TinySpec(fit=replace(FIT, ema=None, stages=stages), norm=False))
    first = checkpoint.read(tmp_path / "checkpoints" / "step-3")
    last = checkpoint.read(tmp_path / "checkpoints" / "step-6")
    torch.manual_seed(0)
    same = {k.split(".")[0] for k in first.model if torch.equal(first.model[k], last.model[k])}
    assert same == {"cls", "box"}
    assert {k.split(".")[0] for k in first.optimizer} == {"cls", "box"}
    assert {k.split(".")[0] for k in last.optimizer} == {"backbone"}


def test_initial_weights(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train_tiny(data, tmp_path / "first", tiny(ema=None))
    capsys.readouterr()
    train_tiny(data, tmp_path / "next", tiny(ema=None, lr=1e-12, epochs=1), weights=first.path, progress=True)
    assert "10 of 10 tensors loaded" in capsys.readouterr().err
    old, new = weights(first.path, "best"), weights(tmp_path / "next")
    assert all(torch.allclose(old[k], new[k], atol=1e-6) for k in old if "running" not in k and "num" not in k)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no run and no checkpoint"):
        train_tiny(data, tmp_path / "x", weights=tmp_path / "empty")


# ----------------------------------------------------------------------------------------- end of a run
def test_nonfinite_loss_stops_the_run(data: Path, tmp_path: Path) -> None:
    spec = TinySpec(fit=replace(FIT, ema=None), poison=4)
    with pytest.raises(NonFiniteLoss) as stopped:
        train_tiny(data, tmp_path / "bad", spec, save_every=0.0)
    message = str(stopped.value)
    for part in (
        "cls",
        "iteration 4",
        "cls=nan",
        "learning rate 0.0",
        "train-",
        "--precision 32",
        "in a new run with --weights",
    ):
        assert part in message
    folder = tmp_path / "bad" / "nonfinite" / "step-4-rank-0"
    saved = safetensors.torch.load_file(folder / "batch.safetensors")
    report = json.loads((folder / "batch.json").read_text())
    assert saved["0/pixels"].dtype == torch.uint8
    assert saved["0/pixels"].shape == (4, 3, 32, 32)
    assert saved["0/boxes"].shape[0] == 4
    assert len(report["images"]) == 4
    assert report["losses"]["cls"] == "nan"
    # the newest checkpoint is that before the bad iteration, equal to the healthy run's
    healthy = train_tiny(data, tmp_path / "good", tiny(ema=None), save_every=0.0)
    assert checkpoint.steps(tmp_path / "bad" / "checkpoints")[-1] == 4
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "bad").values())
    assert healthy.last.resolve().name == "step-9"


def test_weights_that_blew_up_are_never_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last iteration may do it: its loss was finite, and no later one is computed."""
    original = loop.Loop._update

    def blown(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        if self.state.step == 6:
            with torch.no_grad():
                next(self.job.detector.parameters()).mul_(float("inf"))

    monkeypatch.setattr(loop.Loop, "_update", blown)
    message = r"the weights are not finite after iteration 6.*in a new run with --weights .*, the last weights"
    spec = TinySpec(fit=replace(FIT, ema=None), norm=False)
    for options in ({}, {"save_every": 0.0}):  # found by the validation, or before a save
        out = tmp_path / f"run-{len(options)}"
        with pytest.raises(NonFiniteLoss, match=message):
            train_tiny(data, out, replace(spec, fit=replace(spec.fit, epochs=2)), **options)
        assert all(tensor.isfinite().all() for tensor in weights(out).values())


def test_losses_that_are_not_finite_in_validation(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all images: the run is of no use. Of some: said, and never the best."""
    from foveal.training.loop.validate import Validator

    original, share = Validator.__call__, [0.25, 0.0, 0.25]

    def broken(self: Any, *arguments: Any, **options: Any) -> Any:
        return replace(original(self, *arguments, **options), broken=share.pop(0))

    monkeypatch.setattr(Validator, "__call__", broken)
    run = train_tiny(data, tmp_path / "some", tiny(val_every=1))
    assert run.results["step"] == 6 and "sound" not in run.results and run.results["last"]["sound"] is False
    share[:] = [1.0]
    with pytest.raises(NonFiniteLoss, match=r"losses of all validation images are not finite after iteration 3"):
        train_tiny(data, tmp_path / "all")


@pytest.mark.parametrize("during", ["update", "validation"])
def test_ctrl_c_leaves_a_usable_state(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str) -> None:
    from foveal.training.loop.validate import Validator

    before = signal.getsignal(signal.SIGINT)  # ignored where the suite runs in the background
    train_tiny(data, tmp_path / "whole")
    name, owner = ("_update", loop.Loop) if during == "update" else ("_pass", Validator)
    original, calls = getattr(owner, name), 0

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(data, tmp_path / "cut")
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == (2 if during == "update" else 6)
    assert signal.getsignal(signal.SIGINT) is before
    train_tiny(data, tmp_path / "cut", resume=True)
    a, b = (tmp_path / n / "checkpoints/last/model.safetensors" for n in ("whole", "cut"))
    assert a.read_bytes() == b.read_bytes()


TRAIN = """
import sys
from pathlib import Path
from foveal.cli import main
from tests.helpers.train_tiny import TinySpec, train_tiny
main._run = lambda verb, arguments: train_tiny(
    Path(arguments[0]), Path(arguments[1]), epochs=10_000, progress=True, workers=2, resume="resume" in arguments
)
sys.argv[1:] = ["train", *sys.argv[1:]]
main.run()
"""


@pytest.mark.parametrize("whom", ["the process", "all its processes"])
def test_sigterm_saves_as_ctrl_c_does(data: Path, tmp_path: Path, whom: str) -> None:
    """A container's end reaches one process, a cluster's all of them: also those that load images."""
    out = tmp_path / "run"
    for resumed in (False, True):
        command = [sys.executable, "-c", TRAIN, str(data), str(out), *(["resume"] if resumed else [])]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        before = checkpoint.steps(out / "checkpoints")
        deadline = time.monotonic() + 120
        while checkpoint.steps(out / "checkpoints") == before and time.monotonic() < deadline:
            time.sleep(0.05)  # until an epoch has ended
        (os.kill if whom == "the process" else os.killpg)(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        last = checkpoint.steps(out / "checkpoints")[-1]
        assert process.returncode == 143, errors
        assert f"stopped after iteration {last}, which is saved: continue with --resume" in errors
        assert errors.rstrip().endswith("foveal: ended by SIGTERM")
        assert "Traceback" not in errors


def test_one_training_works_on_a_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with locked(Path("runs/tinyspec"), "a training run"):  # by this process, which is as good as another one
        monkeypatch.setattr(lock, "PATIENCE", 0.0)
        with pytest.raises(FolderInUse, match=r"runs/tinyspec: a training run .* works on this folder"):
            train_tiny(data, Path("runs/tinyspec"), epochs=1)
        run = train_tiny(data, None, epochs=1)  # without a name: the next one
    assert str(run.path) == "runs/tinyspec-2"
    assert not (run.path / ".lock").exists()


# ------------------------------------------------------------------------------------------ time limits
class FakeTime:
    """A clock that only advances on request."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.update = 2.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Every iteration takes 2 s, every validated set 6 s."""
    from foveal.training.loop.update import Updater
    from foveal.training.loop.validate import Validation, Validator

    time = FakeTime()
    update, validate = Updater.__call__, Validator.__call__

    def updating(self: Any, *arguments: Any, **options: Any) -> Any:
        time.seconds += time.update
        return update(self, *arguments, **options)

    def validating(self: Any, *arguments: Any, **options: Any) -> Validation:
        time.seconds += 6.0
        return dataclasses.replace(validate(self, *arguments, **options), seconds=6.0)

    monkeypatch.setattr(loop, "now", time)
    monkeypatch.setattr(Updater, "__call__", updating)
    monkeypatch.setattr(Validator, "__call__", validating)
    monkeypatch.setattr(Validator, "pace", lambda self, detector, learning=None: 6.0)
    return time


def test_max_time_plans_the_epochs(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    """An epoch is 3 x 2 + 6 = 12 s; 95 of 100 s hold 7 of them, and 2 more iterations with a validation (94 s)."""
    run = train_tiny(data, tmp_path, tiny(epochs=1000), max_time=100.0)
    assert slow.seconds - 1000 == 94.0
    assert run.results["steps"] == 7 * 3 + 2
    assert run.results["ended"] == "finished"
    state = json.loads((run.last / "state.json").read_text())
    assert state["plan"] == {"per_epoch": 3, "stages": [23], "timed": True}
    assert state["elapsed"] == 94.0
    # the schedule has run its course over the planned iterations
    assert lines(tmp_path, "train")[-1]["lr"] == pytest.approx(0.05 * Cosine().scale(22, 23, 3))


def test_fewer_epochs_than_the_time_allows(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    run = train_tiny(data, tmp_path, max_time=1000.0, epochs=3)
    assert run.results["steps"] == 9


def test_max_time_alone_sets_the_schedule_without_epochs(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    run = train_tiny(data, tmp_path, max_time=200.0)  # the recipe has 3 epochs, of 12 s each
    assert run.results["steps"] > 40
    assert run.results["ended"] == "finished"


@pytest.mark.parametrize(("early", "late"), [(2.0, 7.0), (7.0, 2.0)], ids=["slower", "faster"])
def test_wrong_schedule_length_is_replanned(
    data: Path, tmp_path: Path, slow: FakeTime, early: float, late: float
) -> None:
    """From iteration 6 on everything is slower, or faster."""
    original, plans_seen = loop.Loop._update, []

    def changing(self: Any, *arguments: Any) -> None:
        slow.update = late if self.state.step >= 6 else early
        plans_seen.append(self.state.plan)
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_update", changing)
        run = train_tiny(data, tmp_path, tiny(epochs=1000), max_time=200.0)
    plans = [p.total for p in plans_seen if p.timed]
    assert run.results["ended"] == "finished"
    assert 150 < slow.seconds - 1000 <= 200.0
    assert (plans[-1] < plans[0]) == (late > early)
    # the schedule has run its course over the completed iterations
    total = run.results["steps"]
    assert total == plans[-1]
    assert lines(tmp_path, "train")[-1]["lr"] == pytest.approx(0.05 * Cosine().scale(total - 1, total, 3))
    assert lines(tmp_path, "val")[-1]["step"] == total


def test_time_before_an_interruption_counts_toward_the_limit(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    original = loop.Loop._update

    def stop(self: Any, *arguments: Any) -> None:
        if self.state.step == 8:
            raise RuntimeError("killed")
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(loop.Loop, "_update", stop)
        train_tiny(data, tmp_path, tiny(epochs=1000), max_time=100.0, save_every=0.0)
    slow.seconds += 500.0  # time between the two runs does not count
    again = slow.seconds
    run = train_tiny(data, tmp_path, tiny(epochs=1000), max_time=100.0, resume=True)
    assert run.results["steps"] == 23, "the stored plan holds"
    assert run.results["ended"] == "finished"
    assert slow.seconds - again == 94.0 - 28.0


def test_run_that_stops_at_the_end_of_an_epoch_is_validated(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    """Time is over after epoch 1, and every fifth epoch is validated: results.json must not be empty."""
    original = loop.Loop._close_epoch

    def late(self: Any, interrupt: Any) -> None:
        slow.seconds += 95.0
        original(self, interrupt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_close_epoch", late)
        run = train_tiny(data, tmp_path, tiny(epochs=1000, val_every=5), max_time=100.0)
    assert (run.results["steps"], run.results["ended"]) == (3, "out of time")
    assert run.results["images"] == 4
    assert [r["step"] for r in lines(tmp_path, "val")] == [3]


def test_ctrl_c_in_the_last_validation_does_not_lose_the_run(data: Path, tmp_path: Path) -> None:
    from foveal.training.loop.validate import Validator

    original = Validator._pass

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Validator, "_pass", interrupted)
        train_tiny(data, tmp_path, tiny(epochs=1))
    assert not (tmp_path / "results.json").exists()
    run = train_tiny(data, tmp_path, tiny(epochs=1), resume=True)
    assert run.results["images"] == 4
    assert [r["step"] for r in lines(tmp_path, "val")] == [3]


@pytest.mark.parametrize("place", ["validation", "pace"])
def test_ctrl_c_that_kills_loader_workers_is_handled_as_ctrl_c(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A terminal sends SIGINT to the workers too; the loader finds them dead before the main process looks."""
    from foveal.training.loop.validate import Validator

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        raise FovealError("a process that loads images died")

    monkeypatch.setattr(Validator, "_pass", dying)
    monkeypatch.setattr(Pace, "ready", True)
    limit = {"max_time": 600.0, "epochs": 1} if place == "pace" else {"epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        train_tiny(data, tmp_path, **limit)
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "checkpoints") == ([1] if place == "pace" else [3])
    assert train_tiny(data, tmp_path, resume=True, **limit).results["images"] == 4


def test_crashed_workers_are_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.training.loop.validate import Validator

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        raise FovealError("a process that loads images died")

    monkeypatch.setattr(Validator, "_pass", dying)
    with pytest.raises(FovealError, match="died"):
        train_tiny(data, tmp_path)


def test_schedule_length_by_hand() -> None:
    full = Plan(10, (50, 150))
    assert full.epochs == 20
    assert [full.stage(s) for s in (0, 49, 50, 199, 200)] == [(0, 0), (0, 0), (1, 50), (1, 50), (1, 50)]
    # 0.95 * 200 s - 10 s - validations of 5 s after each 10 iterations of 1 s: 12 epochs are 180 s
    plan = timed_plan(full, 200, done=0, elapsed=10.0, pace=1.0, validation=5.0, limit=200.0, val_every=1)
    assert (plan.total, plan.stages, plan.timed) == (120, (30, 90), True)
    assert timed_plan(full, 200, done=0, elapsed=0, pace=1.0, validation=5.0, limit=1e6, val_every=1).total == 200
    assert timed_plan(full, 200, done=7, elapsed=99, pace=1.0, validation=5.0, limit=100.0, val_every=1).total == 7
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_timed_run_validates_five_times_if_cheap() -> None:
    endless = Plan(5, (50_000,))
    settings = {"done": 0, "elapsed": 0.0, "pace": 1.0, "limit": 100.0, "val_every": 12}
    # 95 s: 19 epochs of 5 s, and validations of 0 s. Every 12 epochs these would be 2
    plan = timed_plan(endless, 50_000, validation=0.0, **settings)
    assert (plan.total, plan.val_every) == (95, 3)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    # 7 of 1 s: 88 s are left
    assert (plan := timed_plan(endless, 50_000, validation=1.0, **settings)).val_every == 3
    assert plan.total + -(-plan.epochs // 3) == 95
    # 6 of 4 s would be more than a fifth of the time
    assert timed_plan(endless, 50_000, validation=4.0, **settings).val_every == 0
    # more than five as it is
    assert timed_plan(endless, 50_000, validation=0.0, **{**settings, "val_every": 2}).val_every == 0
    assert "val_every" not in Plan(5, (50,)).to_json()


def test_validations_follow_the_plan(data: Path, tmp_path: Path, slow: FakeTime) -> None:
    """A validation takes 6 of 1000 s, so that the recipe's every 40 epochs are too few."""
    run = train_tiny(data, tmp_path, tiny(val_every=40), max_time=1000.0)
    plan = json.loads((run.last / "state.json").read_text())["plan"]
    epochs = [row["epoch"] for row in lines(tmp_path, "val")]
    assert len(epochs) >= 5 and all(epoch % plan["val_every"] == 0 for epoch in epochs[:-1])
    assert slow.seconds - 1000 <= 1000.0


def test_pace_ignores_the_first_iterations() -> None:
    pace = Pace(100.0, 0.0)
    for seconds in (2.9, 2.5, 1.0):
        pace.add(seconds)
    assert not pace.ready
    pace.add(1.0)
    pace.add(1.0)
    assert pace.ready
    assert pace.seconds == 1.0
    slow = Pace(10.0, 0.0)
    slow.add(5.0)  # one iteration takes half of the time, so the pace is known
    assert slow.ready


def test_epochs_of_multiple_stages_are_not_overridden() -> None:
    fit = replace(FIT, stages=(OnImages(epochs=2), OnImages()))
    assert full_plan(fit, fit.stages, 5).stages == (10, 15)
    with pytest.raises(UsageError, match="--epochs"):
        full_plan(fit, fit.stages, 5, 3)


# ----------------------------------------------------------------------------------- seeds and precision
def test_seeds_report_mean_and_standard_deviation(data: Path, tmp_path: Path) -> None:
    run = train_tiny(data, tmp_path, seeds=2, seed=3)
    assert [r.path.name for r in run.runs] == ["seed-3", "seed-4"]
    aps = [r.results["AP50"] for r in run.runs]
    assert run.results["AP50"] == pytest.approx(statistics.fmean(aps))
    assert run.results["spread"]["AP50"] == pytest.approx(statistics.stdev(aps))
    assert [r["seed"] for r in run.results["runs"]] == [3, 4]
    alone = train_tiny(data, tmp_path / "alone", seed=4)
    same = (p / "checkpoints/last/model.safetensors" for p in (alone.path, run.runs[1].path))
    assert len({p.read_bytes() for p in same}) == 1


def test_summary_by_hand() -> None:
    one: dict[str, Any] = {"protocol": "coco", "split": "val", "images": 4, "AP": 0.2, "APl": None, "per_class": {}}
    results = [{**one, "AP": ap, "last": {"AP": ap / 2, "APl": None}} for ap in (0.2, 0.4, 0.9)]
    found = summarize_seeds(results, [0, 1, 2])
    assert found["AP"] == pytest.approx(0.5)
    assert found["spread"]["AP"] == pytest.approx(0.36055512754639896)  # sqrt((.09 + .01 + .16) / 2)
    assert found["APl"] is None
    assert found["last"]["AP"] == pytest.approx(0.25)


def test_precision_depends_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for flags, fast in (({"avx2", "avx512_bf16"}, True), ({"amx_bf16"}, True), ({"avx2", "avx512f"}, False)):
        monkeypatch.setattr("foveal.runtime.precision.cpu_flags", lambda flags=flags: frozenset(flags))
        assert fast_bf16(cpu) is fast
        assert choose(None, cpu) == ("bf16" if fast else "32")
        assert choose("32", cpu) == "32"
    with pytest.raises(UsageError, match="'64'"):
        choose("64", cpu)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_low_precision_training_is_close_to_fp32(data: Path, tmp_path: Path, precision: str) -> None:
    seen: list[torch.dtype] = []
    with pytest.MonkeyPatch.context() as patch:
        original = torch.nn.Linear.forward

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            result = original(self, x)
            seen.append(result.dtype)
            return result

        patch.setattr(torch.nn.Linear, "forward", forward)
        train_tiny(data, tmp_path / precision, precision=precision)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    train_tiny(data, tmp_path / "32")
    low, full = lines(tmp_path / precision, "train")[-1]["loss"], lines(tmp_path / "32", "train")[-1]["loss"]
    assert low == pytest.approx(full, rel=0.02)
    assert low != full


# ---------------------------------------------------------------------------------- invalid arguments
def test_invalid_arguments(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no preset 'retinanet_mni'.*retinanet_mini"):
        train_tiny(data, tmp_path, "retinanet_mni")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="device 'tpu'"):
        train_tiny(data, tmp_path, device="tpu")
    with pytest.raises(FovealError):
        train_tiny(tmp_path / "nowhere", tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_dataset_without_boxes_is_rejected(tmp_path: Path) -> None:
    empty = make_data(tmp_path / "data", empty_from=0)
    with pytest.raises(FovealError, match="has no box"):
        train_tiny(empty, tmp_path / "run")


@pytest.mark.parametrize("error", [UsageError("full", path="x"), OSError(28, "No space left on device", "x")])
def test_failure_on_rank_0_stops_all_ranks(error: Exception) -> None:
    """It would leave the others waiting in their first collective forever."""
    from foveal.runtime.processes import first_alone

    wire: list[bytes] = []

    class Rank:
        world_size = 2

        def __init__(self, number: int) -> None:
            self.is_global_zero = number == 0

        def broadcast(self, value: Any) -> Any:
            if self.is_global_zero:
                wire.append(pickle.dumps(value))
            return pickle.loads(wire[-1])

    def fail() -> list[str]:
        raise error

    for number in (0, 1):
        with pytest.raises(type(error)) as raised:
            first_alone(Rank(number), fail)  # type: ignore[arg-type]
        assert str(raised.value) == str(error)
    assert [first_alone(Rank(n), lambda: ["a line"]) for n in (0, 1)] == [["a line"]] * 2  # type: ignore[arg-type]


def test_overrides_reach_the_recipe(data: Path, tmp_path: Path) -> None:
    run = train_tiny(data, tmp_path, overrides=["fit.epochs=1", "fit.lr=0.2"])
    assert run.results["steps"] == 3
    assert "lr=0.2" in json.loads((tmp_path / "run.json").read_text())["spec"]


def test_larger_batch_scales_the_learning_rate(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(data, tmp_path, tiny(epochs=1, warmup_steps=0), batch=12, progress=True)
    assert "batch 12, learning rate 0.15 (0.05 for a batch of 4, scaled), precision 32" in capsys.readouterr().err
    assert lines(tmp_path, "train")[0]["lr"] == pytest.approx(0.15)
