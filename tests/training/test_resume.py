"""A run killed at any moment and resumed is bitwise equal to an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.checkpoints import folder as checkpoint
from foveal.errors import FovealError, UsageError
from foveal.recipe import AdamW, OnImages, Solver
from foveal.training.loop import loop
from tests.helpers.train_tiny import FIT, TinySpec, main, make_data, train_tiny

FILES = ("model.safetensors", "raw.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), train=22)


@pytest.fixture(scope="module")
def server() -> Any:
    """Starts processes with torch already imported, so that a chain of kills is cheap."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.train_tiny", "foveal.training.run"])
    return context


def outcome(out: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    last = out / "checkpoints" / "last"
    state = json.loads((last / "state.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in row.items() if "second" not in k} for row in lines]
    return {
        **{name: (last / name).read_bytes() for name in FILES},
        "best": (out / "checkpoints" / "best" / "model.safetensors").read_bytes(),
        "state": {k: v for k, v in state.items() if k not in ("elapsed", "validation", "log_bytes")},
        "lines": timeless,
        "results": (out / "results.json").read_text(),
    }


def kill(pid: int) -> None:
    """SIGKILL for a training run and the workers it started. It is not reaped yet, so the number is still its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet, and no workers
        os.kill(pid, signal.SIGKILL)


def reached(out: Path) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    try:
        return int(os.readlink(out / "checkpoints" / "last").removeprefix("step-"))
    except FileNotFoundError:
        return 0


def chain(server: Any, data: Path, out: Path, moments: list[tuple[int, float]], **options: Any) -> int:
    """Kills a training run at each moment (a step and seconds after its checkpoint), then lets it finish.

    Returns how many kills hit it alive.
    """
    hits = 0
    arguments = {"data": str(data), "out": str(out), "resume": True, "save_every": 0.0, "own_group": True, **options}
    for step, seconds in moments:
        process = server.Process(target=main, args=(dict(arguments),))
        process.start()
        while process.is_alive() and reached(out) < step:
            time.sleep(0.002)
        process.join(seconds)
        if process.is_alive():
            kill(process.pid)
            hits += 1
        process.join()
    process = server.Process(target=main, args=(dict(arguments),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return hits


def undisturbed(server: Any, data: Path, out: Path, **options: Any) -> None:
    process = server.Process(target=main, args=({"data": str(data), "out": str(out), **options},))
    process.start()
    process.join()
    assert process.exitcode == 0


def run_chains(server: Any, data: Path, folder: Path, chains: int, epochs: int, **options: Any) -> None:
    """Chains of one to four kills, at moments that no two runs of this test share."""
    options = {**options, "fit": {"epochs": epochs, **options.get("fit", {})}}
    undisturbed(server, data, folder / "whole", **options)
    expected = outcome(folder / "whole")
    rng = np.random.default_rng(time.time_ns() % 2**32)
    hits = 0
    for k in range(chains):
        # updates last some milliseconds, most of which is saving: many kills fall into the middle of that
        places = np.sort(rng.integers(0, 4 * epochs, 1 + k % 4)).tolist()
        moments = [(int(step), float(rng.uniform(0, 0.05))) for step in places]
        hits += chain(server, data, folder / f"chain-{k}", moments, **options)
        found = outcome(folder / f"chain-{k}")
        different = [name for name in expected if expected[name] != found[name]]
        assert not different, f"killed at {moments}: {different} differ"
    assert hits >= chains, "the kills came too late to mean anything"


def test_killed_and_resumed_is_bit_equal(server: Any, data: Path, tmp_path: Path) -> None:
    run_chains(server, data, tmp_path, 2, epochs=5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"fit": {"accumulate": 2}}])
def test_ten_chains_of_kills(server: Any, data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run_chains(server, data, tmp_path, 10, epochs=20, **options)


class Stop(Exception):
    """Simulates a kill within one process."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``stop_after(n)``: the next run stops right before its iteration ``n``, without a final save."""
    original = loop.Loop._update

    def arrange(step: int) -> None:
        def update(self: loop.Loop, parts: Any, files: Any) -> None:
            if self.state.step == step:
                raise Stop
            original(self, parts, files)

        monkeypatch.setattr(loop.Loop, "_update", update)

    yield arrange


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    return monkeypatch.undo


@pytest.mark.parametrize("step", [2, 5, 7, 14])  # inside the first epoch, at an epoch's end, inside others
def test_stop_at_each_point_of_an_epoch(data: Path, tmp_path: Path, stop_after: Any, release: Any, step: int) -> None:
    train_tiny(data, tmp_path / "whole")
    stop_after(step)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", save_every=0.0)
    release()
    train_tiny(data, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("second", [None, AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("late", [False, True], ids=["boundary", "one-later"])
def test_stop_at_the_end_of_a_stage(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, second: Solver | None, late: bool
) -> None:
    """The checkpoint at its end holds its optimizer, not the next stage's: momentum must not carry over."""
    stages = (OnImages(epochs=1), OnImages(epochs=1, solver=second, lr=0.01))
    spec = TinySpec(fit=replace(FIT, stages=stages))
    train_tiny(data, tmp_path / "whole", spec)
    stop_after(6 if late else 5)  # an epoch is 5 iterations
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", spec, save_every=0.0)
    release()
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == (6 if late else 5)
    train_tiny(data, tmp_path / "cut", spec, resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_ctrl_c_in_the_last_iteration_of_an_epoch_keeps_the_logged_rate(data: Path, tmp_path: Path) -> None:
    """The line of that epoch is written after resuming, before there is another iteration."""
    train_tiny(data, tmp_path / "whole")
    original = loop.Loop._update

    def update(self: loop.Loop, parts: Any, files: Any) -> None:
        original(self, parts, files)
        if self.state.step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_update", update)
        train_tiny(data, tmp_path / "cut")
    train_tiny(data, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_without_a_final_save_it_resumes_from_the_epoch(
    data: Path, tmp_path: Path, stop_after: Any, release: Any
) -> None:
    """Lines written after the checkpoint are truncated, and written again."""
    train_tiny(data, tmp_path / "whole")
    stop_after(8)  # the last checkpoint is of iteration 5
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 8, "spl')
    release()
    train_tiny(data, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_damaged_checkpoint_is_named_and_the_previous_one_is_used(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny(data, tmp_path / "whole")
    stop_after(8)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", save_every=0.0)
    release()
    folder = tmp_path / "cut" / "checkpoints"
    assert checkpoint.steps(folder)[-1] == 8
    model = folder / "step-8" / "raw.safetensors"
    model.write_bytes(model.read_bytes()[:-9])
    capsys.readouterr()
    train_tiny(data, tmp_path / "cut", resume=True, progress=True)
    output = capsys.readouterr().err
    assert "step-8: raw.safetensors: the file is damaged" in output
    assert "resuming after iteration 7" in output
    assert (folder / "damaged-step-8").is_dir()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_lost_best_checkpoint_is_reported_and_recovered(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(8)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", save_every=0.0)
    release()
    (tmp_path / "cut/checkpoints/best/model.safetensors").write_bytes(b"x")
    capsys.readouterr()
    train_tiny(data, tmp_path / "cut", resume=True, progress=True)
    assert "the best checkpoint is lost" in capsys.readouterr().err
    checkpoint.verify((tmp_path / "cut/checkpoints/best").resolve())


def test_resume_without_a_checkpoint_starts_from_scratch(data: Path, tmp_path: Path) -> None:
    train_tiny(data, tmp_path / "whole")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_text("{}")  # killed before the first checkpoint
    train_tiny(data, tmp_path / "new", resume=True)
    assert outcome(tmp_path / "new") == outcome(tmp_path / "whole")


def test_resume_of_a_finished_run_reports_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(data, tmp_path)
    before = outcome(tmp_path)
    capsys.readouterr()
    run = train_tiny(data, tmp_path, resume=True, progress=True)
    assert "the run is complete (finished)" in capsys.readouterr().err
    assert outcome(tmp_path) == before
    assert run.results["steps"] == 15


def test_results_missing_after_a_kill_are_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the last checkpoint and results.json; and more epochs are not silently ignored."""
    train_tiny(data, tmp_path)
    before = outcome(tmp_path)
    (tmp_path / "results.json").unlink()
    capsys.readouterr()
    train_tiny(data, tmp_path, resume=True, epochs=5, progress=True)
    assert outcome(tmp_path) == before
    assert f"after 3 epochs; for more, start a new run with --weights {tmp_path}" in capsys.readouterr().err


def test_time_limit_that_was_not_planned_yet_is_kept(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    """Until the pace is known the plan is 10,000 times the recipe: no schedule to resume with."""
    stop_after(2)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path, max_time=600.0, save_every=0.0)
    release()
    with pytest.raises(UsageError, match=r"before its length was planned.*--max-time"):
        train_tiny(data, tmp_path, resume=True)
    assert train_tiny(data, tmp_path, resume=True, epochs=2).results["steps"] == 10


def test_imported_weights_are_not_a_run(data: Path, tmp_path: Path) -> None:
    described = {"spec": "TinySpec()", "classes": ["red", "green"], "versions": {}}
    weights = TinySpec().build(("red", "green")).state_dict()
    checkpoint.save(tmp_path / "checkpoints", 0, checkpoint.Content(weights, {}, {}, {"imported": "x"}, described))
    with pytest.raises(UsageError, match=r"imported weights.*--weights"):
        train_tiny(data, tmp_path, resume=True)


def test_folder_with_a_run_is_rejected(data: Path, tmp_path: Path) -> None:
    train_tiny(data, tmp_path)
    before = outcome(tmp_path)
    with pytest.raises(UsageError, match=r"the folder holds a run.*--resume"):
        train_tiny(data, tmp_path)
    assert outcome(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"--seed was 0 and is 1"),
        ({"batch": 8}, r"--batch was 4 and is 8"),
        ({"limit": 20}, r"the training data changed"),
        ({"precision": "bf16"}, r"--precision 32"),
        ({"val": "train"}, r"the validation data changed"),
        ({"epochs": 4}, r"started for 3 epochs; --epochs 4.*--weights"),
    ],
)
def test_resume_with_other_arguments_is_rejected(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, options: dict[str, Any], message: str
) -> None:
    stop_after(6)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path)
    release()
    if "val" in options:
        options = {"val": data / "train.json"}
    with pytest.raises(FovealError, match=message):
        train_tiny(data, tmp_path, resume=True, **options)


def test_thread_count_is_restored(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        stop_after(6)
        with pytest.raises(Stop):
            train_tiny(data, tmp_path)
        release()
        torch.set_num_threads(1)
        train_tiny(data, tmp_path, resume=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_fp16_resumes_with_its_loss_scale(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    train_tiny(data, tmp_path / "whole", precision="16")
    stop_after(7)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", precision="16", save_every=0.0)
    release()
    train_tiny(data, tmp_path / "cut", precision="16", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_resume_uses_the_precision_of_the_run(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    """``--resume`` on a machine with another default keeps the precision that the run started with."""
    stop_after(6)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path, precision="bf16")
    release()
    train_tiny(data, tmp_path, resume=True, precision=None)
    state = json.loads((tmp_path / "checkpoints/last/state.json").read_text())
    assert state["precision"] == "bf16"


def test_the_recipe_of_these_tests_covers_every_kind_of_state() -> None:
    """EMA, clipping, dropout, batch norm, momentum and a falling rate are all on."""
    assert FIT.ema is not None and FIT.clip is not None and TinySpec().dropout and TinySpec().norm
