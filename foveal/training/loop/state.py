"""The state of a training run besides its tensors: its planned length, its progress, and the plan of a time limit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import UsageError
from ...recipe import GradientStage, Keep, Recipe

FINISHED, STOPPED_EARLY, OUT_OF_TIME = "finished", "stopped early", "out of time"
ENDLESS = 10_000  # times the recipe's epochs: the length of a plan until the pace is known


# -------------------------------------------------------------------------------------------- the length
@dataclass(frozen=True)
class Plan:
    """The length of every stage, in iterations. Stored with the run; resuming keeps it."""

    per_epoch: int  # iterations of an epoch
    stages: tuple[int, ...]  # iterations of each stage
    timed: bool = False  # it was cut to fit the time limit (or it fits)
    val_every: int = 0  # epochs between validations, where a time limit leaves few; 0: the recipe's

    @property
    def total(self) -> int:
        return sum(self.stages)

    @property
    def epochs(self) -> int:
        """Epochs, a last one that is cut short included."""
        return math.ceil(self.total / self.per_epoch)

    @property
    def length(self) -> float:
        """Epochs, a last one counted as the part that is run."""
        return self.total / self.per_epoch

    def stage(self, step: int) -> tuple[int, int]:
        """(index, first step) of the stage that iteration ``step`` belongs to."""
        first = 0
        for index, length in enumerate(self.stages):
            if step < first + length:
                return index, first
            first += length
        return len(self.stages) - 1, first - self.stages[-1]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "val_every" or value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        return cls(value["per_epoch"], tuple(value["stages"]), value["timed"], value.get("val_every", 0))


def full_plan(
    fit: Recipe, stages: Sequence[GradientStage], per_epoch: int, epochs: int | None = None, *, endless: bool = False
) -> Plan:
    """The plan of the recipe; ``epochs`` replaces its own where there is one stage. ``endless``: a time limit decides.

    Raises :class:`UsageError` for ``epochs`` where there are several stages.
    """
    if epochs is not None and len(stages) > 1:
        raise UsageError("--epochs means one stage, and this recipe has several", fix="Set fit.stages instead")
    own = [fit.epochs if stage.epochs is None else stage.epochs for stage in stages]
    lengths = own if epochs is None else [epochs]
    return Plan(per_epoch, tuple(n * per_epoch * (ENDLESS if endless else 1) for n in lengths))


# ------------------------------------------------------------------------------------------ the progress
@dataclass
class State:
    """The progress of a run. It changes with every iteration; everything else of a run is fixed."""

    plan: Plan
    segment: int = 0  # which of ``Recipe.segments`` it is in; what follows is of this one
    first: int = 0  # iterations of the segments before
    epochs: int = 0  # epochs of the segments before
    step: int = 0  # iterations done
    closed: int = 0  # the last step at which an epoch was closed (validated, saved)
    best: int | None = None  # the iteration (of the whole run) whose weights are kept: see ``add_results``
    best_results: dict[str, Any] | None = None
    last_results: dict[str, Any] | None = None
    stale: int = 0  # validations since the best
    validation: float = 0.0  # seconds the last validation took
    elapsed: float = 0.0  # seconds spent by all processes that worked on this run, until the last save
    ended: str = ""  # why no iteration follows; empty: one does

    @property
    def updates(self) -> int:
        """Iterations of the whole run."""
        return self.first + self.step

    @property
    def epoch(self) -> int:
        return self.step // self.plan.per_epoch

    @property
    def at_boundary(self) -> bool:
        """An epoch, or the training, has just ended."""
        return self.step > 0 and (self.step % self.plan.per_epoch == 0 or self.step >= self.plan.total)

    @property
    def over(self) -> bool:
        """No iteration follows, and the last one was validated: Ctrl-C may come between the two."""
        return bool(self.ended) and self.closed == self.step

    def next(self, plan: Plan) -> State:
        """The start of the segment after this one."""
        return State(
            plan,
            segment=self.segment + 1,
            first=self.updates,
            epochs=self.epochs + -(-self.step // self.plan.per_epoch),
            validation=self.validation,
            elapsed=self.elapsed,
        )

    def add_results(self, results: dict[str, Any], keep: Keep = "best", *, sound: bool = True) -> bool:
        """Records the results of a validation. Returns whether they are the best so far.

        Of equal APs the later is kept (at the start all are zero), but only a higher one counts as progress. An
        undefined AP is below any other, and so is that of results that are not ``sound``. To ``keep`` the last weights,
        each validation's replace those before.
        """
        results = results if sound else {**results, "sound": False}
        if keep == "last":
            self.best, self.best_results, self.last_results = self.updates, results, results
            return False
        old = None if self.best_results is None else _value(self.best_results)
        new = _value(results)
        self.last_results = results
        self.stale = 0 if old is None or new > old else self.stale + 1
        if old is not None and new < old:
            return False
        self.best, self.best_results = self.updates, results
        return True

    def to_json(self) -> dict[str, Any]:
        """``epoch`` and ``batch`` (within the epoch) are for people; they follow from the step."""
        values = {name: value for name, value in vars(self).items() if name != "plan"}
        position = {"epoch": self.epoch, "batch": self.step % self.plan.per_epoch}
        return {**values, **position, "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        names = set(cls.__dataclass_fields__) - {"plan"}
        known = {name: value[name] for name in names if name in value}  # early runs have no segments
        return cls(plan=Plan.from_json(value["plan"]), **known)


def _value(results: dict[str, Any]) -> float:
    """The AP to compare; lowest where it is undefined, or of losses that are not finite."""
    return -1.0 if results["AP"] is None or not results.get("sound", True) else float(results["AP"])


# ---------------------------------------------------------------------------------------- the time limit
MARGIN = 0.05  # of the limit, reserved for a pace that was measured too fast
UNTIMED_UPDATES = 2  # the first iterations fill caches and choose kernels; they are not representative
MAX_UPDATES, MIN_UPDATES = 50, 3  # iterations to measure, at most and at least, ...
SHARE = 0.03  # ... or until this share of the limit
CHECK_EVERY = 1 / 16  # of the limit: how often a plan is checked against the pace since
TOLERANCE = 0.02  # of the iterations: a plan that is off by less is kept
VALIDATIONS = 5  # at least, in a run whose length the time limit decides, ...
VALIDATION_SHARE = 0.2  # ... unless they took more than this share of the limit


def timed_plan(
    plan: Plan, most: int, *, done: int, elapsed: float, pace: float, validation: float, limit: float, val_every: int
) -> Plan:
    """``plan`` with as many iterations as end within ``limit`` seconds, with a validation every ``val_every`` epochs.

    ``done`` iterations took ``elapsed`` seconds; ``pace`` is seconds per iteration, ``validation`` seconds for one pass
    over the validation images. Never more than ``most`` iterations; what is left of the stages changes in proportion.
    Where that leaves fewer than :data:`VALIDATIONS`, they come more often, if they are cheap.
    """
    closed = max(0, done - 1) // plan.per_epoch  # an epoch that ends at ``done`` is still to be validated

    def longest(every: int) -> Plan:
        passed = closed // every

        def ends(total: int) -> float:
            passes = math.ceil(math.ceil(total / plan.per_epoch) / every) - passed
            return elapsed + (total - done) * pace + passes * validation

        low, high = done, most
        while low < high:  # the largest total that ends in time; ``ends`` never falls
            middle = (low + high + 1) // 2
            if ends(middle) <= limit * (1 - MARGIN):
                low = middle
            else:
                high = middle - 1
        return Plan(plan.per_epoch, _fit(plan.stages, done, low), timed=True)

    new = longest(val_every)
    every = max(1, new.epochs // VALIDATIONS)
    if every < val_every and math.ceil(new.epochs / every) * validation <= VALIDATION_SHARE * limit:
        return replace(longest(every), val_every=every)
    return new


class Pace:
    """Measures iterations until a plan can be made from them, or checked by them."""

    def __init__(self, limit: float, elapsed: float) -> None:
        self.limit = limit  # seconds
        self.count = 0  # iterations in all
        self.planned_at = elapsed  # seconds into the run
        self._last = 0.0
        self.spent = 0.0
        self.measured = 0

    def add(self, seconds: float) -> None:
        """One iteration, its data included."""
        self.count += 1
        if self.count > UNTIMED_UPDATES or seconds > SHARE * self.limit:
            self.spent += seconds
            self.measured += 1

    @property
    def ready(self) -> bool:
        enough = self.measured >= MAX_UPDATES or self.spent >= SHARE * self.limit
        return enough and (self.measured >= MIN_UPDATES or self.spent >= 4 * SHARE * self.limit)

    @property
    def seconds(self) -> float:
        """Seconds per iteration since the last plan, the mean: the sum is what has to fit."""
        known = self.measured >= MIN_UPDATES or not self._last
        return self.spent / max(1, self.measured) if known else self._last

    def due(self, elapsed: float, plan: Plan, done: int) -> bool:
        """Whether it is time for a plan: the first one, or a check whether the present one still fits."""
        if not plan.timed:
            return self.ready
        late = done >= plan.total or elapsed >= self.planned_at + CHECK_EVERY * self.limit
        return late and self.measured >= MIN_UPDATES

    def plan(self, state: State, most: int, elapsed: float, val_every: int) -> Plan:
        """The plan of ``state`` at this pace: see :func:`timed_plan`."""
        return timed_plan(
            state.plan,
            most,
            done=state.step,
            elapsed=elapsed,
            pace=self.seconds,
            validation=state.validation,
            limit=self.limit,
            val_every=val_every,
        )

    def restart(self, elapsed: float) -> None:
        """Measures afresh: a plan was made or checked."""
        self._last, self.planned_at, self.spent, self.measured = self.seconds, elapsed, 0.0, 0


def differs(old: Plan, new: Plan) -> bool:
    """Whether the length has changed by enough to change the learning rate's schedule."""
    return abs(new.total - old.total) > TOLERANCE * new.total or not old.timed


def _fit(stages: Sequence[int], done: int, total: int) -> tuple[int, ...]:
    """Lengths that sum to ``total``: what is left of each stage after ``done`` iterations changes in proportion."""
    ends = [0, *itertools.accumulate(stages)]
    left = ends[-1] - done
    if left <= 0:  # all done: the last stage is extended
        return (*stages[:-1], stages[-1] + total - ends[-1])
    moved = [end if end <= done else done + round((end - done) * (total - done) / left) for end in ends]
    return tuple(b - a for a, b in itertools.pairwise(moved))
