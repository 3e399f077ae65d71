"""What a person sees of a training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Silent in every process but the first, and where ``shown`` is false."""

    def __init__(self, total: int = 0, *, shown: bool = True, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.shown, self.total = shown, total
        self._values = ""
        self._last = time.monotonic()
        self._live: Any = None
        if shown and self.stream.isatty():
            self._live = self._start_live()

    def say(self, text: str) -> None:
        """A line that stays; nothing for an empty text."""
        if not self.shown or not text:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def values(self, losses: dict[str, float], images_per_second: float, shares: dict[str, float]) -> None:
        """The newest means, shown with every following :meth:`update`."""
        parts = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        spent = sum(shares.values()) or 1.0
        where = ", ".join(f"{name} {seconds / spent:.0%}" for name, seconds in shares.items())
        self._values = f"{parts}  {images_per_second:.1f} images/s  ({where})"

    def begin(self, text: str) -> None:
        """A line for what begins now; values of what came before are not shown any more."""
        self._values = ""
        self.say(text)

    def update(self, step: int, epoch: int, left: float, total: int) -> None:
        """``step`` of ``total`` updates (0: not known yet) are done, ``left`` seconds remain."""
        if not self.shown:
            return
        self.total = total
        if self._live is not None:
            text = f"epoch {epoch + 1}  {self._values}  {clock_text(left)} left"
            self._live.update(self._task, completed=step, total=total or None, description=text)
        elif self._values and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            steps = f"{step}/{total}" if total else str(step)
            self.say(f"epoch {epoch + 1}  step {steps}  {self._values}  {clock_text(left)} left")

    def making(self, what: str) -> Callable[[int, int], None]:
        """A callback ``(done, of how many)`` for other work: the live line, or a plain one now and then."""

        def tell(done: int, total: int) -> None:
            if self._live is not None:
                self._live.update(self._task, completed=done, total=total, description=what)
            elif time.monotonic() - self._last >= EVERY:
                self._last = time.monotonic()
                self.say(f"{what}: {done}/{total}")

        return tell

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start_live(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        live = Bar(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=Console(file=self.stream),
            transient=True,
        )
        self._task = live.add_task("starting", total=self.total)
        live.start()
        return live


def clock_text(seconds: float) -> str:
    """``1:05:09``, ``3:20``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
