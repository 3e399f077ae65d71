"""A folder that one process works on at a time; the lock of a process that has ended is taken over."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import FovealError
from .atomic import read_object, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PATIENCE = 2.0  # seconds for the processes of a killed run, which hold its lock as well, to end


class FolderInUse(FovealError):
    """Another process works on the folder."""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made where it is missing, and removed again if it stays empty.

    ``what``: who has the lock, for the error, as in "a training run". Raises :class:`FolderInUse` where a process that
    still runs holds it. The system ends a lock with its process; where a disk has no locks, the host and the process
    that the lock's file names decide.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = _acquire(folder, what)
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(handle)
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _acquire(folder: Path, what: str) -> int:
    """The descriptor of the lock's file, which is locked and says who has it."""
    path, deadline = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        with writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            free = _lock(handle, path)
            if free and _same(handle, path):  # else its holder removed it just now
                owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time(), "what": what}
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(owner).encode(), 0)
                return handle
            if not free and time.monotonic() > deadline:
                raise _in_use(folder, path)
        except OSError as error:
            with suppress(OSError):
                if _same(handle, path):  # it is this process' own by now, and says nothing
                    path.unlink()
            os.close(handle)
            with writing(path):
                raise error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        time.sleep(0.05)


def _lock(handle: int, path: Path) -> bool:
    """Whether this process has the lock now."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    owner = _owner(path)
    return not owner or (owner.get("host") == socket.gethostname() and not _runs(owner.get("process")))


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _owner(path: Path) -> dict[str, Any]:
    """What the lock's file says; empty where it says nothing."""
    try:
        return read_object(path)
    except FovealError:
        return {}


def _runs(process: Any) -> bool:
    """Whether a process of this machine runs; on Windows, where asking would end it, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def _in_use(folder: Path, path: Path) -> FolderInUse:
    owner = _owner(path)
    who = f"{owner.get('what', 'another process')} (process {owner.get('process', '?')} on {owner.get('host', '?')}"
    with suppress(TypeError, ValueError, OverflowError, OSError):
        who += f", since {datetime.fromtimestamp(owner['since']):%Y-%m-%d %H:%M}" if "since" in owner else ""
    fix = f"Wait until it ends, or choose another folder; if it does not run any more, remove {path}"
    return FolderInUse(f"{who}) works on this folder", path=folder, fix=fix)
