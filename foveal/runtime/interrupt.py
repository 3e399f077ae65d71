"""Ctrl-C and SIGTERM between two iterations, never within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Terminated(SystemExit):
    """SIGTERM: a cluster, a container or the system ends the process. The exit status is that of the signal, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def raise_terminated(number: int = signal.SIGTERM, frame: FrameType | None = None) -> NoReturn:
    """A signal handler that ends the process as an exception does: what is half-written is removed."""
    raise Terminated


class Interrupt:
    """Notes a first SIGINT or SIGTERM in :attr:`asked`; a second one raises its exception at once.

    SIGINT raises ``KeyboardInterrupt``, SIGTERM :class:`Terminated`. Signals reach the main thread only; elsewhere this
    does nothing.
    """

    def __init__(self) -> None:
        self.asked = False  # for the end
        self.error: BaseException = KeyboardInterrupt()  # of the signal received
        self._old: dict[int, Any] = {}

    def check(self) -> None:
        """Raises the exception of the signal received, if there is one."""
        if self.asked:
            raise self.error

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        self.error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if again:
            raise self.error
