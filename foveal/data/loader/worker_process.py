"""A process that loads images: it needs no script of the user, and ends with the process that started it."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ...errors import FovealError

_FEWER = "use fewer workers (--workers 0 loads in the main process)"
REFUSALS = {  # by the system, and what to do
    errno.EMFILE: f"Allow more open files (ulimit -n 4096), or {_FEWER}",
    errno.ENFILE: f"Close other programs, or {_FEWER}",
    errno.ENOMEM: f"Close other programs, or {_FEWER}",
    errno.EAGAIN: f"Allow more processes (ulimit -u), or {_FEWER}",
    errno.ENOSPC: f"Make /dev/shm larger (docker run --shm-size 1g), or {_FEWER}",
}
UNGUARDED = 86  # status of a process that imports a script which trains, where it should load images


@contextmanager
def script_left_out(content: Any) -> Iterator[None]:
    """Processes that are started by spawn or forkserver inside do not import the user's script, and so run no training
    that it calls outside ``if __name__ == "__main__":``. Without effect where ``content`` needs a class of the script.
    """
    if multiprocessing.get_start_method() == "fork" or _names_script(content):
        yield
        return
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def leave_if_imported() -> None:
    """Ends a process that is just importing the user's script, which calls what it was started for again."""
    if vars(multiprocessing.current_process()).get("_inheriting"):
        os._exit(UNGUARDED)


class _Names(io.RawIOBase):
    """A file that keeps nothing of what is written, but whether it names the script."""

    found = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.found = self.found or b"__main__" in bytes(data)
        return len(data)


def _names_script(content: Any) -> bool:
    """Whether unpickling needs a class or function of the user's script."""
    names = _Names()
    pickle.dump(content, names)
    return names.found


@contextmanager
def sigterm_blocked() -> Iterator[None]:
    """Processes that are started inside have SIGTERM blocked in all their threads, also in those that libraries start
    as a process begins: :func:`live_with_parent` waits for it. Here it arrives afterwards.
    """
    if sys.platform != "linux":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def starting(content: Any) -> Iterator[None]:
    """Around the start of the processes that load images, which get ``content``.

    Raises :class:`FovealError` where the system refuses them: too many open files, no room in /dev/shm.
    """
    try:
        with script_left_out(content), sigterm_blocked():
            yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        _abandon(error)
        what = "shared memory (/dev/shm) is full" if error.errno == errno.ENOSPC else os.strerror(error.errno)
        raise FovealError(
            f"the processes that load images cannot be started: {what}", fix=REFUSALS[error.errno]
        ) from None


def _abandon(error: OSError) -> None:
    """Ends what was started of a DataLoader's iterator that is in the middle of its construction.

    Collected like that, it would print a traceback of its own.
    """
    trace = error.__traceback__
    while trace is not None:
        iterator = trace.tb_frame.f_locals.get("self")
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown = True
            for worker in vars(iterator).get("_workers", ()):
                worker.terminate()
        trace = trace.tb_next


def live_with_parent(worker: int) -> None:
    """Initializes a worker of a ``DataLoader``.

    It ends when its parent is gone, also by ``kill -9``, for nothing else would end it. A SIGTERM from anybody but the
    parent is ignored: a cluster sends it to all processes of a job, and the parent still has to finish its iteration.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    pid, sentinel = parent.pid, parent.sentinel

    def leave() -> None:
        wait([sentinel])
        os._exit(1)

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
            pass
        os._exit(0)

    watchers = [leave]
    if sys.platform == "linux":  # a signal that is blocked in all threads (sigterm_blocked) waits for this one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        watchers.append(obey)
    for watcher in watchers:
        threading.Thread(target=watcher, daemon=True).start()
