"""One run from its arguments to its results: data, detector, loop, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from ..checkpoints import folder as checkpoint
from ..checkpoints.folder import Run
from ..checkpoints.initial import begin
from ..checkpoints.transfer import LoadReport
from ..config.show import show
from ..data.open import split_pair
from ..data.records.fingerprint import fingerprint, proposal_fingerprint
from ..data.records.segmentation import check_masks
from ..errors import UsageError
from ..files.atomic import write_json
from ..parts.layers.narrow import guard_narrow
from ..runtime import process_group as processes
from ..runtime import processes as environment
from ..runtime.precision import layout
from ..runtime.progress import Progress
from .arguments import Arguments
from .datasets import Datasets
from .loop import loop
from .loop.log import Log
from .loop.state import State
from .loop.update import START, derive_seed
from .loop.validate import Validator
from .resume import check_best, check_same, open_folder, set_aside
from .run_record import banner, results, run_record
from .stages.alternation import check_alternation, save_initial
from .stages.closed_form import check_stages
from .stages.runner import Loaders, check_recipe, clear, is_complete, run_segments

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec


def _train_one(spec: Spec, arguments: Arguments, began: float) -> Run:
    out, fit = arguments.out, spec.fit
    device = environment.find_device(arguments.device)

    # ---- a run that is there already
    there = open_folder(out, arguments.resume)
    resumed, damaged = there or (None, [])
    stored = {} if resumed is None else resumed.state
    if resumed is not None and is_complete(State.from_json(stored), fit):
        return _complete(arguments, State.from_json(stored))

    # ---- processes
    precision = environment.choose_precision(stored.get("precision"), arguments.precision or fit.precision, device)
    torch.set_num_threads(stored.get("threads", torch.get_num_threads()))
    fabric = environment.launch(device, arguments.devices, precision)
    first = fabric.is_global_zero
    console = Progress(shown=arguments.progress and first)

    # ---- data and detector
    sets = _divided(arguments).with_proposals(spec.source, arguments.proposals, fabric, console)
    training, validation = sets.both
    batch = arguments.batch or fit.batch
    if batch % (fit.accumulate * fabric.world_size):
        parts = f"{fabric.world_size} processes x fit.accumulate={fit.accumulate}"
        raise UsageError(f"a batch of {batch} cannot be divided evenly by {parts}")
    check_recipe(fit, arguments.epochs, arguments.max_time, fabric.world_size)
    torch.manual_seed(derive_seed(START, arguments.seed))
    detector = spec.build(training.classes)
    if detector.has_masks:
        for gap in filter(None, map(check_masks, sets.both)):
            console.say(gap)
    check_stages(detector, fit)
    check_alternation(detector, fit)
    taken: LoadReport | None = None
    if resumed is None:
        taken, said = begin(spec, detector, arguments.weights)
        for line in said:
            console.say(line)
    detector.to(fabric.device).to(memory_format=layout(detector, fabric.device))
    if precision != "32" and fabric.device.type == "cpu":
        guard_narrow(detector)

    # ---- the folder
    described = {"spec": show(spec), "classes": list(detector.classes), "versions": environment.versions()}
    fixed = {
        "seed": arguments.seed,
        "batch_size": batch,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": fabric.world_size,
        "data": fingerprint(training, masks=detector.has_masks),
        "val_data": fingerprint(validation, masks=detector.has_masks),
        "proposals": proposal_fingerprint(training),
    }
    for line in banner(arguments, spec, batch, fabric, precision, sets):
        console.say(line)
    if resumed is not None:
        console.say(check_same(resumed, spec, described, fixed))
    told = {
        **run_record(arguments, described, fixed, fabric, sets),
        "start": None if taken is None else taken.to_dict(),
    }
    buffers = 3 + (fit.ema is not None)  # weights, two of a solver at most, the average

    def prepare() -> list[str]:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.check_space(out, detector.parameters(), copies=buffers)
        if resumed is not None:
            return set_aside(out, damaged)
        checkpoint.remove(out / "checkpoints")
        save_initial(detector, out, fit, described)
        write_json(out / "run.json", told)
        return []

    fabric.barrier()  # every process has looked at the folder before the first one writes
    lines = environment.first_alone(fabric, prepare)
    if resumed is not None:
        for line in (*lines, check_best(out, stored), f"resuming after update {State.from_json(stored).updates}"):
            console.say(line)

    # ---- the loop
    job = _job(arguments, spec, fabric, detector, sets, described, fixed, batch, began)
    offset, step = stored.get("log_bytes", 0), stored.get("first", 0) + stored.get("step", 0)
    log = Log(out, active=first, offset=offset, step=step, tensorboard=arguments.tensorboard)
    try:
        state = run_segments(job, resumed, log, console)
    finally:
        log.close()
        console.close()
    if first:
        write_json(out / "results.json", results(state))
    processes.meet(fabric)
    return Run(out)


def _complete(arguments: Arguments, state: State) -> Run:
    """Says so, and writes the results that a kill right after the last checkpoint left out."""
    out, writes = arguments.out, environment.first_process()
    line = f"{out}: the run is complete ({state.ended})"
    if arguments.epochs is not None and arguments.epochs != state.plan.epochs:
        line += f" after {state.plan.epochs} epochs; for more, begin a new run with --weights {out}"
    Progress(shown=arguments.progress and writes).say(line)
    if writes:
        clear(out)
    if writes and not (out / "results.json").exists():
        write_json(out / "results.json", results(state))
    return Run(out)


def _divided(arguments: Arguments) -> Datasets:
    found = split_pair(
        arguments.data,
        val=arguments.val,
        split_map=arguments.split,
        seed=arguments.seed,
        images=arguments.images,
        classes=arguments.classes,
        others=arguments.others,
    )
    return Datasets(*found).limited(arguments.limit)


def _job(
    arguments: Arguments,
    spec: Spec,
    fabric: Fabric,
    detector: Detector,
    sets: Datasets,
    described: dict[str, Any],
    fixed: dict[str, Any],
    batch: int,
    began: float,
) -> loop.Job:
    fit, rank, world = spec.fit, fabric.global_rank, fabric.world_size
    workers = environment.workers(arguments.workers, fabric.device)
    loaders = Loaders(
        sets.training,
        spec,
        batch // fit.accumulate,
        arguments.seed,
        workers=workers,
        rank=rank,
        world=world,
        masks=detector.has_masks,
    )
    validator = Validator(
        fabric,
        sets.validation,
        fit,
        arguments.seed,
        batch=1 if fabric.device.type == "cpu" else 8,  # on a processor one picture at a time is fastest
        workers=min(workers, 2),
        split=sets.validation.split or "val",
    )
    return loop.Job(
        fabric=fabric,
        detector=detector,
        fit=fit,
        loader=loaders,
        train=sets.training,
        validator=validator,
        out=arguments.out,
        spec=described,
        fixed=fixed,
        batch=batch,
        seed=arguments.seed,
        epochs=arguments.epochs,
        max_time=arguments.max_time,
        save_every=arguments.save_every,
        began=began,
    )
