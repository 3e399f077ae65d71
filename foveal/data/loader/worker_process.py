"""A process that loads images: it needs no script of the user, and ends with the process that started it."""

from __future__ import annotations

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
