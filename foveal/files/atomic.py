"""Writes JSON, text, any file and folders so that they are complete or absent, whatever interrupts the writing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FovealError


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`FovealError` for a file that cannot be read or holds another value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FovealError(f"cannot be read as JSON ({error})", path=path) from None
    if not isinstance(value, dict):
        raise FovealError(f"expected an object, found {type(value).__name__}", path=path)
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8."""
    with atomic_file(path) as part:
        # a file name that is not UTF-8 has lone surrogates; replaced this way they are valid escapes of JSON
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder: renamed to ``path`` at the end, removed after a failure.

    A file that must survive a power failure is synced by whoever writes it (:func:`write_synced`).
    """
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A hidden folder to write into: renamed to ``out`` at the end, removed after a failure.

    The contents are moved into an ``out`` that exists and is empty, which may be the working directory of a shell.
    """
    final = Path(os.path.abspath(out))  # "." has no name
    exists = final.exists()
    partial = (final if exists else final.parent) / f".{final.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
    except FileExistsError:  # not removed here: it may belong to another process
        message = "is in the way; it may be left over from an interrupted process"
        raise FovealError(message, path=partial, fix="Remove it") from None
    try:
        yield partial
        if exists:
            for path in sorted(partial.iterdir()):
                path.rename(final / path.name)
        else:
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_synced(path: Path, data: bytes) -> None:
    """Writes bytes, and returns when they are on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(new: Path, final: Path) -> None:
    """Puts a complete, synced folder in the place of another.

    A folder cannot be renamed over another: the old one is called ``.old-NAME`` for a moment, from which
    :func:`restore_folders` recovers it after a crash.
    """
    old = final.parent / f".old-{final.name}"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folders(parent: Path, pattern: str) -> None:
    """Undoes each :func:`replace_folder` of a folder ``pattern`` in ``parent`` that was interrupted half-way."""
    for old in parent.glob(f".old-{pattern}"):
        final = parent / old.name.removeprefix(".old-")
        if not final.exists():
            os.replace(old, final)
