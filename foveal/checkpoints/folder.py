"""Checkpoints: a folder that is either whole or refused.

``step-N/`` is written under a temporary name, synced and renamed. Inside, without any pickle:

    model.safetensors       the weights to use (the averaged ones where there is an average)
    raw.safetensors         the weights under training, where they are not the ones to use
    optimizer.safetensors   the solver's tensors, named ``parameter/buffer``
    state.json              where the training stands
    spec.json               schema number, spec, class names, versions
    SHA256SUMS              the hash of every other file, as ``sha256sum`` writes it

Verification compares ``SHA256SUMS`` byte for byte with what the files say now, so any cut or flipped byte in any
file, the list itself included, is found.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import FovealError, UsageError
from ..files.atomic import read_object, replace_folder, restore_folders, sync_folder, write_synced

SCHEMA = 1
SUMS = "SHA256SUMS"
MODEL, RAW, OPTIMIZER, STATE, SPEC = (
    "model.safetensors",
    "raw.safetensors",
    "optimizer.safetensors",
    "state.json",
    "spec.json",
)
FILES = {MODEL, RAW, OPTIMIZER, STATE, SPEC}
Tensors = Mapping[str, Tensor]
JSON = dict[str, Any]


class DamagedCheckpoint(FovealError):
    """A checkpoint whose files are not what was written."""


@dataclass(frozen=True)
class Content:
    """All that a checkpoint holds. ``raw`` and ``optimizer`` may be empty."""

    model: Tensors
    raw: Tensors
    optimizer: Tensors
    state: JSON
    spec: JSON


@dataclass(frozen=True)
class Loaded:
    """A checkpoint for use."""

    text: str  # the spec as text, which stands alone
    classes: tuple[str, ...]
    state_dict: dict[str, Tensor]
    meta: JSON  # spec.json and, under "state", state.json
    path: Path  # the ``step-N`` folder

    @property
    def spec(self) -> Any:
        """The spec, parsed; a detector is ``spec.build(classes)``."""
        from ..config.parse import parse_spec

        return parse_spec(self.text)


# ---------------------------------------------------------------------------------------------- writing
def save(folder: Path, step: int, content: Content) -> Path:
    """Writes ``folder/step-N`` whole or not at all, and points ``last`` at it.

    Raises :class:`FovealError` where the disk is full or refuses; nothing half-written stays behind.
    """
    final, temporary = folder / f"step-{step}", folder / f".writing-step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        sums: dict[str, str] = {}
        for name, data in _serialized(content):
            sums[name] = hashlib.sha256(data).hexdigest()
            write_synced(temporary / name, data)
        write_synced(temporary / SUMS, _sums_text(sums))
        sync_folder(temporary)
        replace_folder(temporary, final)
        point(folder, "last", step)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise FovealError(
                "no space left for the checkpoint",
                path=final,
                fix="Free some space, then go on with --resume; the checkpoints before it are whole",
            ) from error
        raise FovealError(f"cannot write the checkpoint: {error.strerror}", path=final) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def point(folder: Path, name: str, step: int) -> None:
    """Makes the link ``name`` show ``step-N``, in one atomic exchange."""
    temporary = folder / f".{name}-link"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"step-{step}")
    os.replace(temporary, folder / name)
    sync_folder(folder)


def prune(folder: Path, keep: Iterable[int]) -> None:
    """Removes every checkpoint but these steps, and what an interrupted write left."""
    wanted = {f"step-{n}" for n in keep}
    for entry in folder.iterdir():
        leftover = entry.name.startswith((".writing-step-", ".old-step-"))
        if leftover or (_step_of(entry) is not None and entry.name not in wanted):
            shutil.rmtree(entry, ignore_errors=True)


def check_space(folder: Path, tensors: Iterable[Tensor], copies: int) -> None:
    """Refuses to start where the checkpoints that will lie side by side cannot fit.

    ``copies`` is how many times the given tensors go into one checkpoint (weights, average, solver buffers).
    """
    size = copies * sum(t.numel() * t.element_size() for t in tensors)
    needed = 4 * size + (16 << 20)  # the last two, the best, the one being written; and the logs
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FovealError(
            f"{free / 1e6:.0f} MB are free, and the checkpoints of this run need {needed / 1e6:.0f} MB",
            path=folder,
            fix="Free some space or choose another --out",
        )


# ---------------------------------------------------------------------------------------------- reading
def verify(path: Path) -> None:
    """Raises :class:`DamagedCheckpoint`, naming file and reason, unless every byte is as written."""
    try:
        listed = (path / SUMS).read_bytes()
        names = sorted(p.name for p in path.iterdir() if p.name != SUMS)
        sums = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        where = Path(error.filename or path).name
        raise DamagedCheckpoint(f"cannot be read: {error.strerror}", path=path, where=where) from error
    if listed == _sums_text(sums):
        return
    where, reason = _blame(listed, sums)
    raise DamagedCheckpoint(reason, path=path, where=where)


def read(path: Path) -> Content:
    """Everything in one ``step-N`` folder, after :func:`verify`."""
    verify(path)
    spec = _json(path / SPEC)
    if spec.get("schema", 0) > SCHEMA:
        raise FovealError(
            f"schema {spec['schema']} was written by a newer foveal (this one reads up to {SCHEMA})",
            path=path,
            where=SPEC,
            fix="Update foveal",
        )
    raw = _tensors(path / RAW) if (path / RAW).exists() else {}
    return Content(_tensors(path / MODEL), raw, _tensors(path / OPTIMIZER), _json(path / STATE), spec)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, rising. Repairs an exchange that was interrupted half-way."""
    if not folder.is_dir():
        return []
    restore_folders(folder, "step-*")
    return sorted(n for n in map(_step_of, folder.iterdir()) if n is not None)


