"""A process that loads images ends with the process that started it, and not by a signal meant for that one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait


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
    if sys.platform == "linux":  # a signal that is blocked in all threads waits for this one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        watchers.append(obey)
    for watcher in watchers:
        threading.Thread(target=watcher, daemon=True).start()
