"""The console output of a training run: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from ..files.aliases import OnProgress
from ..files.text import visible

SECONDS = 300.0  # between progress lines where there is no terminal
VERBOSE_SECONDS = 10.0


class Console:
    """Messages and progress on ``stream``, stderr by default. Prints nothing unless ``shown``.

    By default a training run prints a line per epoch, and on a terminal a progress bar; ``verbose`` adds details and
    more frequent progress.
    """

    def __init__(self, *, shown: bool = True, verbose: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.shown, self.verbose = shown, verbose
        self._every = VERBOSE_SECONDS if verbose else SECONDS
        self._last = time.monotonic()
        self._rates = ""
        self._loss_sum, self._updates = 0.0, 0  # of the present epoch
        self._printed: set[str] = set()
        self._bar: Any = None
        if shown and self.stream.isatty():
            self._bar = self._start_bar()

    # ------------------------------------------------------------------------------------------ messages
    def print(self, text: str) -> None:
        """Prints a line; nothing for an empty text."""
        if not self.shown or not text:
            return
        text = visible(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def print_once(self, texts: Iterable[str]) -> None:
        """Prints the lines that were not printed this way before."""
        for text in texts:
            if text not in self._printed:
                self._printed.add(text)
                self.print(text)

    def detail(self, text: str) -> None:
        """Prints a line if ``verbose``."""
        if self.verbose:
            self.print(text)

    # ------------------------------------------------------------------------------------------ training
    def begin_stage(self, text: str) -> None:
        """Prints a line for a new stage and forgets the losses of the one before."""
        self._rates, self._loss_sum, self._updates = "", 0.0, 0
        self.print(text)

    def values(
        self, losses: dict[str, float], updates: int, images_per_second: float, seconds: dict[str, float]
    ) -> None:
        """Takes the means over the last ``updates`` iterations, which the following progress shows."""
        self._loss_sum += losses["loss"] * updates
        self._updates += updates
        means = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        spent = sum(seconds.values()) or 1.0
        shares = ", ".join(f"{name} {value / spent:.0%}" for name, value in seconds.items())
        self._rates = f"{means}  {images_per_second:.1f} images/s  ({shares})"

    def update(self, step: int, epoch: int, left: float, total: int) -> None:
        """Shows that ``step`` of ``total`` iterations (0: not known yet) are done; ``left`` seconds remain."""
        if self._bar is not None:
            text = f"epoch {epoch + 1}  {self._rates}  {duration(left)} left"
            self._bar.update(self._task, completed=step, total=total or None, description=text)
        elif self._rates and self._is_due():
            steps = f"{step}/{total}" if total else str(step)
            self.print(f"epoch {epoch + 1}  iteration {steps}  {self._rates}  {duration(left)} left")

    def epoch_summary(self, left: float | None = None) -> str:
        """Mean loss of the epoch that ends, and the seconds that remain; empty where nothing was trained."""
        if not self._updates:
            return ""
        loss, self._loss_sum, self._updates = self._loss_sum / self._updates, 0.0, 0
        return f"training loss {loss:.4f}" + ("" if left is None else f", {duration(left)} left")

    # ---------------------------------------------------------------------------------------- other work
    def task(self, what: str) -> OnProgress:
        """A progress callback for other work: the bar, or a line now and then."""

        def on_progress(done: int, total: int) -> None:
            if self._bar is not None:
                self._bar.update(self._task, completed=done, total=total, description=what)
            elif self._is_due():
                self.print(f"{what}: {done}/{total}")

        return on_progress

    def close(self) -> None:
        """Removes the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _is_due(self) -> bool:
        """Whether it is time for a progress line; the next one is due an interval later."""
        if time.monotonic() - self._last < self._every:
            return False
        self._last = time.monotonic()
        return True

    def _start_bar(self) -> Any:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=RichConsole(file=self.stream),
            transient=True,
        )
        self._task = bar.add_task("starting", total=None)
        bar.start()
        return bar


def duration(seconds: float) -> str:
    """``1:05:09``, ``3:20``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
