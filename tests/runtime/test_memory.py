"""The C library's memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from foveal.runtime.memory import keep_freed_memory


def test_freed_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, the largest), once each; nothing on other systems."""
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, name: int, value: int) -> int:
            calls.append((name, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(sys, "platform", "linux")
    assert keep_freed_memory() and calls == [(-4, 0), (-1, 2**31 - 1)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


FAULTS = """
import resource, threading
import numpy as np
from foveal.runtime.memory import keep_some_freed_memory

def work():
    for round in range(25):
        if round == 5:
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        for size in (900_000, 3_700_000, 1_200_000):
            np.ones(size, np.uint8)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

kept, found = keep_some_freed_memory(), []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(kept, found[1] - found[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_arrays_in_a_thread_reuse_memory() -> None:
    """20 rounds of 5.8 MB are 28,000 pages where they are mapped anew."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library")
    assert int(faults) < 1000
