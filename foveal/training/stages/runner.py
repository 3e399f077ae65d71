"""Runs the stages of a recipe in order: those of iterations by the training loop, those in closed form by a solver."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from ...assembly.two_stage import TwoStage
from ...checkpoints.content import Content
from ...data.loader.loader import Loader
from ...data.loader.stored_maps import Pooled
from ...data.loader.window_batches import Crops, WindowLoader, WindowSource
from ...data.records.dataset import Dataset
from ...errors import UsageError
from ...recipe import GradientStage, OnProposals, OnStoredMaps, OnWindows, Recipe, Solve, WindowSampling
from ...runtime.interrupt import Interrupt
from ...runtime.progress import Console
from ..loop.job import BatchSource, Job, Segment, save_checkpoint
from ..loop.log import Log
from ..loop.loop import Loop, now
from ..loop.state import FINISHED, Plan, State
from .alternation import StageProposals, check_alternation, remove_alternation, restore_initial
from .cache_maps import PooledHead, check_maps, store_maps
from .closed_form import check_stages, fit_layer, remove_features, smallest_iou
from .features import Extraction
from .frozen_maps import FOLDER as FROZEN_MAPS
from .frozen_maps import FrozenMapStages, check_frozen_maps

if TYPE_CHECKING:
    from ...assembly.detector import Detector, Spec


def check_recipe(fit: Recipe, epochs: int | None, max_time: float | None, processes: int) -> None:
    """Raises :class:`UsageError` for options that a recipe of several kinds of stages does not allow."""
    if len(fit.segments) > 1 and (epochs is not None or max_time is not None):
        raise UsageError(
            "--epochs and --max-time mean one kind of stage, and this recipe has several",
            fix="Set fit.epochs, or the epochs of each stage: fit.stages.0.epochs=3",
        )
    if processes > 1 and any(isinstance(stage, OnStoredMaps | Solve) for stage in fit.stages):
        raise UsageError("stages that learn from stored maps or features run in one process")


def check_detector(detector: Detector, fit: Recipe) -> None:
    """Raises :class:`UsageError` where the stages do not suit the detector."""
    check_stages(detector, fit)
    check_alternation(detector, fit)
    check_frozen_maps(detector, fit)


def is_complete(state: State, fit: Recipe) -> bool:
    """Whether a run in this state has nothing left to do."""
    return state.over and state.segment == len(fit.segments) - 1


def clear(out: Path) -> None:
    """Removes what the stages of a run that has ended stored."""
    remove_features(out)
    remove_alternation(out)
    shutil.rmtree(out / FROZEN_MAPS, ignore_errors=True)


# ------------------------------------------------------------------------------------------- all stages
def run_segments(job: Job, loaders: Loaders, resumed: Content | None, log: Log, console: Console) -> State:
    """Runs what is left of a recipe. Returns the state at its end."""
    segments, detector = job.fit.segments, job.detector
    learnable = {name: parameter.requires_grad for name, parameter in detector.named_parameters()}
    state = None if resumed is None else State.from_json(resumed.state)
    index, before = (0 if state is None else state.segment), None
    if resumed is not None and state is not None:
        # before anything is computed with it: the maps that a stage stores are those of these weights
        detector.load_state_dict(resumed.model if state.over else resumed.raw or resumed.model)
        if state.over:
            index, before, resumed = index + 1, state, None
    while True:
        segment = segments[index]
        for name, parameter in detector.named_parameters():
            parameter.requires_grad_(learnable[name])
        if len(segments) > 1:
            console.begin_stage(f"stage {index + 1} of {len(segments)}: {_description(segment)}")
        if isinstance(segment, Solve):
            state = solve_stage(job, segment, before, log, console)
        else:
            state = train_stages(job, segment, loaders, before, resumed, log, console)
        index, before, resumed = index + 1, state, None
        if index == len(segments):
            if job.fabric.is_global_zero:
                clear(job.out)
            return state
        job = replace(job, began=now())


def _description(segment: Solve | tuple[GradientStage, ...]) -> str:
    """The class of the stages, and its settings of interest."""
    if isinstance(segment, Solve):
        return f"{type(segment.solver).__name__} on stored features"
    stage = segment[0]
    return type(stage).__name__ + (f", {stage.learning} losses only" if stage.learning else "")


# ----------------------------------------------------------------------------------- stages of iterations
@dataclass(frozen=True)
class Loaders:
    """Makes the loaders of the stages; ``batch`` counts images, or windows, over all processes."""

    dataset: Dataset
    spec: Spec
    batch: int
    seed: int
    workers: int
    rank: int
    world: int
    masks: bool  # of the objects, for a detector that learns them

    def images(self) -> Loader:
        """Batches of whole images; for ``fit.frozen_maps`` by canvas, and without worker processes."""
        spec, fit, settings = self.spec, self.spec.fit, self._shared
        if fit.frozen_maps is not None:
            settings |= {"workers": 0, "group_by_canvas": True, "views": fit.frozen_maps.views}
        repeat, masks = fit.repeat_threshold, self.masks
        usual = self.dataset, spec.input, fit.augment, self.batch, self.seed
        return Loader(*usual, masks=masks, repeat_threshold=repeat, **settings)

    def windows(self, source: WindowSource, draw: WindowSampling) -> WindowLoader:
        """Batches of windows."""
        return WindowLoader(self.dataset, source, draw, self.batch, self.seed, flip=self.flip, **self._shared)

    @property
    def flip(self) -> float:
        """The probability of a mirror image, for windows: they have one HorizontalFlip at most."""
        return float(sum(transform.p for transform in self.spec.fit.augment))

    @property
    def _shared(self) -> dict[str, Any]:
        fit = self.spec.fit
        split = {"workers": self.workers, "rank": self.rank, "world": self.world}
        return {**split, "difficult": fit.difficult, "crowd": fit.crowd}


def train_stages(
    job: Job,
    stages: tuple[GradientStage, ...],
    loaders: Loaders,
    before: State | None,
    resumed: Content | None,
    log: Log,
    console: Console,
) -> State:
    """Runs the stages of one loop, from their start or from a checkpoint within them."""
    stage, detector = stages[0], job.detector
    if isinstance(stage, OnProposals):  # they are made before any weights are reset
        job = _with_proposals(job, resumed, console)
        loaders = replace(loaders, dataset=job.train)
    if resumed is None:
        restore_initial(detector, job.out, stage)
    pool: Any = loaders.spec.pool
    batches: BatchSource

    def learner() -> nn.Module:
        return detector

    if isinstance(stage, OnWindows):
        batches = loaders.windows(Crops(pool, loaders.spec.input.fill), stage.draw)
    elif isinstance(stage, OnStoredMaps):
        source, head = _pooled(job, stage, pool, loaders.flip > 0, console)
        batches, learner = loaders.windows(source, stage.draw), lambda: head
    else:
        batches = loader = loaders.images()
        if job.fit.frozen_maps is not None:
            learner = FrozenMapStages(job, job.fit.frozen_maps, loader, loaders.dataset, console).begin
    try:
        loop = Loop(job, Segment(stages, batches, learner, before), resumed, log, console)
        state = loop.run()
    finally:
        batches.close()
    if loop.average is not None:  # the next stage starts from the averaged weights
        detector.load_state_dict(loop.weights.state_dict())
    return state


def _with_proposals(job: Job, resumed: Content | None, console: Console) -> Job:
    """The job with the detector's own proposals in its training set."""
    proposals = StageProposals.of(cast(TwoStage, job.detector), job.out, job.fabric, resumed)
    with Interrupt() as interrupt:
        train = proposals.fill(job.train, console.task("proposals"), interrupt.check)
    return replace(job, train=train, fixed=job.fixed | proposals.fixed)


