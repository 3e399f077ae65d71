"""Alternating training: the proposals that a stage learns from, and the initial weights that a stage is reset to.

Both are stored in the run folder until the run ends, because after an interruption neither could be made again: the
weights that made the proposals have changed since, and the file of the initial weights may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightning_fabric import Fabric
from torch import nn

from ...assembly.two_stage import TwoStage
from ...checkpoints import folder as checkpoint
from ...checkpoints.content import Content
from ...data.images.load import load_image
from ...data.records.dataset import Dataset, Record
from ...errors import FovealError, UsageError
from ...external_proposals.cache import CachedProposals, ComputeProposals, ProposalResult, attach_tables, ensure_cached
from ...external_proposals.detector import proposal_maker, proposal_setting
from ...files.aliases import OnProgress
from ...recipe import GradientStage, OnProposals, Recipe, Stage
from ..loop.optimizers import check_trains

if TYPE_CHECKING:
    from ...assembly.detector import Detector

START, PROPOSALS = "start", "proposals"  # folders in the run's
SETTING = "stage_proposals"  # key in state.json: the setting that made those of the present stage
IDLE = {"rpn": ("roi_head.", "mask_head."), "roi": ("rpn_head.",)}  # without a loss in a stage of that task alone


# ------------------------------------------------------------------------------------------------ the recipe
def check_alternation(detector: Detector, fit: Recipe) -> None:
    """Raises :class:`UsageError` where a stage names parameters that this detector lacks or that get no loss."""
    trainable = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
    state = detector.state_dict()
    if _reset_by(fit.stages[0]):
        raise UsageError("fit.stages: begin is for later stages; the first stage starts from the initial weights")
    for stage in fit.stages:
        check_trains(stage, trainable)
        for prefix in _reset_by(stage):
            if not any(name.startswith(prefix) for name in state):
                raise UsageError(f"fit.stages: begin names {prefix!r}, but no parameter's name starts with it")
        if stage.learning is not None:
            _check_single_task(detector, stage, stage.learning, trainable)


def _reset_by(stage: Stage) -> tuple[str, ...]:
    """Prefixes of what the stage resets to its initial values."""
    return stage.begin if isinstance(stage, GradientStage) else ()


def _check_single_task(detector: Detector, stage: Stage, task: str, trainable: Sequence[str]) -> None:
    name = type(stage).__name__ if isinstance(stage, OnProposals) else f"task={task!r}"
    if not isinstance(detector, TwoStage) or not detector.has_proposals:
        kind = type(detector.spec).__name__
        raise UsageError(f"fit.stages: {name} is for a detector with an RPN and a second stage; {kind} is not one")
    idle = next((n for n in trainable if n.startswith(IDLE[task]) and n.startswith(stage.trains)), None)
    if idle is not None:
        raise UsageError(
            f"fit.stages: {name} leaves {idle.partition('.')[0]} without a loss, but trains={stage.trains} names it",
            fix="Name in trains the parts that have a loss, such as backbone",
        )


# ----------------------------------------------------------------------------------------- initial weights
def save_initial(detector: nn.Module, out: Path, fit: Recipe, described: dict[str, Any]) -> None:
    """Stores the weights that a later stage is reset to, before the first iteration."""
    checkpoint.remove(out / START)
    names = tuple(prefix for stage in fit.stages for prefix in _reset_by(stage))
    if names:
        state = {name: tensor for name, tensor in detector.state_dict().items() if name.startswith(names)}
        checkpoint.save(out / START, 0, Content(state, {}, {}, {}, described))


def restore_initial(detector: nn.Module, out: Path, stage: GradientStage) -> None:
    """Resets the parameters and buffers that ``stage.begin`` names to their initial values.

    Raises :class:`~foveal.checkpoints.folder.DamagedCheckpoint` where the stored ones are gone or damaged.
    """
    if stage.begin:
        state = checkpoint.read(out / START / "step-0").model
        initial = {name: tensor for name, tensor in state.items() if name.startswith(stage.begin)}
        detector.load_state_dict(initial, strict=False)


# ----------------------------------------------------------------------------------------------- proposals
@dataclass(frozen=True)
class StageProposals:
    """The proposals that the detector makes at the start of a stage."""

    root: Path  # of the proposals' folders
    setting: str
    make: ComputeProposals
    fabric: Fabric

    @classmethod
    def of(cls, detector: TwoStage, out: Path, fabric: Fabric, resumed: Content | None) -> Self:
        """``resumed``: a checkpoint within the stage. Its weights have changed since, so that no proposals are made."""
        detector.eval()  # the loop that follows puts it into training mode again
        if resumed is not None:
            return cls(out / PROPOSALS, resumed.state[SETTING], _none, fabric)
        setting = proposal_setting(detector, training=True)
        return cls(out / PROPOSALS, setting, proposal_maker(detector, training=True), fabric)

    @property
    def fixed(self) -> dict[str, Any]:
        """Their entry in state.json."""
        return {SETTING: self.setting}

    def fill(self, dataset: Dataset, on_progress: OnProgress, check: Callable[[], None]) -> Dataset:
        """The dataset with all proposals in its records, made where they are not stored yet. ``check`` may raise after
        every image; the next call continues there. Several processes make a share each."""
        fabric, records = self.fabric, dataset.records

        def step(done: int, total: int) -> None:
            check()
            on_progress(done, total)

        def stored(part: Sequence[Record]) -> CachedProposals:
            with fabric.autocast():
                return ensure_cached(part, self.setting, self.make, root=self.root, progress=step)

        if fabric.world_size > 1:
            stored(records[fabric.global_rank :: fabric.world_size])
            fabric.barrier()
            if fabric.is_global_zero:
                stored(records)  # joined into one file
            fabric.barrier()
        done = stored(records)
        done.check()
        return attach_tables(dataset, [done.table], done.keys, len(done.table))  # all of each image


def _none(records: Sequence[Record]) -> Generator[ProposalResult, None, None]:
    """The maker of a resumed stage, which must not make any: skips unreadable images, raises for all others."""
    for index, record in enumerate(records):
        try:
            load_image(record.path)
        except FovealError as error:
            yield index, error
            continue
        raise FovealError(
            "the stored proposals of this stage are missing, or the image has changed since",
            path=record.path,
            fix="Start a new run",
        )


def remove_alternation(out: Path) -> None:
    """Removes the stored weights and proposals of a run that has ended."""
    checkpoint.remove(out / START)
    checkpoint.remove(out / PROPOSALS)
