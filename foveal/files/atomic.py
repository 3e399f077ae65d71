"""Writes JSON, text, any file and folders so that they are complete or absent, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FovealError

NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`FovealError` for a file that cannot be read or holds another value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FovealError(f"cannot be read as JSON ({error})", path=path) from None
    if not isinstance(value, dict):
        raise FovealError(f"expected an object, found {type(value).__name__}", path=path)
    return value


def read_derived(path: Path) -> dict[str, Any]:
    """The object in a JSON file that can be written again; empty where there is none, or a damaged one."""
    try:
        return read_object(path)
    except FovealError:
        return {}


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8."""
    # a file name that is not UTF-8 has lone surrogates; replaced this way they are valid escapes of JSON
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whose folder is made where it is missing."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        part.write_bytes(data)


class CannotWrite(FovealError):
    """A file or folder that the system refuses to write, as on a full disk."""


@contextmanager
def writing(path: Path, *temporary: Path) -> Iterator[None]:
    """Turns the error of a full disk, and any other of the system, into a :class:`CannotWrite` that names the file.

    ``temporary``: names under which ``path`` is written, which mean nothing to the user.
    """
    try:
        yield
    except OSError as error:
        raise write_error(error, path, *temporary) from error


def write_error(error: OSError, path: Path, *temporary: Path) -> CannotWrite:
    """The error to raise for one of the system, which names no file where a disk becomes full."""
    named = error.filename2 or error.filename
    name = path if named is None else Path(os.fsdecode(named))
    for other in temporary:
        if name == other or other in name.parents:
            name = path / name.relative_to(other)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and name.is_file():
        return CannotWrite("is a file, not a folder", path=name, fix="Choose another place")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "Free some space, or choose another place" if full else ""
    return CannotWrite(f"cannot be written ({error.strerror or error})", path=name, fix=fix)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder: renamed to ``path`` at the end, removed after a failure.

    A link stays one: the file that it points to is replaced. A device or a pipe is written to directly. A file that
    must survive a power failure is synced by whoever writes it (:func:`write_synced`). Raises :class:`CannotWrite`,
    which names ``path``.
    """
    if _is_stream(path):
        with writing(path):
            yield path
        return
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path
    part = real.with_name(f"{_hidden(real.name)}.{os.getpid()}.part")
    try:
        with writing(path, part):
            with suppress(FileNotFoundError):
                os.stat(real)  # a name that is too long is refused before anything is written
            if os.path.exists(real) and not os.access(real, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            yield part
            os.replace(part, real)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def folds_case(folder: Path) -> bool:
    """Whether names in a folder that differ in capitals alone are one file (macOS, Windows, exFAT)."""
    probe = folder / ".case-probe"
    with writing(probe):
        probe.touch()
    try:
        return (folder / ".CASE-PROBE").exists()
    finally:
        probe.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Whether it is no regular file: a device, a pipe, or what the shell opened."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.parts[:2] in (("/", "dev"), ("/", "proc"))


def _hidden(name: str) -> str:
    """A hidden name like this one, short enough for an addition: a name has at most 255 bytes."""
    return "." + os.fsdecode(os.fsencode(name)[:100])


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A hidden folder to write into: renamed to ``out`` at the end, removed after a failure.

    The contents are moved into an ``out`` that exists and is empty, which may be the working directory of a shell.
    Raises :class:`CannotWrite`, which names the file.
    """
    final = Path(os.path.abspath(out))  # "." has no name
    exists = os.path.exists(final)
    partial = (final if exists else final.parent) / f"{_hidden(final.name)}.partial-{os.getpid()}"
    try:
        with writing(out, partial):
            partial.mkdir(parents=True)
    except CannotWrite as error:  # not removed here: it may belong to another process
        if not isinstance(error.__cause__, FileExistsError):
            raise
        message = "is in the way; it may be left over from an interrupted process"
        raise FovealError(message, path=partial, fix="Remove it") from None
    try:
        with writing(out, partial):
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
        _sync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk, where it can be told so: some file shares cannot."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written, but not read
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """``fsync``, where the disk has it: some file shares and disks of user programs refuse it, most for folders."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def replace_folder(new: Path, final: Path) -> None:
    """Puts a complete, synced folder in the place of another.

    A folder cannot be renamed over another: the old one is called ``.old-NAME`` for a moment, from which
    :func:`restore_folders` recovers it after a crash.
    """
    old = final.parent / f".old-{final.name}"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(new, final)
    except OSError:
        with suppress(OSError):
            os.replace(old, final)
        raise
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folders(parent: Path, pattern: str) -> None:
    """Undoes each :func:`replace_folder` of a folder ``pattern`` in ``parent`` that was interrupted half-way."""
    for old in parent.glob(f".old-{pattern}"):
        final = parent / old.name.removeprefix(".old-")
        if not final.exists():
            os.replace(old, final)
