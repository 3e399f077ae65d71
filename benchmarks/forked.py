"""Runs functions in processes forked from this one, which has loaded the package: a command starts in no time."""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def load_everything() -> None:
    """Imports what any command may import, so that the processes forked from this one need not."""
    import foveal

    for module in pkgutil.walk_packages(foveal.__path__, "foveal."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("matplotlib.backends.backend_agg", "safetensors.torch", "torchvision", "torch._dynamo"):
        importlib.import_module(name)
    from PIL import Image

    Image.init()


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status (-1: it took too long, -9: killed), and what it said."""

    status: int
    out: str
    err: str


class Process:
    """A function in a process of its own and of its own group, in ``folder``; its output goes into ``logs``."""

    def __init__(self, call: Callable[[], Any], folder: Path, logs: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.folder, self.logs = folder, logs
        self.ended: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(call, folder, logs)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        deadline, pause = time.monotonic() + seconds, 0.002
        while self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(pause)
                pause = min(pause * 1.2, 0.02)
        return True

    def kill(self, number: int = signal.SIGKILL, *, group: bool = True) -> None:
        """Sends a signal to it, and to the processes that it started."""
        if self.ended is None:
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def finish(self, seconds: float) -> Ended:
        """Waits for the end; after ``seconds`` it is killed."""
        late = not self.wait(seconds)
        if late:
            self.kill()
            self.wait(seconds)
        status = -1 if late or self.ended is None else self.ended
        return Ended(status, (self.logs / "out").read_text(), (self.logs / "err").read_text())


def _run(call: Callable[[], Any], folder: Path, logs: Path) -> None:
    status = 70
    try:
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.chdir(folder)
        call()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
