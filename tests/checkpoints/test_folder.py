"""Checkpoint folders: complete or rejected, whatever happens to their files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.checkpoints import content as contents
from foveal.checkpoints import folder as checkpoint
from foveal.checkpoints.content import Content
from foveal.checkpoints.folder import DamagedCheckpoint
from foveal.errors import FovealError, UsageError


def content(value: float = 0.0, *, raw: bool = True) -> Content:
    generator = torch.Generator().manual_seed(1)
    weights = {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last) + value,
        "norm.num_batches_tracked": torch.tensor(7),
        "half": torch.ones(5, dtype=torch.bfloat16),
    }
    return Content(
        model=weights,
        raw={k: v + 1 for k, v in weights.items()} if raw else {},
        optimizer={"conv.weight/momentum_buffer": torch.zeros(4, 3, 3, 3)},
        state={"step": 3, "best_results": None, "class": "Müller"},
        spec={"spec": "Tiny(a=1)", "classes": ["cat", "dog"], "versions": {"torch": "2"}},
    )


def test_checkpoint_round_trips(tmp_path: Path) -> None:
    written = content()
    path = checkpoint.save(tmp_path, 3, written)
    found = checkpoint.read(path)
    for name in ("model", "raw", "optimizer"):
        before, after = getattr(written, name), getattr(found, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert found.state == written.state
    assert found.spec == {"schema": contents.SCHEMA, **written.spec}
    assert (tmp_path / "last").resolve() == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-3"]


def test_weights_file_holds_only_weights(tmp_path: Path) -> None:
    """The same bytes for every time and folder of writing."""
    a = checkpoint.save(tmp_path / "a", 3, content())
    b = checkpoint.save(tmp_path / "elsewhere" / "b", 900, content())
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def test_checksum_list_is_readable_by_sha256sum(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, content())
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, check=True)
    assert done.stdout.count(b": OK") == 5


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    shared = torch.randn(3)
    path = checkpoint.save(tmp_path, 1, Content({"a": shared, "b": shared}, {}, {}, {}, {"spec": "", "classes": []}))
    assert torch.equal(checkpoint.read(path).model["b"], shared)


def _damage(path: Path, kind: str, rng: np.random.Generator) -> str:
    """Truncates one file or flips one of its bytes, all files equally likely; returns the file's name."""
    target = sorted(path.iterdir())[rng.integers(6)]
    data = bytearray(target.read_bytes())
    place = int(rng.integers(len(data)))
    if kind == "cut":
        data = data[:place]
    else:
        data[place] ^= 1 << int(rng.integers(8))
    target.write_bytes(data)
    return target.name


@pytest.mark.parametrize("kind", ["cut", "flip"])
def test_damage_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(5)
    checkpoint.save(tmp_path / "whole", 10, content(1.0))
    checkpoint.save(tmp_path / "whole", 20, content(2.0))
    for trial in range(100):
        folder = tmp_path / str(trial)
        shutil.copytree(tmp_path / "whole", folder, symlinks=True)
        path = folder / "step-20"
        name = _damage(path, kind, rng)
        with pytest.raises(DamagedCheckpoint) as refused:
            checkpoint.load_checkpoint(path)
        assert str(path) in str(refused.value)
        assert name in str(refused.value), "the damaged file is the one named"
        assert str(refused.value).endswith(f"take another checkpoint of {folder}: step-10")
        found = checkpoint.newest(folder)
        assert found is not None
        step, whole, damaged = found
        assert step == 10
        assert torch.equal(whole.model["conv.weight"], content(1.0).model["conv.weight"])
        assert [str(e.path) for e in damaged] == [str(path)]


