"""A run killed at any moment and resumed is bitwise equal to an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.checkpoints import folder as checkpoint
from foveal.checkpoints.content import Content
from foveal.data.augment.combine import MixUp, Mosaic
from foveal.data.augment.transforms import FlipScaleColor, ScaleJitter
from foveal.errors import FovealError, UsageError
from foveal.recipe import AdamW, OnImages, Solver
from foveal.report.read_run import read_record
from foveal.report.run_report import validation_set
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


COMBINED = replace(
    FIT,
    augment=(ScaleJitter(0.5, 1.5), Mosaic(until=0.6), MixUp(), FlipScaleColor(0.5)),
    repeat_threshold=0.9,
    backbone_decay=0.1,
    warmup_share=0.1,
    ema_share=0.3,
    keep="last",
)


@pytest.mark.parametrize("step", [3, 11])  # before the mosaic ends, which is in iteration 12 of 18, and right before
def test_a_recipe_of_combined_images_resumes_bit_equal(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, step: int
) -> None:
    """In another number of loader processes."""
    spec = TinySpec(fit=COMBINED)
    train_tiny(data, tmp_path / "whole", spec)
    stop_after(step)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", spec, save_every=0.0)
    release()
    train_tiny(data, tmp_path / "cut", spec, resume=True, workers=2)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    results = json.loads((tmp_path / "cut" / "results.json").read_text())
    assert results["keep"] == "last" and results["step"] == results["steps"] and results["AP"] == results["last"]["AP"]


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
    for text in ("", '{"split": "va'):  # a disk that was full, a copy that was cut: written again
        (tmp_path / "results.json").write_text(text)
        assert train_tiny(data, tmp_path, resume=True).results["steps"] == 15


def test_results_missing_after_a_kill_are_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the last checkpoint and results.json; and fewer epochs are not silently ignored."""
    train_tiny(data, tmp_path)
    before = outcome(tmp_path)
    (tmp_path / "results.json").unlink()
    capsys.readouterr()
    train_tiny(data, tmp_path, resume=True, epochs=2, progress=True)
    assert outcome(tmp_path) == before
    assert "complete (finished) after 3 epochs; for more, raise --epochs" in capsys.readouterr().err


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
    checkpoint.save(tmp_path / "checkpoints", 0, Content(weights, {}, {}, {"imported": "x"}, described))
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
        ({"seed": 1}, r"--seed was 0 and is 1.*--accept seed"),
        ({"batch": 8}, r"--batch was 4 and is 8.*--accept batch"),
        ({"limit": 20}, r"the training data changed.*: 2 images were removed \(train-20.jpg, train-21.jpg\).*data$"),
        ({"precision": "bf16"}, r"--precision 32.*--accept precision"),
        ({"val": "train"}, r"the validation data changed.*18 images were added.*train.json, and was.*--accept val"),
        ({"epochs": 1}, r"--epochs 1 is 5 iterations, and the run has done 5"),
        ({"overrides": ["fit.lr=0.01"]}, r"fit.lr was 0.05 and is 0.01.*--accept recipe"),
        ({"overrides": ["dropout=0.2"]}, r"dropout was 0.1 and is 0.2. Resume with the same settings"),
        ({"overrides": ["fit.solver=AdamW()"], "accept": ["recipe"]}, r"fit.solver was SGD"),
        ({"overrides": ["fit.ema=None"], "accept": ["recipe"]}, r"fit.ema was 0.9 and is None"),
        ({"overrides": ["fit.epochs=9"], "accept": ["recipe"]}, r"give --epochs 9"),
        ({"accept": ["dta"]}, r"'dta' is unknown. Did you mean data"),
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
        train_tiny(data, tmp_path, resume=True, parts=[TinySpec], **options)


def edited(data: Path, folder: Path) -> Path:
    """The same dataset with an image less, one more, an object moved, an object less, and a file replaced."""
    shutil.copytree(data, folder)
    doc = json.loads((folder / "train.json").read_text())
    shutil.copy(folder / "train-1.jpg", folder / "new.jpg")
    doc["images"] = [*doc["images"][1:], {"id": 99, "file_name": "new.jpg", "width": 40, "height": 40}]
    doc["annotations"] = doc["annotations"][1:-1]
    doc["annotations"][2]["bbox"][0] += 1
    (folder / "train.json").write_text(json.dumps(doc))
    with (folder / "train-5.jpg").open("ab") as file:
        file.write(b"more")
    return folder


