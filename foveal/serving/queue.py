"""The one queue in front of the detectors: one thread detects, and few images wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .limits import Refused

Answer = TypeVar("Answer")
_WEIGHT = 0.1  # of the newest in the running mean of the seconds of a job


class Queue:
    """Runs jobs in one thread, in the order in which they come; a job that nobody waits for any more is not begun."""

    def __init__(self, waiting: int) -> None:
        """``waiting``: the most jobs beside the one that runs."""
        self.limit = waiting + 1
        self.inside = 0  # jobs that wait or run
        self.seconds = 0.05  # of a job, a running mean
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="detect")

    def check(self) -> None:
        """Raises :class:`Refused` where no place is free."""
        if self.inside >= self.limit:
            after = self.inside * self.seconds
            raise Refused(503, "busy", f"{self.limit} images wait already", retry_after=math.ceil(after))

    async def run(self, job: Callable[[], Answer]) -> Answer:
        """The result of a job. Cancelling it frees its place at once. Raises :class:`Refused` where none is free."""
        self.check()
        self.inside += 1
        try:
            return await asyncio.wrap_future(self._pool.submit(self._timed, job))
        finally:
            self.inside -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, job: Callable[[], Answer]) -> Answer:
        started = time.perf_counter()
        try:
            return job()
        finally:
            self.seconds += _WEIGHT * (time.perf_counter() - started - self.seconds)