@pytest.mark.parametrize("place", range(12))
def test_a_damaged_state_never_chooses_the_best_checkpoint_unsaid(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One digit of "best" in the newest state: 20 becomes 10, which exists as well. Or any other byte of its file."""
    for step, best in ((10, 10), (20, 20), (30, 20)):
        checkpoint.save(tmp_path / "checkpoints", step, replace(content(step), state={"step": step, "best": best}))
    state = tmp_path / "checkpoints" / "step-30" / "state.json"
    data = state.read_bytes()
    damaged = data.replace(b"20", b"10") if place == 0 else data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    state.write_bytes(damaged)
    assert checkpoint.find_checkpoint(tmp_path).name == "step-20", "as the state before it says"
    assert "state.json: is damaged, and names the best checkpoint of the run" in caplog.text


def test_files_that_cannot_be_read_now_are_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(tmp_path, 3, content())

    def refused(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(FovealError, match=r"step-3: SHA256SUMS: cannot be read: Permission denied") as caught:
        checkpoint.newest(tmp_path)
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert path.exists()


def test_last_byte_of_the_checksum_list_is_verified(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, content())
    sums = path / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpoint, match="SHA256SUMS"):
        checkpoint.verify(path)


def test_missing_and_extra_files_are_named(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, content())
    (path / "notes.txt").write_text("hello")
    with pytest.raises(DamagedCheckpoint, match=r"notes\.txt"):
        checkpoint.verify(path)
    (path / "notes.txt").unlink()
    (path / "raw.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"raw\.safetensors: the file is missing"):
        checkpoint.verify(path)


def test_all_damaged_is_an_error_and_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nothing") is None
    for step in (1, 2):
        path = checkpoint.save(tmp_path, step, content())
        (path / "state.json").write_text("{}")
    with pytest.raises(FovealError, match=r"every checkpoint is damaged.*step-2.*step-1"):
        checkpoint.newest(tmp_path)


def _with_schema(path: Path, schema: Any) -> None:
    """The checkpoint as another version of foveal would have written it."""
    spec = json.loads((path / "spec.json").read_text()) | {"schema": schema}
    (path / "spec.json").write_text(json.dumps(spec))
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir() if p.name != "SHA256SUMS"}
    (path / "SHA256SUMS").write_text("".join(f"{sums[n]}  {n}\n" for n in sorted(sums)))


def test_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, content())
    path = checkpoint.save(tmp_path, 2, content())
    _with_schema(path, contents.SCHEMA + 1)
    wanted = r"step-2: spec\.json: schema 2 was written by a newer foveal; this one reads .*Update foveal, or export"
    for call in (lambda: checkpoint.load_checkpoint(path), lambda: checkpoint.newest(tmp_path)):
        with pytest.raises(FovealError, match=wanted) as caught:
            call()
        assert not isinstance(caught.value, DamagedCheckpoint), "the one before is not taken in its place"


@pytest.mark.parametrize("schema", [None, "1", 0, -1, 1.5, True])
def test_unknown_schema_is_refused(tmp_path: Path, schema: Any) -> None:
    path = checkpoint.save(tmp_path, 1, content())
    _with_schema(path, schema)
    with pytest.raises(FovealError, match=r"spec\.json: schema .* is unknown; this one reads schema 1 to 1"):
        checkpoint.load_checkpoint(path)


def test_an_earlier_schema_is_upgraded_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two schemas later: each upgrade gets what the one before it made."""
    path = checkpoint.save(tmp_path, 1, content())
    before = json.loads((path / "spec.json").read_text())["schema"]

    def first(old: Content) -> Content:
        return replace(old, state=old.state | {"seen": old.state["step"] * 2})

    def second(old: Content) -> Content:
        assert old.spec["schema"] == before + 1
        return replace(old, state=old.state | {"seen": old.state["seen"] + 1}, model={"new": old.model["half"]})

    monkeypatch.setattr(contents, "SCHEMA", before + 2)
    monkeypatch.setattr(contents, "UPGRADES", {before: first, before + 1: second})
    found = checkpoint.read(path)
    assert found.state["seen"] == 7 and list(found.model) == ["new"] and found.spec["schema"] == before + 2
    again = checkpoint.save(tmp_path, 2, found)
    assert json.loads((again / "spec.json").read_text())["schema"] == before + 2
    assert checkpoint.read(again).state == found.state


def test_accepted_paths(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2, 3):
        checkpoint.save(run / "checkpoints", step, content(step))
    expected = {"checkpoints/step-1": 1, "checkpoints/last": 3, ".": 3}
    for name, step in expected.items():
        assert checkpoint.load_checkpoint(run / name).path.name == f"step-{step}"
    checkpoint.save(run / "checkpoints", 3, replace(content(3), state={**content(3).state, "best": 2}))
    loaded = checkpoint.load_checkpoint(run)
    assert loaded.path.name == "step-2"
    assert loaded.text == "Tiny(a=1)"
    assert loaded.classes == ("cat", "dog")
    assert loaded.meta["state"]["step"] == 3
    with pytest.raises(UsageError, match="no run and no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        checkpoint.load_checkpoint(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FovealError, match="no checkpoint yet"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "links", ["as written", "not copied", "copied as folders", "copied as text", "not on this disk"]
)
def test_the_best_checkpoint_is_named_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: str) -> None:
    folder = tmp_path / "checkpoints"
    if links == "not on this disk":

        def refused(*arguments: Any, **options: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(Path, "symlink_to", refused)
    for step, best in ((1, None), (2, 2), (3, 2)):
        checkpoint.save(folder, step, replace(content(step), state={"step": step, "best": best}))
    checkpoint.point(folder, "best", 2)
    for name in ("best", "last") if links.startswith(("copied", "not copied")) else ():
        (folder / name).unlink()
        if links == "copied as folders":
            shutil.copytree(folder / "step-1", folder / name)  # of an earlier copy
        elif links == "copied as text":
            (folder / name).write_text("step-1")
    run = checkpoint.Run(tmp_path)
    assert checkpoint.find_checkpoint(tmp_path).name == run.best.name == "step-2"
    assert run.last.name == "step-3"
    (folder / "step-3" / "state.json").write_text("{")  # damaged: the checkpoint before it names the best of its time
    assert checkpoint.find_checkpoint(tmp_path).name == "step-2"
    shutil.rmtree(folder / "step-2")
    checkpoint.save(folder, 3, replace(content(3), state={"step": 3, "best": 2}))
    with pytest.raises(DamagedCheckpoint, match=r"step-2: the best checkpoint of the run is missing"):
        checkpoint.find_checkpoint(tmp_path)


def test_weights_are_never_taken_from_another_checkpoint(tmp_path: Path) -> None:
    run = tmp_path
    for step in (1, 2):
        path = checkpoint.save(run / "checkpoints", step, content(step))
    checkpoint.point(run / "checkpoints", "best", 2)
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"step-2.*model\.safetensors"):
        checkpoint.load_checkpoint(run)


def test_prune_keeps_the_requested_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, content())
    (tmp_path / ".writing-step-11").mkdir()
    (tmp_path / "mine").mkdir()
    checkpoint.prune(tmp_path, {1, 10})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "mine", "step-1", "step-10"]
    assert checkpoint.steps(tmp_path) == [1, 10]


def test_no_half_of_a_checkpoint_that_cannot_be_removed_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, content())

    def half(path: Path, ignore_errors: bool = False) -> None:
        (path / "model.safetensors").unlink()

    monkeypatch.setattr(checkpoint.shutil, "rmtree", half)
    checkpoint.prune(tmp_path, {2})
    assert checkpoint.steps(tmp_path) == [2]
    monkeypatch.undo()
    checkpoint.prune(tmp_path, {2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-2"]


def test_saving_the_same_step_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, content(1.0))
    path = checkpoint.save(tmp_path, 5, content(2.0))
    assert torch.equal(checkpoint.read(path).model["conv.weight"], content(2.0).model["conv.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-5"]


def test_interrupted_replacement_is_repaired(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, content())
    os.replace(path, tmp_path / ".old-step-5")
    assert checkpoint.steps(tmp_path) == [5]
    assert checkpoint.read(path).state["step"] == 3


@pytest.mark.parametrize("after", range(6))
def test_full_disk_leaves_no_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The write of each of the six files fails in turn, after some of its bytes."""
    checkpoint.save(tmp_path, 1, content())
    original, written = checkpoint.write_synced, 0

    def failing(path: Path, data: bytes) -> None:
        nonlocal written
        if written == after:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written += 1
        original(path, data)

    monkeypatch.setattr(checkpoint, "write_synced", failing)
    with pytest.raises(FovealError, match=r"no space left.*--resume"):
        checkpoint.save(tmp_path, 2, content())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-1"]
    assert (tmp_path / "last").resolve().name == "step-1"


def test_space_is_checked_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100_000_000

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: Usage)
    weights = [torch.zeros(1_000_000)]  # 4 MB
    checkpoint.check_space(tmp_path, weights, copies=3)  # 4 x 12 MB and the logs' 16.8 MB
    with pytest.raises(FovealError, match=r"100 MB are free.*need 113 MB"):
        checkpoint.check_space(tmp_path, weights, copies=6)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, content())
    kinds: dict[str, Any] = {p.name: p.read_bytes()[:2] for p in path.iterdir()}
    assert not any(start in (b"\x80\x04", b"\x80\x02", b"PK") for start in kinds.values())
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json", ""}
