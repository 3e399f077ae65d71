"""Where a training stands: everything but tensors that a checkpoint has to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .plan import Plan

FINISHED, STOPPED_EARLY, OUT_OF_TIME = "finished", "stopped early", "out of time"


@dataclass
class State:
    """Changes with every update; all the rest of a run is fixed."""

    plan: Plan
    segment: int = 0  # which of ``Fit.segments`` it is in; what follows is of this one
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