def newest(folder: Path) -> tuple[int, Content, list[DamagedCheckpoint]] | None:
    """The newest whole checkpoint, with what was wrong with those after it. None: there is no checkpoint.

    Raises :class:`FovealError` where there are checkpoints and every one is damaged.
    """
    damaged: list[DamagedCheckpoint] = []
    for step in reversed(steps(folder)):
        try:
            return step, read(folder / f"step-{step}"), damaged
        except DamagedCheckpoint as error:
            damaged.append(error)
    if damaged:
        reasons = "; ".join(str(e) for e in damaged)
        raise FovealError(f"every checkpoint is damaged: {reasons}", path=folder, fix="Remove the folder to start anew")
    return None


def find(path: str | Path) -> Path:
    """The ``step-N`` folder meant by a run folder (its best, else its last), a checkpoint folder or a link."""
    given = Path(path)
    for candidate in (given, given / "checkpoints" / "best", given / "checkpoints" / "last"):
        if (candidate / SUMS).exists() or (candidate / MODEL).exists():
            return candidate.resolve()
    if (given / "checkpoints").is_dir() and (found := steps(given / "checkpoints")):
        return (given / "checkpoints" / f"step-{found[-1]}").resolve()
    if (given / "run.json").exists():
        raise FovealError("the run has no checkpoint yet", path=given)
    raise UsageError("no run and no checkpoint", path=given, fix="Give a run folder or one of its checkpoints")


def load_checkpoint(path: str | Path) -> Loaded:
    """Verifies and loads the weights to use.

    ``path`` is a run folder (its best checkpoint), a ``step-N`` folder or a link to one. Raises
    :class:`DamagedCheckpoint` naming the file, or :class:`UsageError` where there is nothing to load. Weights are never
    taken from another checkpoint than the one meant.
    """
    folder = find(path)
    content = read(folder)
    meta = {**content.spec, "state": content.state}
    return Loaded(content.spec["spec"], tuple(content.spec["classes"]), dict(content.model), meta, folder)


# ----------------------------------------------------------------------------------------------- inside
def _serialized(content: Content) -> Iterable[tuple[str, bytes]]:
    yield MODEL, _bytes(content.model)
    if content.raw:
        yield RAW, _bytes(content.raw)
    yield OPTIMIZER, _bytes(content.optimizer)
    yield STATE, _json_bytes(content.state)
    yield SPEC, _json_bytes({"schema": SCHEMA, **content.spec})


def _bytes(tensors: Tensors) -> bytes:
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage (tied weights): the second becomes a copy
        plain[name] = flat.clone() if flat.data_ptr() in seen else flat
        seen.add(flat.data_ptr())
    return safetensors.torch.save(plain)


def _json_bytes(value: JSON) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")


def _json(path: Path) -> JSON:
    value: JSON = json.loads(path.read_bytes())
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise DamagedCheckpoint(f"not a safetensors file: {error}", path=path.parent, where=path.name) from error


def _sums_text(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match and not path.is_symlink() and path.is_dir() else None


def _blame(listed: bytes, sums: Mapping[str, str]) -> tuple[str, str]:
    """Which file of a damaged checkpoint is at fault, and how."""
    lines = listed.decode("ascii", "replace").splitlines()
    pairs = [re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+)", line) for line in lines]
    then = {pair[2]: pair[1] for pair in pairs if pair}
    if not all(pairs) or not {MODEL, OPTIMIZER, STATE, SPEC} <= then.keys() <= FILES:
        return SUMS, "the list of hashes is damaged"
    for name, digest in then.items():
        if name not in sums:
            return name, "the file is missing"
        if digest != sums[name]:
            return name, f"the file is damaged: its SHA-256 is {sums[name][:12]}..., {SUMS} says {digest[:12]}..."
    extra = sorted(sums.keys() - then.keys())
    return (extra[0], f"the file is not in {SUMS}") if extra else (SUMS, "the list of hashes is damaged")


def remove(path: Path) -> None:
    """A folder and all in it, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """A run folder. With several seeds: the folder above theirs, and ``runs`` are they."""

    path: Path
    runs: tuple[Run, ...] = ()

    @property
    def results(self) -> dict[str, Any]:
        """``results.json``: the validation of the best weights, and under ``last`` that of the last ones; with several
        seeds the mean of the last weights, ``spread`` and ``runs``."""
        return read_object(self.path / "results.json")

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation AP."""
        return self.path / "checkpoints" / "best"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last"
