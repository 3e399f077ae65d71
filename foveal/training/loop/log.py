"""Measures a training run and logs it: times, mean losses, ``metrics.jsonl`` and TensorBoard events.

Losses and GPU times stay on the device until a line is written, so that logging causes no synchronization in between.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files.atomic import writing
from .events import Events
from .images import Drawing


# -------------------------------------------------------------------------------------------- measuring
class Clock:
    """Sums seconds by name; :meth:`read` resets it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str, *, host: bool = False) -> Iterator[None]:
        """``host``: the work is done by the CPU (loading data), whatever the device is."""
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


class Meter:
    """Means of the losses since the last line. They stay on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.updates = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.updates += 1

    def read(self) -> dict[str, float]:
        """``loss`` and its parts; resets the meter. One transfer."""
        names, values = list(self._sums), list(self._sums.values())
        means = torch.stack(values).div(max(1, self.updates)).tolist() if values else []
        self._sums, self.updates = {}, 0
        return {"loss": sum(means), **dict(zip(names, means, strict=True))}

    def state(self) -> dict[str, Any]:
        """The sums so far, so that a resumed run writes the same lines."""
        return {"updates": self.updates, "sums": {name: value.item() for name, value in self._sums.items()}}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        self.updates = state["updates"]
        self._sums = {name: torch.tensor(value, device=device) for name, value in state["sums"].items()}


# ---------------------------------------------------------------------------------------------- writing
class Log:
    """``metrics.jsonl``, one object per line, and the same numbers for TensorBoard. Only the first process writes."""

    def __init__(self, out: Path, *, active: bool, offset: int = 0, step: int = 0, tensorboard: bool = True) -> None:
        """``offset`` and ``step`` are those of the checkpoint that is resumed: what was logged after it is cut off."""
        self.path = out / "metrics.jsonl"
        self.active = active
        self._events: Events | None = None
        if not active:
            return
        with writing(self.path):
            cut_back(self.path, offset)
            self._file = self.path.open("ab")
        if tensorboard:
            self._events = Events(out, step)

    @property
    def problem(self) -> str:
        """Why there are no TensorBoard events; empty: there are, or nobody asked for any."""
        return f"no TensorBoard events: {self._events.problem}" if self._events and self._events.problem else ""

    def write(self, **row: Any) -> None:
        """Writes a line. Non-finite numbers become null."""
        if not self.active:
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with writing(self.path):
            self._file.write((json.dumps(clean, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
            self._file.flush()
        if self._events is not None:
            for name, value in clean.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    self._events.add(f"{row['split']}/{name}", value, row["step"])

    def images(self, drawings: Iterable[Drawing], step: int) -> None:
        """Drawings for TensorBoard."""
        if self._events is not None:
            for drawing in drawings:
                self._events.add_image(f"val/{drawing.name}", drawing.pixels, step)

    def offset(self) -> int:
        """The length of the file, which is on the disk when this returns. Stored in every checkpoint."""
        if not self.active:
            return 0
        with writing(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        if self.active:
            with suppress(OSError):  # a line that could not be written was told
                self._file.close()
        if self._events is not None:
            self._events.close()


def cut_back(path: Path, offset: int) -> None:
    """Shortens the log to ``offset`` bytes, and to whole lines in any case."""
    if not path.exists():
        return
    text = path.read_bytes()[:offset]
    with path.open("r+b") as file:
        file.truncate(text.rfind(b"\n") + 1)
