"""How many updates a training has: from the epochs of the recipe, or from a time limit and the pace so far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError
from ..fit import Fit

MARGIN = 0.05  # of the limit, kept back for a pace that was measured too fast
UNTIMED_UPDATES = 2  # the first updates fill caches and choose kernels; they say nothing of the pace
MOST_UPDATES, LEAST_UPDATES, SHARE = 50, 3, 0.03  # measured: so many, at least so many, until this share of the limit
ENDLESS = 10_000  # times the recipe's epochs: what the plan says until the pace is known
AGAIN = 1 / 16  # of the limit: how often a plan is checked against the pace since
WRONG = 0.02  # of the updates: a plan that is off by less stays as it is


@dataclass(frozen=True)
class Plan:
    """The length of every stage, in updates. Stored with the run; resuming keeps it."""

    per_epoch: int  # updates an epoch
    stages: tuple[int, ...]  # updates of each stage
    timed: bool = False  # it was cut to fit the time limit (or found to fit)

    @property
    def total(self) -> int:
        return sum(self.stages)

    @property
    def epochs(self) -> int:
        """Epochs, a last one that is cut short included."""
        return math.ceil(self.total / self.per_epoch)

    def stage(self, step: int) -> tuple[int, int]:
        """(index, first step) of the stage that update ``step`` belongs to."""
        first = 0
        for index, length in enumerate(self.stages):
            if step < first + length:
                return index, first
            first += length
        return len(self.stages) - 1, first - self.stages[-1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        return cls(value["per_epoch"], tuple(value["stages"]), value["timed"])


def full_plan(fit: Fit, per_epoch: int, epochs: int | None = None, *, endless: bool = False) -> Plan:
    """What the recipe says; ``epochs`` replaces its own where there is one stage. ``endless``: a time limit decides."""
    if epochs is not None and len(fit.stages) > 1:
        raise UsageError("--epochs means one stage, and this recipe has several", fix="Set fit.stages instead")
    own = [fit.epochs if stage.epochs is None else stage.epochs for stage in fit.stages]
    lengths = own if epochs is None else [epochs]
    return Plan(per_epoch, tuple(n * per_epoch * (ENDLESS if endless else 1) for n in lengths))


def plan_again(
    stored: Plan, asked: Plan, fit: Fit, done: int, epochs: int | None, max_time: float | None
) -> tuple[Plan, int]:
    """The plan of a run that is gone on with, and the most updates a time limit may make of it.

    The ``stored`` one holds. ``asked`` is what the call, with its ``epochs`` and ``max_time``, would plan. Raises
    :class:`UsageError` where it contradicts.
    """
    if stored.timed:
        return stored, asked.total
    if stored == full_plan(fit, stored.per_epoch, endless=True):  # stopped before the pace was known: no length yet
        if epochs is None and max_time is None:
            raise UsageError(
                "the run was begun with --max-time and stopped before its length was planned",
                fix="Resume with --max-time, or with --epochs",
            )
        if asked.total < done:
            raise UsageError(f"--epochs {epochs} is {asked.total} updates, and the run has done {done}")
        return asked, asked.total
    if epochs is not None and asked != stored:
        raise UsageError(
            f"the run was begun for {stored.epochs} epochs; --epochs {epochs} would be another run",
            fix="Resume without --epochs, or begin a new run with --weights",
        )
    return stored, min(stored.total, asked.total)


def timed_plan(
    plan: Plan, most: int, *, done: int, elapsed: float, pace: float, validation: float, limit: float, val_every: int
) -> Plan:
    """``plan`` with as many updates as end within ``limit`` seconds, a validation after every ``val_every`` epochs too.

    ``done`` updates took ``elapsed`` seconds; ``pace`` is seconds an update, ``validation`` seconds for one pass over
    the validation images. Never more than ``most`` updates; what is left of the stages changes in proportion.
    """
    passed = max(0, done - 1) // plan.per_epoch // val_every  # an epoch that ends at ``done`` is still to be validated

    def ends(total: int) -> float:
        passes = math.ceil(math.ceil(total / plan.per_epoch) / val_every) - passed
        return elapsed + (total - done) * pace + passes * validation

    low, high = done, most
    while low < high:  # the largest total that ends in time; ``ends`` never falls
        middle = (low + high + 1) // 2
        if ends(middle) <= limit * (1 - MARGIN):
            low = middle
        else:
            high = middle - 1
    return Plan(plan.per_epoch, _fit(plan.stages, done, low), timed=True)


class Pace:
    """Measures updates until a plan can be made from them, or checked by them."""

    def __init__(self, limit: float, elapsed: float) -> None:
        self.limit = limit
        self.seen = 0
        self.planned_at = elapsed  # seconds into the run
        self._last = 0.0
        self.spent = 0.0
        self.measured = 0

    def add(self, seconds: float) -> None:
        """One update, its data included."""
        self.seen += 1
        if self.seen > UNTIMED_UPDATES or seconds > SHARE * self.limit:
            self.spent += seconds
            self.measured += 1

    @property
    def ready(self) -> bool:
        enough = self.measured >= MOST_UPDATES or self.spent >= SHARE * self.limit
        return enough and (self.measured >= LEAST_UPDATES or self.spent >= 4 * SHARE * self.limit)

    @property
    def seconds(self) -> float:
        """Seconds an update since the last plan, the mean: the sum is what has to fit."""
        known = self.measured >= LEAST_UPDATES or not self._last
        return self.spent / max(1, self.measured) if known else self._last

    def due(self, elapsed: float, plan: Plan, done: int) -> bool:
        """Whether it is time for a plan: the first one, or a look at whether the present one still fits."""
        if not plan.timed:
            return self.ready
        late = done >= plan.total or elapsed >= self.planned_at + AGAIN * self.limit
        return late and self.measured >= LEAST_UPDATES

    def restart(self, elapsed: float) -> None:
        """Measures afresh: a plan was made or checked."""
        self._last, self.planned_at, self.spent, self.measured = self.seconds, elapsed, 0.0, 0


def differs(old: Plan, new: Plan) -> bool:
    """Whether the length has changed by enough to change the learning rate's schedule."""
    return abs(new.total - old.total) > WRONG * new.total or not old.timed


def _fit(stages: Sequence[int], done: int, total: int) -> tuple[int, ...]:
    """Lengths that sum to ``total``: what is left of each stage after ``done`` updates changes in proportion."""
    ends = [0, *itertools.accumulate(stages)]
    left = ends[-1] - done
    if left <= 0:  # all done: the last stage goes on
        return (*stages[:-1], stages[-1] + total - ends[-1])
    moved = [end if end <= done else done + round((end - done) * (total - done) / left) for end in ends]
    return tuple(b - a for a, b in itertools.pairwise(moved))
