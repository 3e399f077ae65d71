"""What the stages of an alternation hand to each other: proposals, and the weights that the training began with.

Both lie in the run folder until the run ends, because after a stop neither could be made again: the weights that made
the proposals have learned on, and the file that the first weights came from may be gone.
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
from ...data.images.load import load_image
from ...data.records.dataset import Dataset, Record
from ...errors import FovealError, UsageError
from ...external_proposals.cache import CachedProposals, ComputeProposals, ProposalResult, attach_tables, ensure_cached
from ...external_proposals.detector import proposal_maker, proposal_setting
from ...recipe import Recipe, Stage
from ..loop.optimizers import check_trains

if TYPE_CHECKING:
    from ...assembly.detector import Detector

START, PROPOSALS = "start", "proposals"  # folders in the run's
SETTING = "stage_proposals"  # in state.json: what made those of the present stage
RESTS = {"rpn": ("roi_head.", "mask_head."), "roi": ("rpn_head.",)}  # what has no loss while a task learns alone


# ------------------------------------------------------------------------------------------------ the recipe
def check_alternation(detector: Detector, fit: Recipe) -> None:
    """Raises :class:`UsageError` where a stage names what this detector has not, or what would not learn in it."""
    trainable = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
    state = detector.state_dict()
    if fit.stages[0].begin:
        raise UsageError("fit.stages: begin is for later stages; the first one begins where the training does")
    for stage in fit.stages:
        check_trains(stage, trainable)
        for prefix in stage.begin:
            if not any(name.startswith(prefix) for name in state):
                raise UsageError(f"fit.stages: begin names {prefix!r}, and no parameter's name starts with it")
        if stage.learning is not None:
            _check_alone(detector, stage, stage.learning, trainable)


def _check_alone(detector: Detector, stage: Stage, task: str, trainable: Sequence[str]) -> None:
    asked = 'inputs="proposals"' if stage.inputs == "proposals" else f"task={task!r}"
    if not isinstance(detector, TwoStage) or not detector.has_proposals:
        kind = type(detector.spec).__name__
        raise UsageError(f"fit.stages: {asked} is for a detector with an RPN and a second stage; {kind} is none")
    idle = next((n for n in trainable if n.startswith(RESTS[task]) and n.startswith(stage.trains)), None)
    if idle is not None:
        raise UsageError(
            f"fit.stages: {asked} leaves {idle.partition('.')[0]} without a loss, and trains={stage.trains} names it",
            fix="Name in trains what learns, such as backbone",
        )


# ------------------------------------------------------------------------------------------- the first weights
def save_initial(detector: nn.Module, out: Path, fit: Recipe, described: dict[str, Any]) -> None:
    """Stores what any stage goes back to, before the first update."""
    checkpoint.remove(out / START)
    names = tuple(prefix for stage in fit.stages for prefix in stage.begin)
    if names:
        state = {name: tensor for name, tensor in detector.state_dict().items() if name.startswith(names)}
        checkpoint.save(out / START, 0, checkpoint.Content(state, {}, {}, {}, described))


def restore_initial(detector: nn.Module, out: Path, stage: Stage) -> None:
    """Puts the parameters and buffers that ``stage.begin`` names back to where the training began.

    Raises :class:`~foveal.checkpoints.folder.DamagedCheckpoint` where they are gone or damaged.
    """
    if stage.begin:
        state = checkpoint.read(out / START / "step-0").model
        first = {name: tensor for name, tensor in state.items() if name.startswith(stage.begin)}
        detector.load_state_dict(first, strict=False)


# ------------------------------------------------------------------------------------------------ the proposals
@dataclass(frozen=True)
class StageProposals:
    """The proposals of the detector as it stands when a stage begins."""

    root: Path  # of the proposals' folders
    setting: str
    make: ComputeProposals
    fabric: Fabric

    @classmethod
    def of(cls, detector: TwoStage, out: Path, fabric: Fabric, resumed: checkpoint.Content | None) -> Self:
        """``resumed``: a checkpoint within the stage. Its weights have learned on, so that nothing is made any more."""
        detector.eval()  # the loop that follows lets it train again
        if resumed is not None:
            return cls(out / PROPOSALS, resumed.state[SETTING], _none, fabric)
        setting = proposal_setting(detector, training=True)
        return cls(out / PROPOSALS, setting, proposal_maker(detector, training=True), fabric)

    @property
    def fixed(self) -> dict[str, Any]:
        """What state.json has to say of them."""
        return {SETTING: self.setting}

    def fill(self, dataset: Dataset, tell: Callable[[int, int], None], check: Callable[[], None]) -> Dataset:
        """The data set with all proposals in its records, made where they are not stored yet. ``check`` may raise after
        every image; the next call goes on from there. Several processes make a share each."""
        fabric, records = self.fabric, dataset.records

        def step(done: int, total: int) -> None:
            check()
            tell(done, total)

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
        return attach_tables(dataset, [done.table], done.keys, len(done.table))  # all of each image


def _none(records: Sequence[Record]) -> Generator[ProposalResult, None, None]:
    """Stands for a maker where all that can be read was made: says so of the rest."""
    for index, record in enumerate(records):
        try:
            load_image(record.path)
        except FovealError as error:
            yield index, error
            continue
        raise FovealError(
            "the proposals that this stage began with are gone, or the image has changed since",
            path=record.path,
            fix="Begin a new run",
        )


def remove_handover(out: Path) -> None:
    """What a run that has ended needs no more."""
    checkpoint.remove(out / START)
    checkpoint.remove(out / PROPOSALS)
