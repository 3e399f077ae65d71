"""Checkpoint folders: written whole or not at all, verified by hash when read.

``step-N/`` is written under a temporary name, synced and renamed. Inside, without any pickle:

    model.safetensors       the weights to use (the averaged ones where there is an average)
    raw.safetensors         the weights under training, where they are not the ones to use
    optimizer.safetensors   the optimizer's tensors, named ``parameter/buffer``
    state.json              the progress of the training run
    spec.json               schema number, spec, class names, versions
    SHA256SUMS              the hash of every other file, as ``sha256sum`` writes it

Verification compares ``SHA256SUMS`` byte for byte with the hashes of the files, so any truncation or flipped byte in
any file, the list itself included, is detected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import FovealError, UsageError
from ..files.atomic import read_object, replace_folder, restore_folders, sync_folder, write_synced, writing
from .content import MODEL, OPTIMIZER, RAW, SPEC, STATE, SUMS, Content, blame, is_listed, sums_text, upgraded

CONFIG = "config.json"  # of a Hugging Face folder
UNREADABLE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # now, and whole all the same


class DamagedCheckpoint(FovealError):
    """A checkpoint whose files differ from what was written."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read for inference."""

    text: str  # the spec as text
    classes: tuple[str, ...]
    state_dict: dict[str, Tensor]
    meta: dict[str, Any]  # spec.json and, under "state", state.json
    path: Path  # the ``step-N`` folder

    @property
    def spec(self) -> Any:
        """The spec, parsed; a detector is ``spec.build(classes)``."""
        return self.parsed()

    def parsed(self, parts: Sequence[type] = ()) -> Any:
        """The spec, whose text may name ``parts`` of one's own."""
        from ..config.parse import parse_spec, stored_modules

        return parse_spec(self.text, parts=parts, modules=stored_modules(self.meta))


# ---------------------------------------------------------------------------------------------- writing
def save(folder: Path, step: int, content: Content) -> Path:
    """Writes ``folder/step-N`` whole or not at all, and links ``last`` to it.

    Raises :class:`FovealError` where the disk is full or refuses; nothing partial remains.
    """
    final, temporary = folder / f"step-{step}", folder / f".writing-step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        sums: dict[str, str] = {}
        for name, data in content.files():
            sums[name] = hashlib.sha256(data).hexdigest()
            write_synced(temporary / name, data)
        write_synced(temporary / SUMS, sums_text(sums))
        sync_folder(temporary)
        replace_folder(temporary, final)
        point(folder, "last", step)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise FovealError(
                "no space left for the checkpoint",
                path=final,
                fix="Free some space, then continue with --resume; the checkpoints before it are whole",
            ) from error
        raise FovealError(f"cannot write the checkpoint: {error.strerror}", path=final) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def point(folder: Path, name: str, step: int) -> None:
    """Makes the link ``name`` point to ``step-N``, atomically; a convenience, which not every disk has."""
    temporary = folder / f".{name}-link"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"step-{step}")
        os.replace(temporary, folder / name)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        unpoint(folder, name)
        return
    with writing(folder / name):
        sync_folder(folder)


def unpoint(folder: Path, name: str) -> None:
    """Removes the link ``name``, if there is one that can be removed: it must not point to another checkpoint."""
    link = folder / name
    with suppress(OSError):  # it may be the copy of a link: a folder, or a file with the name of one
        shutil.rmtree(link) if link.is_dir() and not link.is_symlink() else link.unlink(missing_ok=True)


def prune(folder: Path, keep: Iterable[int]) -> None:
    """Removes every checkpoint except these steps, and the remains of an interrupted write.

    A checkpoint loses its name first: where its files cannot all be removed, no half of it is left under that name.
    """
    kept = {f"step-{n}" for n in keep}
    for entry in folder.iterdir():
        leftover = entry.name.startswith((".writing-step-", ".old-step-", ".removed-step-"))
        if not leftover and _step_of(entry) is not None and entry.name not in kept:
            removed = entry.with_name(f".removed-{entry.name}")
            with suppress(OSError):  # it stays, whole
                os.replace(entry, removed)
                shutil.rmtree(removed, ignore_errors=True)
        elif leftover:
            shutil.rmtree(entry, ignore_errors=True)


def check_space(folder: Path, tensors: Iterable[Tensor], copies: int) -> None:
    """Raises :class:`FovealError` where the disk has no room for the checkpoints that exist at the same time.

    ``copies``: how many times the given tensors go into one checkpoint (weights, average, optimizer buffers).
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
    """Raises :class:`DamagedCheckpoint` with the file and the reason unless every byte is as written, and
    :class:`FovealError` where the files cannot be read at present."""
    try:
        listed = (path / SUMS).read_bytes()
        names = sorted(p.name for p in path.iterdir() if p.name != SUMS)
        sums = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        where, reason = Path(error.filename or path).name, f"cannot be read: {error.strerror}"
        if error.errno in UNREADABLE:
            fix = "Change its permissions" if isinstance(error, PermissionError) else "Try again"
            raise FovealError(reason, path=path, where=where, fix=fix) from error
        raise DamagedCheckpoint(reason, path=path, where=where) from error
    if listed == sums_text(sums):
        return
    where, reason = blame(listed, sums)
    raise DamagedCheckpoint(reason, path=path, where=where)


def _others(path: Path) -> str:
    """The way out of a damaged checkpoint: the others of its run, newest first."""
    named = [f"step-{n}" for n in reversed(steps(path.parent)) if path.name != f"step-{n}"]
    return f"Copy it again, or take another checkpoint of {path.parent}: {', '.join(named)}" if named else ""


def read(path: Path) -> Content:
    """Everything in one ``step-N`` folder, after :func:`verify`."""
    verify(path)
    spec: dict[str, Any] = json.loads((path / SPEC).read_bytes())
    raw = _tensors(path / RAW) if (path / RAW).exists() else {}
    state: dict[str, Any] = json.loads((path / STATE).read_bytes())
    return upgraded(Content(_tensors(path / MODEL), raw, _tensors(path / OPTIMIZER), state, spec), path)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending. Repairs an interrupted replacement of a folder."""
    if not folder.is_dir():
        return []
    restore_folders(folder, "step-*")
    return sorted(n for n in map(_step_of, folder.iterdir()) if n is not None)


