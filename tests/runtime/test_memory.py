"""The C library's memory."""

from __future__ import annotations

import ctypes
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
