"""Makes the n-th call of one kind fail in a process: a small library in C that is compiled, preloaded and controlled.

The library (``failing_calls.c``) stands between a program and the system, so it reaches every language: Python's own
files, safetensors (Rust), PyTorch (C++). A program is started with it by :func:`restart_with_library`; what fails is
said by :class:`FailingCalls`, in memory that the processes forked from this one share.
"""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("open", "create", "write", "fsync", "rename", "link", "mkdir", "unlink")
PATH_MAX = 4096
_KEPT: list[FailingCalls] = []


class Control(ctypes.Structure):
    """``struct control`` of the library."""

    _fields_ = (
        ("active", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("error", ctypes.c_int),
        ("forever", ctypes.c_int),
        ("nth", ctypes.c_long),
        ("counts", ctypes.c_long * len(KINDS)),
        ("failed", ctypes.c_long),
        ("folder", ctypes.c_char * PATH_MAX),
        ("path", ctypes.c_char * PATH_MAX),
    )


def reason_not_to() -> str:
    """Why this machine cannot make calls fail; empty: it can."""
    if sys.platform != "linux":
        return "calls are made to fail on Linux only"
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def restart_with_library() -> None:
    """Starts this program again with the library preloaded, unless it is."""
    name = os.environ.get("LD_PRELOAD", "")
    if name.endswith("failing_calls.so"):
        return
    with tempfile.TemporaryDirectory(prefix="failing-calls-") as folder:
        library = Path(folder) / "failing_calls.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        sys.exit(subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment).returncode)


class FailingCalls:
    """Which call is to fail below ``folder``, and how many there were, in this process and those forked from it."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        assert library.failing_calls_size() == ctypes.sizeof(Control)
        self._memory = mmap.mmap(-1, ctypes.sizeof(Control))
        self._control = Control.from_buffer(self._memory)
        self._control.folder = os.fsencode(folder)
        library.failing_calls_use(ctypes.byref(self._control))
        _KEPT.append(self)  # the library uses the memory until the process ends
        atexit.register(library.failing_calls_use, None)

    def arm(self, kind: str = "open", nth: int = 0, error: int = 0, *, forever: bool = False) -> None:
        """Counts from 0; call ``nth`` (from 1) of a kind fails with an ``errno``, none for 0."""
        control = self._control
        for k in range(len(KINDS)):
            control.counts[k] = 0
        control.failed, control.path = 0, b""
        control.kind, control.error, control.forever = KINDS.index(kind), error, forever
        control.nth = nth or 1 << 60
        control.active = 1

    def disarm(self) -> None:
        """No call fails, and none is counted."""
        self._control.active = 0

    @property
    def counts(self) -> dict[str, int]:
        """Calls by kind since :meth:`arm`."""
        return dict(zip(KINDS, self._control.counts, strict=True))

    @property
    def path(self) -> str:
        """The file or folder of the first call that failed; empty: none did."""
        return os.fsdecode(self._control.path)
