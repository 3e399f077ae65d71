"""One training run from its arguments to its results: folder, processes, data, detector, loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from ..checkpoints import folder as checkpoint
from ..checkpoints.content import Content
from ..checkpoints.folder import DamagedCheckpoint, Run
from ..checkpoints.initial import begin, initial_pixels
from ..checkpoints.transfer import LoadReport
from ..config.show import show
from ..config.table import custom_parts
from ..data.records.fingerprint import fingerprint, proposal_fingerprint
from ..data.records.segmentation import check_masks
from ..data.records.trained_on import image_hashes, pack, unread
from ..errors import UsageError
from ..files.atomic import read_derived, write_json
from ..recipe import Keep, Precision
from ..runtime import launchers, process_group, processes
from ..runtime.precision import find_device
from ..runtime.progress import Console
from ..types import inference_batch
from .arguments import TrainArguments
from .datasets import Datasets, read_sets
from .loop.job import Job, SessionOver
from .loop.log import Log
from .loop.replan import reopened
from .loop.state import State
from .loop.update import START, derive_seed
from .loop.validate import Validator
from .precision_trial import prepare_for_training, tried
from .resume import (
    Change,
    Comparison,
    as_divided,
    check_accepted,
    check_best,
    has_length,
    kept_convention,
    open_folder,
    record_changes,
    recorded,
    set_aside,
    write_inventories,
)
from .run_record import banner, results, run_record
from .stages.alternation import save_initial
from .stages.runner import Loaders, check_detector, check_recipe, clear, is_complete, run_segments

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec


def train_one(spec: Spec, arguments: TrainArguments, began: float) -> Run:
    """One run, new or resumed. ``began`` is when it was called, by ``time.monotonic``."""
    # ---- a run that exists already
    resumed, damaged = open_folder(arguments.folder, arguments.resume) or (None, [])
    if resumed is not None and arguments.convention is None:
        arguments = replace(arguments, convention=kept_convention(arguments.folder))
    deadline = math.inf
    if resumed is not None and arguments.max_time is not None and has_length(arguments.folder):
        deadline, arguments = began + arguments.max_time, replace(arguments, max_time=None)
    if resumed is not None and is_complete(ended := State.from_json(resumed.state), spec.fit):
        calls = recorded(arguments.folder).get("arguments", {})
        again = reopened(ended, arguments.epochs, arguments.max_time, calls)
        if again is None:
            return _complete(arguments, ended, spec.fit.keep)
        resumed = replace(resumed, state={**resumed.state, **again.to_json()})
    stored = {} if resumed is None else resumed.state
    setup, times = set_up(spec, arguments, resumed)
    spec, arguments, fabric, console = setup.spec, setup.arguments, setup.fabric, setup.console
    for line in banner(arguments, spec, setup.batch, fabric, setup.precision + times, setup.sets):
        console.print(line)
    _prepare_folder(setup, damaged, setup.accepted_changes())

    # ---- the loop
    offset, step = stored.get("log_bytes", 0), stored.get("first", 0) + stored.get("step", 0)
    log = Log(
        arguments.folder, active=fabric.is_global_zero, offset=offset, step=step, tensorboard=arguments.tensorboard
    )
    console.print_once([log.problem])
    try:
        job = replace(setup.job(began), deadline=deadline)
        try:
            state = run_segments(job, setup.loaders(), resumed, log, console)
        except SessionOver:
            return Run(arguments.folder)
    finally:
        log.close()
        console.print_once([log.problem])
        console.close()
    if fabric.is_global_zero:
        write_json(arguments.folder / "results.json", results(state, spec.fit.keep))
    process_group.meet(fabric)
    return Run(arguments.folder)


def _choose_precision(
    spec: Spec, arguments: TrainArguments, classes: Sequence[str], stored: str | None, device: torch.device
) -> tuple[Precision, str]:
    """The precision, and a note on the times that decided; ``stored``: that of the run that is resumed."""
    asked = spec.fit.precision if arguments.precision in (None, "auto") else arguments.precision
    if stored is None and asked is None:
        return tried(spec, classes, device, arguments.devices)
    return processes.choose_precision(stored, asked, device), ""


def _complete(arguments: TrainArguments, state: State, keep: Keep) -> Run:
    """Reports it, and writes the results that a kill right after the last checkpoint left out."""
    out, writes = arguments.folder, processes.first_process()
    line = f"{out}: the run is complete ({state.ended}) after {state.epochs + state.plan.epochs} epochs"
    if not state.segment:
        line += "; for more, raise --epochs" + (" or --max-time" if state.plan.timed else "")
    Console(shown=arguments.progress and writes).print(line)
    if writes:
        clear(out)
    if writes and not read_derived(out / "results.json"):
        write_json(out / "results.json", results(state, keep))
    return Run(out)


# ------------------------------------------------------------------------------------- data and detector
@dataclass(frozen=True)
class Setup:
    """A run whose processes, data and detector are ready."""

    spec: Spec
    arguments: TrainArguments
    fabric: Fabric
    precision: Precision
    console: Console
    resumed: Content | None
    sets: Datasets
    batch: int  # images per iteration, over all processes
    detector: Detector  # on its device
    loaded: LoadReport | None  # which tensors come from given weights; None: none do, or the run is resumed

    @cached_property
    def described(self) -> dict[str, Any]:
        """What goes into spec.json."""
        classes = list(self.detector.classes)
        own = custom_parts(self.spec)
        described = {"spec": show(self.spec), "classes": classes, "versions": processes.versions()}
        if self.fabric.is_global_zero:  # which writes it
            before = "" if self.resumed is None else self.resumed.spec.get("trained_on", "")
            hashes = image_hashes(self.sets.training.records)
            self.console.print(unread(self.sets.training.records, hashes))
            described["trained_on"] = pack(hashes, before, self.detector.trained_on)
        return {**described, "parts": own} if own else described

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """What goes into state.json and must not change on resuming."""
        masks = self.detector.has_masks
        return {
            "seed": self.arguments.seed,
            "batch_size": self.batch,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "processes": self.fabric.world_size,
            "data": fingerprint(self.sets.training, masks=masks),
            "val_data": fingerprint(self.sets.validation, masks=masks),
            "proposals": proposal_fingerprint(self.sets.training),
        }

    def accepted_changes(self) -> list[Change]:
        """The differences from the run that is resumed, reported. Raises :class:`UsageError` for one that is not
        accepted."""
        if self.resumed is None:
            return []
        out, masks, parts = self.arguments.folder, self.detector.has_masks, self.arguments.parts
        compared = Comparison(self.resumed, out, self.spec, self.described, self.fixed, self.sets, masks, parts)
        changes = compared.changes()
        check_accepted(changes, self.arguments.accept or ())
        self.console.print(compared.processes())
        for change in changes:
            self.console.print(f"accepted: {change.text}")
        return changes

    def loaders(self) -> Loaders:
        """What makes the training batches of each stage."""
        return Loaders(
            self.sets.training,
            self.spec,
            self.batch // self.spec.fit.accumulate,
            self.arguments.seed,
            workers=processes.workers(self.arguments.workers, self.fabric.device),
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            masks=self.detector.has_masks,
        )

    def job(self, began: float) -> Job:
        """The run that the training loops of all stages share."""
        fabric, fit, sets = self.fabric, self.spec.fit, self.sets
        validator = Validator(
            fabric,
            sets.validation,
            self.spec,
            self.arguments.seed,
            batch=inference_batch(fabric.device),
            workers=min(processes.workers(self.arguments.workers, fabric.device), 2),
            split=sets.validation.split or "val",
            images=self.arguments.log_images if self.arguments.tensorboard else 0,
        )
        return Job(
            arguments=self.arguments,
            fabric=fabric,
            detector=self.detector,
            fit=fit,
            train=sets.training,
            validator=validator,
            spec=self.described,
            fixed=self.fixed,
            batch=self.batch,
            began=began,
        )


def set_up(spec: Spec, arguments: TrainArguments, resumed: Content | None) -> tuple[Setup, str]:
    """Processes, data and detector of a run, and a note on the precision. Nothing is written."""
    spec = spec.with_pixels(initial_pixels(spec, arguments.weights, resumed, arguments.parts))
    sets = open_sets(arguments, resumed)
    stored = {} if resumed is None else resumed.state
    device = find_device(arguments.device)
    fixed = None if "precision" in (arguments.accept or ()) else stored.get("precision")
    torch.set_num_threads(stored.get("threads", torch.get_num_threads()))
    precision, times = _choose_precision(spec, arguments, sets.training.classes, fixed, device)
    fabric = processes.launch(device, arguments.devices, precision)
    arguments = replace(arguments, out=Path(fabric.broadcast(str(arguments.folder))))  # the first process has its lock
    console = Console(shown=arguments.progress and fabric.is_global_zero, verbose=arguments.verbose)
    console.print(launchers.single_process_note(arguments.devices))
    sets = sets.with_proposals(spec.source, arguments.proposals, fabric, console)
    return _with_detector(spec, arguments, sets, fabric, precision, console, resumed), times


def _with_detector(
    spec: Spec,
    arguments: TrainArguments,
    sets: Datasets,
    fabric: Fabric,
    precision: Precision,
    console: Console,
    resumed: Content | None,
) -> Setup:
    """Builds the detector; a new run gets its initial weights."""
    batch = arguments.batch or spec.fit.batch
    if batch % (spec.fit.accumulate * fabric.world_size):
        parts = f"{fabric.world_size} processes x fit.accumulate={spec.fit.accumulate}"
        raise UsageError(f"a batch of {batch} cannot be divided evenly by {parts}")
    check_recipe(spec.fit, arguments.epochs, arguments.max_time, fabric.world_size)
    torch.manual_seed(derive_seed(START, arguments.seed))
    detector = spec.build(sets.training.classes)
    if detector.has_masks:
        for gap in filter(None, map(check_masks, sets.both)):
            console.print(gap)
    check_detector(detector, spec.fit)
    loaded: LoadReport | None = None
    if resumed is None:
        loaded, lines = begin(spec, detector, arguments.weights, arguments.parts)
        for line in lines:
            console.print(line)
    prepare_for_training(detector, fabric.device, precision)
    return Setup(spec, arguments, fabric, precision, console, resumed, sets, batch, detector, loaded)


def open_sets(arguments: TrainArguments, resumed: Content | None = None) -> Datasets:
    """The datasets of a run, divided as a resumed run divided them."""
    sets = read_sets(arguments)
    if resumed is not None and arguments.limit is None:
        sets = as_divided(sets, recorded(arguments.folder).get("divided"))
    return sets.limited(arguments.limit)


# ------------------------------------------------------------------------------------------- the folder
def _prepare_folder(setup: Setup, damaged: list[DamagedCheckpoint], changes: list[Change]) -> None:
    """The first process writes run.json, or repairs the folder of a resumed run and reports it."""
    arguments, fabric, fit, out = setup.arguments, setup.fabric, setup.spec.fit, setup.arguments.folder
    loaded = None if setup.loaded is None else setup.loaded.to_dict()
    record = {**run_record(arguments, setup.described, setup.fixed, fabric, setup.sets), "start": loaded}
    copies = 3 + (fit.ema is not None)  # weights, at most two of an optimizer, the average

    def prepare() -> list[str]:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.check_space(out, setup.detector.parameters(), copies=copies)
        changed = any(change.name in ("data", "val") for change in changes)
        unread = write_inventories(out, setup.sets, setup.fixed, masks=setup.detector.has_masks, anew=changed)
        if setup.resumed is not None:
            record_changes(out, record, State.from_json(setup.resumed.state).updates, changes)
            return [*unread, *set_aside(out, damaged)]
        checkpoint.remove(out / "checkpoints")
        save_initial(setup.detector, out, fit, setup.described)
        write_json(out / "run.json", record)
        return unread

    fabric.barrier()  # every process has looked at the folder before the first one writes
    for line in processes.first_alone(fabric, prepare):
        setup.console.print(line)
    if setup.resumed is not None:
        stored = setup.resumed.state
        at = f"resuming after iteration {State.from_json(stored).updates}"
        other = any(change.name == "val" for change in changes)
        for line in (check_best(out, stored, other_images=other), at):
            setup.console.print(line)