def newest(folder: Path) -> tuple[int, Content, list[DamagedCheckpoint]] | None:
    """Step and content of the newest whole checkpoint, and the damage of those after it. None: there is no checkpoint.

    Raises :class:`FovealError` where every checkpoint is damaged.
    """
    damaged: list[DamagedCheckpoint] = []
    for step in reversed(steps(folder)):
        try:
            return step, read(folder / f"step-{step}"), damaged
        except DamagedCheckpoint as error:
            damaged.append(error)
    if damaged:
        message = f"every checkpoint is damaged: {'; '.join(map(str, damaged))}"
        raise FovealError(message, path=folder, fix="Remove the folder to restart")
    return None


def find_checkpoint(path: str | Path) -> Path:
    """The ``step-N`` folder of a run folder (its best, else its last), a checkpoint folder or a link."""
    given = Path(path)
    if (given / SUMS).exists() or (given / MODEL).exists():
        return given.resolve()
    if found := steps(given / "checkpoints"):
        return (given / "checkpoints" / f"step-{_best(given / 'checkpoints', found)}").resolve()
    if (given / "run.json").exists():
        raise FovealError("the run has no checkpoint yet", path=given)
    from ..weights.reading.kinds import WEIGHTS_SUFFIXES, folder_kind

    what, fix = folder_kind(given), "Give a run folder or one of its checkpoints"
    if files := sorted(file.name for file in given.glob("*") if file.suffix.lower() in WEIGHTS_SUFFIXES)[:3]:
        fix = f"Give one of its weights files: {', '.join(files)}"
    is_plain = what == "a folder"
    raise UsageError(
        "no run and no checkpoint" if is_plain else f"is {what}, no run and no checkpoint", path=given, fix=fix
    )


def _best(folder: Path, found: Sequence[int]) -> int:
    """The step with the best validation AP, which the state of the newest checkpoint names; else the newest.

    Copies of a run need not have its links. Raises :class:`DamagedCheckpoint` where the best checkpoint is gone.
    """
    for step in reversed(found):
        path = folder / f"step-{step}"
        if not is_listed(path, STATE):
            text = "%s: is damaged, and names the best checkpoint of the run; the one that an earlier one names is used"
            logging.getLogger("foveal").warning(text, path / STATE)
            continue
        best = read_object(path / STATE).get("best")
        if best is not None and best not in found:
            fix = f"Copy the run with it, or name another checkpoint, as {folder / f'step-{step}'}"
            raise DamagedCheckpoint("the best checkpoint of the run is missing", path=folder / f"step-{best}", fix=fix)
        return step if best is None else int(best)
    return found[-1]


def is_hub_folder(path: Path) -> bool:
    """Whether it has a ``config.json`` and is not one of our own checkpoints."""
    return (path / CONFIG).is_file() and not (path / "SHA256SUMS").exists()


def load_checkpoint(path: str | Path) -> Loaded:
    """Verifies and loads a checkpoint's weights for inference.

    ``path``: a run folder (its best checkpoint), a ``step-N`` folder or a link to one. Raises
    :class:`DamagedCheckpoint` with the file, or :class:`UsageError` where there is nothing to load. Another checkpoint
    is never loaded in its place.
    """
    folder = find_checkpoint(path)
    try:
        content = read(folder)
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(error.message, path=error.path, where=error.where, fix=_others(folder)) from error
    meta = {**content.spec, "state": content.state}
    return Loaded(content.spec["spec"], tuple(content.spec["classes"]), dict(content.model), meta, folder)


# ----------------------------------------------------------------------------------------------- inside
def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise DamagedCheckpoint(f"not a safetensors file: {error}", path=path.parent, where=path.name) from error


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match and not path.is_symlink() and path.is_dir() else None


def remove(path: Path) -> None:
    """Removes a folder with its contents, if it exists."""
    shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """A run folder. With several seeds: the folder that holds one for each, in ``runs``."""

    path: Path
    runs: tuple[Run, ...] = ()

    @property
    def results(self) -> dict[str, Any]:
        """``results.json``: the scores of the best weights, and under ``last`` those of the last ones; with several
        seeds the mean of the last weights, their standard deviation (``spread``) and ``runs``."""
        return read_object(self.path / "results.json")

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation AP, else the newest."""
        return find_checkpoint(self.path)

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / f"step-{max(steps(self.path / 'checkpoints'), default=0)}"