def test_changed_data_is_told_and_accepted_on_purpose(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny(data, tmp_path / "run")
    changed = edited(data, tmp_path / "changed")
    whole = (
        r"the training data changed since the run began: 1 image was added \(new\.jpg\); "
        r"1 image was removed \(train-0\.jpg\); 2 images have other objects \(train-3\.jpg: 1 object, not the same; "
        r"train-21\.jpg: 1 object, now 0\); 1 image file was replaced \(train-5\.jpg: \d+ bytes, now \d+\); .*; "
        r"it had 22 images with 22 objects, and has 22 images with 20 objects\. .*--resume --accept data"
    )
    with pytest.raises(UsageError, match=whole):
        train_tiny(changed, tmp_path / "run", resume=True, epochs=4)
    capsys.readouterr()
    run = train_tiny(changed, tmp_path / "run", resume=True, epochs=4, accept=["data"], progress=True)
    assert run.results["steps"] == 20
    assert "accepted: the training data changed" in capsys.readouterr().err
    record = json.loads((run.path / "run.json").read_text())
    (entry,) = record["resumed"]
    assert entry["after"] == 15 and entry["epochs"] == {"before": None, "after": 4}
    assert list(entry["changes"]) == ["data"]
    assert record["data_sets"]["train"]["objects"] == 20
    train_tiny(changed, tmp_path / "run", resume=True, epochs=5)  # nothing has changed since


def test_replaced_image_file_is_told_although_the_annotations_are_the_same(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    train_tiny(tmp_path / "data", tmp_path / "run")
    image = tmp_path / "data" / "train-7.jpg"
    image.write_bytes(image.read_bytes() + b"1234")
    with pytest.raises(UsageError, match=r"1 image file was replaced \(train-7\.jpg: \d+ bytes, now \d+\)"):
        train_tiny(tmp_path / "data", tmp_path / "run", resume=True, epochs=4)
    train_tiny(tmp_path / "data", tmp_path / "run", resume=True, epochs=4, accept=["data"])
    train_tiny(tmp_path / "data", tmp_path / "run", resume=True, epochs=5)


def test_a_run_without_a_list_of_its_images_tells_the_totals(data: Path, tmp_path: Path) -> None:
    """It was begun by an earlier version."""
    train_tiny(data, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "data_sets")
    changed = edited(data, tmp_path / "changed")
    with pytest.raises(UsageError, match=r"it had 22 images with 22 objects, and has 22 images with 20 objects; .* no"):
        train_tiny(changed, tmp_path / "run", resume=True, epochs=4)


def test_other_validation_data_starts_a_new_best(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny(data, tmp_path)
    train_tiny(data, tmp_path, resume=True, epochs=4, val=data / "train.json", accept=["val"], progress=True)
    assert "was chosen on other validation data; the next validation makes a new one" in capsys.readouterr().err
    state = json.loads((tmp_path / "checkpoints/last/state.json").read_text())
    assert state["best"] == 20


def test_other_classes_are_refused_even_on_purpose(data: Path, tmp_path: Path) -> None:
    train_tiny(data, tmp_path / "run")
    other = make_data(tmp_path / "data", train=22)
    text = (other / "train.json").read_text()
    (other / "train.json").write_text(text.replace('"green"', '"blue"'))
    with pytest.raises(UsageError, match=r"classes red, green; the data has red, blue\. Name the same.*--weights"):
        train_tiny(other, tmp_path / "run", resume=True, epochs=4, accept=["data", "val"])


def test_data_divided_by_the_run_stays_divided(data: Path, tmp_path: Path) -> None:
    """One image more would move others from validation to training, had the set been divided again."""
    both = make_data(tmp_path / "data", train=22)
    train_tiny(both, tmp_path / "run", val=None)
    before = json.loads((tmp_path / "run" / "run.json").read_text())["divided"]
    shutil.copy(both / "train-1.jpg", both / "new.jpg")
    doc = json.loads((both / "train.json").read_text())
    doc["images"].append({"id": 99, "file_name": "new.jpg", "width": 40, "height": 40})
    (both / "train.json").write_text(json.dumps(doc))
    with pytest.raises(UsageError, match=r"the training data changed[^;]*: 1 image was added \(new\.jpg\); it had"):
        train_tiny(both, tmp_path / "run", val=None, resume=True, epochs=4)
    train_tiny(both, tmp_path / "run", val=None, resume=True, epochs=4, accept=["data"])
    after = json.loads((tmp_path / "run" / "run.json").read_text())["divided"]
    assert after == {"train": [*before["train"], 99], "val": before["val"]}
    assert [r.id for r in validation_set(read_record(tmp_path / "run")).records] == before["val"]


def test_accept_is_for_resuming(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--accept: is for a run that is resumed. Add --resume"):
        train_tiny(data, tmp_path, accept=["data"])


# ------------------------------------------------------------------------------------------------- longer runs
def test_a_finished_run_goes_on_for_more_epochs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(data, tmp_path)
    capsys.readouterr()
    run = train_tiny(data, tmp_path, resume=True, epochs=5, progress=True)
    told = capsys.readouterr().err
    assert "planned for 3 epochs (15 iterations) and is now planned for 5 (25): its Cosine schedule" in told
    assert "ended with a learning rate of 0.000546 and continues with 0.0173" in told  # .05 (1 + cos(pi 15 / 25)) / 2
    assert run.results["steps"] == 25
    rates = [json.loads(line).get("lr") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [round(rate, 5) for rate in rates if rate][-1] == pytest.approx(0.0002, abs=1e-4)  # to the end of the cosine
    before = outcome(tmp_path)
    train_tiny(data, tmp_path, resume=True, epochs=5)
    assert outcome(tmp_path) == before, "the same command again asks for no more"
    assert json.loads((tmp_path / "run.json").read_text())["resumed"] == [
        {"after": 15, "changes": {}, "epochs": {"before": None, "after": 5}}
    ]


def test_an_extended_run_that_is_killed_resumes_bit_equal(
    data: Path, tmp_path: Path, stop_after: Any, release: Any
) -> None:
    for name in ("whole", "cut"):
        train_tiny(data, tmp_path / name)
    train_tiny(data, tmp_path / "whole", resume=True, epochs=5)
    stop_after(18)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", resume=True, epochs=5, save_every=0.0)
    release()
    train_tiny(data, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_an_unfinished_run_becomes_longer_or_shorter(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    for name, epochs in (("longer", 4), ("shorter", 2)):
        stop_after(7)
        with pytest.raises(Stop):
            train_tiny(data, tmp_path / name, save_every=0.0)
        release()
        assert train_tiny(data, tmp_path / name, resume=True, epochs=epochs).results["steps"] == 5 * epochs


def test_a_recipe_and_a_batch_change_on_purpose(data: Path, tmp_path: Path, stop_after: Any, release: Any) -> None:
    stop_after(7)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path, save_every=0.0)
    release()
    overrides = ["fit.lr=0.02", "fit.val_every=2", "fit.solver.weight_decay=0.0"]
    options: dict[str, Any] = {"overrides": overrides, "batch": 2, "accept": ["recipe", "batch"], "parts": [TinySpec]}
    run = train_tiny(data, tmp_path, resume=True, **options)
    # an epoch had 5 iterations and now has 11: 7 of 15 are 11 + 2 x 11 // 5 = 15 of 33
    assert run.results["steps"] == 7 + 33 - 15
    record = json.loads((tmp_path / "run.json").read_text())
    assert list(record["resumed"][0]["changes"]) == ["recipe", "batch"]
    assert "lr=0.02" in record["spec"] and record["batch_size"] == 2


def test_a_time_limit_on_resuming_ends_the_session_and_not_the_run(
    data: Path, tmp_path: Path, stop_after: Any, release: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train_tiny(data, tmp_path / "whole")
    stop_after(2)
    with pytest.raises(Stop):
        train_tiny(data, tmp_path / "cut", save_every=0.0)
    release()
    for step in (3, 4):
        train_tiny(data, tmp_path / "cut", resume=True, max_time=1e-3, progress=True)  # an iteration, at least
        assert f"stopped after iteration {step}, which is saved: continue with --resume" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "results.json").exists()
    run = train_tiny(data, tmp_path / "cut", resume=True)
    assert run.results["steps"] == whole.results["steps"] and run.results["ended"] == "finished"
    a, b = (checkpoint.find_checkpoint(each.last) / "model.safetensors" for each in (whole, run))
    assert a.read_bytes() == b.read_bytes()


def test_a_timed_run_is_extended_by_a_longer_limit(data: Path, tmp_path: Path) -> None:
    first = train_tiny(data, tmp_path, max_time=2.0)
    steps = first.results["steps"]
    again = train_tiny(data, tmp_path, resume=True, max_time=2.0)
    assert again.results["steps"] == steps, "the same limit asks for no more"
    longer = train_tiny(data, tmp_path, resume=True, max_time=4.0)
    assert longer.results["steps"] > steps
    epochs = longer.results["steps"] // 5 + 2
    assert train_tiny(data, tmp_path, resume=True, epochs=epochs).results["steps"] == 5 * epochs


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
