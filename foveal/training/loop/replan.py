"""The length of a resumed run: kept, extended on request, or converted to epochs of another length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import UsageError
from ...recipe import GradientStage
from .job import Job
from .state import OUT_OF_TIME, STOPPED_EARLY, Plan, State, full_plan


def reopened(state: State, epochs: int | None, max_time: float | None, before: Mapping[str, Any]) -> State | None:
    """A run that has ended, ready for more iterations; None: the call asks for none.

    ``epochs`` and ``max_time`` (seconds) are those of the call, ``before`` holds those of the calls so far: the same
    command again asks for no more.
    """
    plan, timed = state.plan, state.plan.timed or state.ended == OUT_OF_TIME
    if max_time is not None:
        asked = epochs is not None and epochs > max(plan.epochs, before.get("epochs") or 0)
        asked = asked or (timed and max_time > (before.get("max_time") or 0))
    else:
        asked = epochs is not None and epochs * plan.per_epoch > state.step and (timed or epochs > plan.epochs)
    if not asked:
        return None
    return replace(state, ended="", stale=0 if state.ended == STOPPED_EARLY else state.stale)


def resume_plan(state: State, asked: Plan, job: Job, stages: Sequence[GradientStage]) -> tuple[State, int, str]:
    """The state of a run that is resumed, the most iterations that a time limit may make of it, and what has changed.

    The stored plan holds unless the call says otherwise; ``asked`` is that of the call. Raises :class:`UsageError`
    where the call contradicts what has been done.
    """
    fit, epochs, max_time = job.fit, job.arguments.epochs, job.arguments.max_time
    moved = in_epochs_of(state, asked.per_epoch)
    endless = full_plan(fit, stages, asked.per_epoch, endless=True)
    plan, most = _next_plan(moved, asked, endless, epochs, max_time)
    lines = []
    if asked.per_epoch != state.plan.per_epoch:
        lines.append(f"an epoch had {state.plan.per_epoch} iterations and now has {asked.per_epoch}")
    if plan.stages != moved.plan.stages and moved.plan != endless:
        lines.append(_change(job, stages, moved.plan, plan, moved.step))
    return replace(moved, plan=plan), most, "; ".join(lines)


def _next_plan(
    state: State, asked: Plan, endless: Plan, epochs: int | None, max_time: float | None
) -> tuple[Plan, int]:
    stored, done, elapsed = state.plan, state.step, state.elapsed
    if stored == endless and epochs is None and max_time is None:  # stopped before the pace was known: no length yet
        raise UsageError(
            "the run was started with --max-time and stopped before its length was planned",
            fix="Resume with --max-time, or with --epochs",
        )
    if stored.timed and max_time is not None:
        if done >= stored.total and elapsed > 0:  # reopened: an estimate, until the pace is measured again
            more = max(1, int(done * (max_time - elapsed) / elapsed))
            stored = replace(stored, stages=(*stored.stages[:-1], stored.stages[-1] + more))
        return stored, asked.total
    if stored != endless and (epochs is None or asked.stages == stored.stages):
        return stored, asked.total if stored.timed else min(stored.total, asked.total)
    if asked.total < done or (asked.total == done and stored != endless):
        raise UsageError(
            f"--epochs {epochs} is {asked.total} iterations, and the run has done {done}",
            fix="Give more epochs, or leave --epochs out",
        )
    return asked, asked.total


def in_epochs_of(state: State, per_epoch: int) -> State:
    """The same progress in epochs of another number of iterations, as the data or the batch has changed.

    The position in the epoch and in the learning rate's schedule stays, and the iterations of the whole run go on
    counting.
    """
    old = state.plan
    if per_epoch == old.per_epoch:
        return state

    def moved(step: int) -> int:
        epoch, rest = divmod(step, old.per_epoch)
        return epoch * per_epoch + rest * per_epoch // old.per_epoch

    ends = [moved(sum(old.stages[: k + 1])) for k in range(len(old.stages))]
    stages = tuple(end - start for start, end in zip([0, *ends], ends, strict=False))
    step = moved(state.step)
    closed = step if state.closed == state.step else moved(state.closed)
    plan = replace(old, per_epoch=per_epoch, stages=stages)
    return replace(state, plan=plan, step=step, closed=closed, first=state.updates - step)


def _change(job: Job, stages: Sequence[GradientStage], old: Plan, new: Plan, done: int) -> str:
    """A sentence about a changed length."""
    fit = job.fit

    def rate(plan: Plan) -> float:
        step = min(done, plan.total - 1)
        stage, first = plan.stage(step)
        return fit.scaled_lr(job.batch, stages[stage]) * fit.scale(step - first, plan.stages[stage], plan.per_epoch)

    verb = "ended with" if done >= old.total else "would have continued with"
    return (
        f"the run was planned for {old.epochs} epochs ({old.total} iterations) and is now planned for {new.epochs} "
        f"({new.total}): its {type(fit.schedule).__name__} schedule now covers all of them, so that it {verb} a "
        f"learning rate of {rate(old):.3g} and continues with {rate(new):.3g}"
    )