def _pooled(job: Job, stage: OnStoredMaps, pool: Any, mirrored: bool, console: Console) -> tuple[Pooled, PooledHead]:
    """Stores the feature maps. Returns the source of the windows, and the part of the detector that learns."""
    detector = check_maps(job.detector, stage)
    with Interrupt() as interrupt:
        on_progress = console.task("maps")

        def step(done: int, total: int) -> None:
            interrupt.check()
            on_progress(done, total)

        store, skipped = store_maps(
            detector, job.train, job.out, mirrored=mirrored, autocast=job.fabric.autocast, step=step
        )
    console.print_once(f"warning: image skipped: {message}" for message in skipped.values())
    return Pooled(store, pool, detector.strides), PooledHead(detector)


# ------------------------------------------------------------------------------------ closed-form stages
def solve_stage(job: Job, stage: Solve, before: State | None, log: Log, console: Console) -> State:
    """A segment of one iteration: fits a layer, validates, saves. If killed before that, it reuses what is stored."""
    plan = Plan(1, (1,))
    state = State(plan) if before is None else before.next(plan)
    detector = cast(TwoStage, job.detector)
    extraction = Extraction(detector, job.train, job.fit, smallest_iou(job.fit), job.fabric.autocast)
    with Interrupt() as interrupt:
        fit_layer(stage.solver, extraction, job.out, console, interrupt.check)
        validation = job.validator(detector, interrupt.check, console.task("validated"))
    state.step = state.closed = 1
    state.ended, state.validation = FINISHED, validation.seconds
    job.validator.record(validation, state, type(stage.solver).__name__, state.epochs + 1, log, console)
    state.elapsed += now() - job.began
    save_checkpoint(job, state, log, model=detector.state_dict())
    return state
