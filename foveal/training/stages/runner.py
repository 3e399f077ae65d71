"""The stages of a recipe, one after the other: those that one loop runs together, and those that are solved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric

from ...checkpoints import folder as checkpoint
from ...data.loader.loader import Loader
from ...data.loader.stored_maps import Pooled
from ...data.loader.window_batches import Crops, WindowLoader
from ...data.records.dataset import Dataset
from ...errors import UsageError
from ...recipe import SVM, Recipe, Ridge, Stage
from ...runtime.interrupt import Interrupt
from ...runtime.progress import Progress
from ..loop.job import Job
from ..loop.log import Log
from ..loop.loop import Loop, judge, keep, now
from ..loop.state import FINISHED, Plan, State
from .alternation import StageProposals, remove_handover, restore_initial
from .cache_maps import OnMaps, store_maps
from .closed_form import near, remove_fitted, run_fitted
from .features import Extraction

if TYPE_CHECKING:
    from ...assembly.detector import Spec


@dataclass(frozen=True)
class Loaders:
    """Makes the loader of a segment; ``batch`` counts its images, or windows, over all processes."""

    dataset: Dataset
    spec: Spec
    batch: int
    seed: int
    workers: int
    rank: int
    world: int
    masks: bool  # of the objects, for a detector that learns them

    def of(self, job: Job, console: Progress) -> Job:
        """The job of a segment with its loader and, where that is a part of the detector, what looks at the batches."""
        fit, spec, stage = self.spec.fit, self.spec, job.fit.stages[0]
        shared: dict[str, Any] = {"workers": self.workers, "rank": self.rank, "world": self.world}
        shared |= {"difficult": fit.difficult, "crowd": fit.crowd}
        if stage.inputs in ("images", "proposals"):
            return replace(
                job,
                loader=Loader(self.dataset, spec.input, fit.augment, self.batch, self.seed, masks=self.masks, **shared),
            )
        shared["flip"] = sum(t.p for t in fit.augment)  # one HorizontalFlip at most
        pool: Any = spec.pool
        if stage.inputs == "maps":
            return self._on_maps(job, console, pool, shared)
        loader = WindowLoader(self.dataset, Crops(pool, spec.input.fill), stage.draw, self.batch, self.seed, **shared)
        return replace(job, loader=loader)

    def _on_maps(self, job: Job, console: Progress, pool: Any, shared: dict[str, Any]) -> Job:
        detector = job.detector
        with Interrupt() as interrupt:
            tell = console.making("maps")

            def step(done: int, total: int) -> None:
                interrupt.check()
                tell(done, total)

            mirrored, autocast = shared["flip"] > 0, job.fabric.autocast
            store, skipped = store_maps(
                detector, self.dataset, job.out, mirrored=mirrored, autocast=autocast, step=step
            )
        for message in skipped.values():
            console.say(f"warning: left out: {message}")
        draw = job.fit.stages[0].draw
        loader = WindowLoader(
            self.dataset, Pooled(store, pool, detector.strides), draw, self.batch, self.seed, **shared
        )
        return replace(job, loader=loader, learner=OnMaps(detector))


def check_recipe(fit: Recipe, epochs: int | None, max_time: float | None, processes: int) -> None:
    """Raises :class:`UsageError` for what a recipe of several kinds of stages cannot do."""
    if len(fit.segments) > 1 and (epochs is not None or max_time is not None):
        raise UsageError(
            "--epochs and --max-time mean one kind of stage, and this recipe has several",
            fix="Set fit.epochs, or the epochs of each stage: fit.stages.0.epochs=3",
        )
    if processes > 1 and any(stage.inputs in ("maps", "features") for stage in fit.stages):
        raise UsageError("stages that learn from stored maps or features run in one process")


def is_complete(state: State, fit: Recipe) -> bool:
    """Whether nothing is left to do for a run that stands there."""
    return state.over and state.segment == len(fit.segments) - 1


def run_segments(job: Job, resumed: checkpoint.Content | None, log: Log, console: Progress) -> State:
    """Runs what is left of a recipe; ``job.loader`` makes the loaders. The state at its end."""
    segments, detector = job.fit.segments, job.detector
    learnable = {name: parameter.requires_grad for name, parameter in detector.named_parameters()}
    state = None if resumed is None else State.from_json(resumed.state)
    index, before = (0 if state is None else state.segment), None
    if resumed is not None and state is not None and state.over:
        detector.load_state_dict(resumed.model)
        index, before, resumed = index + 1, state, None
    while True:
        stages = segments[index]
        for name, parameter in detector.named_parameters():
            parameter.requires_grad_(learnable[name])
        if len(segments) > 1:
            console.begin(f"stage {index + 1} of {len(segments)}: {_described(stages[0])}")
        part = replace(job, fit=replace(job.fit, stages=stages), before=before)
        solver = stages[0].solver
        if isinstance(solver, SVM | Ridge):
            state = _solve(part, solver, job.fit, log, console)
        else:
            state = _descend(part, resumed, log, console)
        index, before, resumed = index + 1, state, None
        if index == len(segments):
            if job.fabric.is_global_zero:
                clear(job.out)
            return state
        job = replace(job, began=now())


def clear(out: Path) -> None:
    """What the stages of a run that has ended kept for each other."""
    remove_fitted(out)
    remove_handover(out)


def _described(stage: Stage) -> str:
    return stage.inputs + (f", {stage.task} alone" if stage.task else "")


def _descend(job: Job, resumed: checkpoint.Content | None, log: Log, console: Progress) -> State:
    stage = job.fit.stages[0]
    if stage.inputs == "proposals":
        own = StageProposals.of(job.detector, job.out, job.fabric, resumed)
        with Interrupt() as interrupt:
            train = own.fill(job.train, console.making("proposals"), interrupt.check)
        job = replace(job, train=train, fixed=job.fixed | own.fixed, loader=replace(job.loader, dataset=train))
    if resumed is None:
        restore_initial(job.detector, job.out, stage)
    job = job.loader.of(job, console)
    try:
        loop = Loop(job, resumed, log, console)
        state = loop.run()
    finally:
        job.loader.close()
    if loop.average is not None:  # what follows goes on from the weights to use
        job.detector.load_state_dict(loop.weights.state_dict())
    return state


def _solve(job: Job, solver: SVM | Ridge, recipe: Recipe, log: Log, console: Progress) -> State:
    """A segment that is one update: solved, validated, saved. Killed before that, it goes on with what is stored."""
    fabric: Fabric = job.fabric
    plan = Plan(1, (1,))
    state = State(plan) if job.before is None else job.before.next(plan)
    extraction = Extraction(job.detector, job.train, recipe, near(recipe), fabric.autocast)
    with Interrupt() as interrupt:
        run_fitted(solver, extraction, job.out, console, interrupt.check)
        found = job.validator(job.detector, interrupt.check, console.making("validated"))
    state.step = state.closed = 1
    state.ended, state.validation = FINISHED, found.seconds
    judge(state, found, type(solver).__name__, state.epochs + 1, log, console)
    state.elapsed += now() - job.began
    content = checkpoint.Content(
        model=job.detector.state_dict(),
        raw={},
        optimizer={},
        state={**state.to_json(), **job.fixed, "scaler": {}, "meter": {}, "log_bytes": log.offset()},
        spec=job.spec,
    )
    keep(job.out / "checkpoints", state, content)
    return state
