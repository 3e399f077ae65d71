"""Where a training stands: everything but tensors that a checkpoint has to hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...recipe import Recipe

FINISHED, STOPPED_EARLY, OUT_OF_TIME = "finished", "stopped early", "out of time"


@dataclass
class State:
    """Changes with every update; all the rest of a run is fixed."""

    plan: Plan
    segment: int = 0  # which of ``Recipe.segments`` it is in; what follows is of this one
    first: int = 0  # updates of the segments before
    epochs: int = 0  # epochs of the segments before
    step: int = 0  # updates done
    closed: int = 0  # the step whose epoch end was dealt with (validated, logged)
    best: int | None = None  # the update (of the whole run) with the best validation AP
    best_results: dict[str, Any] | None = None
    last_results: dict[str, Any] | None = None
    stale: int = 0  # validations since the best
    validation: float = 0.0  # seconds the last validation took
    elapsed: float = 0.0  # seconds spent by all processes that worked on this run, until the last save
    ended: str = ""  # why no update follows; empty: one does

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.first + self.step

    def next(self, plan: Plan) -> State:
        """The start of the segment after this one."""
        epochs = self.epochs + -(-self.step // self.plan.per_epoch)
        return State(
            plan,
            segment=self.segment + 1,
            first=self.updates,
            epochs=epochs,
            validation=self.validation,
            elapsed=self.elapsed,
        )

    @property
    def epoch(self) -> int:
        return self.step // self.plan.per_epoch

    @property
    def at_boundary(self) -> bool:
        """An epoch, or the training, has just ended."""
        return self.step > 0 and (self.step % self.plan.per_epoch == 0 or self.step >= self.plan.total)

    @property
    def over(self) -> bool:
        """No update follows, and the last one was validated: Ctrl-C may come between the two."""
        return bool(self.ended) and self.closed == self.step

    def judge(self, results: dict[str, Any]) -> bool:
        """Takes in a validation's results; whether they are the best so far.

        Of equal APs the later is kept (at the start all are zero), but only a higher one counts as progress. An
        undefined AP is below any other.
        """
        old = None if self.best_results is None else _value(self.best_results["AP"])
        new = _value(results["AP"])
        self.last_results = results
        self.stale = 0 if old is None or new > old else self.stale + 1
        if old is not None and new < old:
            return False
        self.best, self.best_results = self.updates, results
        return True

    def to_json(self) -> dict[str, Any]:
        """``epoch`` and ``batch`` (within the epoch) are for people; the step says it all."""
        values = {name: value for name, value in vars(self).items() if name != "plan"}
        place = {"epoch": self.epoch, "batch": self.step % self.plan.per_epoch}
        return {**values, **place, "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        names = set(cls.__dataclass_fields__) - {"plan"}
        known = {name: value[name] for name in names if name in value}  # a run of one segment may not know of segments
        return cls(plan=Plan.from_json(value["plan"]), **known)


def _value(ap: float | None) -> float:
    return -1.0 if ap is None else ap


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


def full_plan(fit: Recipe, per_epoch: int, epochs: int | None = None, *, endless: bool = False) -> Plan:
    """What the recipe says; ``epochs`` replaces its own where there is one stage. ``endless``: a time limit decides."""
    if epochs is not None and len(fit.stages) > 1:
        raise UsageError("--epochs means one stage, and this recipe has several", fix="Set fit.stages instead")
    own = [fit.epochs if stage.epochs is None else stage.epochs for stage in fit.stages]
    lengths = own if epochs is None else [epochs]
    return Plan(per_epoch, tuple(n * per_epoch * (ENDLESS if endless else 1) for n in lengths))


def plan_on_resume(
    stored: Plan, asked: Plan, fit: Recipe, done: int, epochs: int | None, max_time: float | None
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
