"""Where the time of a training goes. On a GPU it is measured by events on the device, never by waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Sums seconds by name; :meth:`read` empties it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str, *, host: bool = False) -> Iterator[None]:
        """``host``: the work is the host's (waiting for data), whatever the device is."""
        if host or not self._cuda:
            start = time.perf_counter()
            yield
            self.add(name, time.perf_counter() - start)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self._events.append((name, first, last))

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Seconds by name since the last call. Waits for the device; call it where the losses are read anyway."""
        for name, first, last in self._events:
            last.synchronize()
            self.add(name, first.elapsed_time(last) / 1000)
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds
