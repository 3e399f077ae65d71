"""``train``: from a spec and a data set to a run folder. The loop itself is in ``loop.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from ..config import override, show
from ..data.dataset import Dataset
from ..data.doctor import fold
from ..data.findings import count
from ..data.proposals import fill, from_source, kept
from ..data.reading import check_trainable, split_pair
from ..data.segmentation import check_masks
from ..data.subsets import Others
from ..errors import FovealError, UsageError
from ..fit import Fit
from ..json_files import write_json
from . import checkpoint, environment, loop
from .fitted import check_stages
from .handover import check_alternation, keep_start
from .log import Log
from .precision import layout
from .progress import Progress
from .resume import check_best, check_same, open_folder, set_aside
from .seeds import Run, train_seeds
from .segments import Loaders, check_recipe, clear, is_complete, run_segments
from .start import diluted, find_spec, load_backbone, load_weights, other_pixels, resting_at_random, stuck
from .state import State
from .step import START, noise
from .transfer import Transfer
from .validate import Validator

if TYPE_CHECKING:
    from ..detectors.base import Detector, Spec
    from ..parts.proposal_sources import ProposalSource

PathLike = str | Path


@dataclass(frozen=True)
class Arguments:
    """The call, as ``run.json`` keeps it."""

    data: PathLike | Sequence[PathLike]
    val: PathLike | Sequence[PathLike] | None
    split: Mapping[str, str] | None
    classes: Sequence[str] | None
    others: Others
    images: PathLike | None
    out: Path
    epochs: int | None
    batch: int | None
    seed: int
    weights: PathLike | None
    proposals: PathLike | Sequence[PathLike] | None
    resume: bool
    device: str
    devices: int | None
    precision: str | None
    workers: int | None
    max_time: float | None
    limit: int | None
    save_every: float
    progress: bool
    tensorboard: bool


def train(
    spec: Spec | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    out: PathLike,
    val: PathLike | Sequence[PathLike] | None = None,
    split: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    others: Others = "background",
    images: PathLike | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    weights: PathLike | None = None,
    proposals: PathLike | Sequence[PathLike] | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int | None = None,
    precision: str | None = None,
    workers: int | None = None,
    max_time: float | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    save_every: float = 300.0,
    progress: bool = True,
    tensorboard: bool = True,
) -> Run:
    """Trains a detector and leaves a run folder.

    ``spec``
        a spec, the name of a preset, or a run or checkpoint folder (its spec, and its weights unless given)
    ``data``, ``val``, ``split`` (``{"train": ..., "val": ...}``), ``classes``, ``others``, ``images``
        see :func:`foveal.data.reading.split_pair`
    ``out``
        the run folder; one that holds a run is refused without ``resume``
    ``epochs``
        in place of the recipe's
    ``batch``
        images an update over all processes, to which the learning rate is scaled
    ``seeds``
        so many runs, with seeds ``seed``, ``seed + 1``, ..., in ``out/seed-K``
    ``weights``
        a detector to start from: a run, a checkpoint, an alias or a file
    ``proposals``
        files of ``foveal proposals`` for a detector that takes them from outside; None: its own source, by the cache
    ``device``, ``devices``
        "auto", "cpu", "cuda" or "cuda:1"; processes on this machine (torchrun tells by itself)
    ``precision``
        "32", "bf16" or "16"; None takes bf16 where the processor is fast at it
    ``workers``
        processes that load images; None: by the number of cores
    ``max_time``
        seconds of wall time, validation included; decides alone where ``epochs`` is None
    ``limit``
        the first so many images of each set
    ``overrides``
        ``["fit.lr=0.01", ...]``
    ``save_every``
        seconds between checkpoints within an epoch
    ``progress``, ``tensorboard``
        whether to show lines on stderr, and to write TensorBoard events where that is installed

    Raises :class:`FovealError` for data or a folder that is refused, :class:`UsageError` for arguments that do not fit,
    :class:`~foveal.train.guard.NonFiniteLoss`, and ``KeyboardInterrupt`` after a checkpoint was saved.
    """
    began = loop.now()
    found, own_weights = find_spec(spec)
    found = override(found, list(overrides))
    arguments = Arguments(
        data=data,
        val=val,
        split=split,
        classes=classes,
        others=others,
        images=images,
        out=Path(out),
        epochs=epochs,
        batch=batch,
        seed=seed,
        weights=weights or own_weights,
        proposals=proposals,
        resume=resume,
        device=device,
        devices=devices,
        precision=precision,
        workers=workers,
        max_time=max_time,
        limit=limit,
        save_every=save_every,
        progress=progress,
        tensorboard=tensorboard,
    )
    if seeds > 1:
        return train_seeds(
            lambda k: _train_one(
                found, replace(arguments, seed=seed + k, out=arguments.out / f"seed-{seed + k}"), loop.now()
            ),
            arguments.out,
            seeds,
            seed,
            write=environment.first_process(),
        )
    return _train_one(found, arguments, began)


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
    screen = Progress(shown=arguments.progress and first)

    # ---- data and detector
    training, validation, note = _read_data(arguments)
    training, validation = _with_proposals(arguments, spec.source, fabric, screen, training, validation)
    batch = arguments.batch or fit.batch
    _check_batch(batch, fit, fabric.world_size)
    check_recipe(fit, arguments.epochs, arguments.max_time, fabric.world_size)
    torch.manual_seed(noise(START, arguments.seed))
    detector = spec.build(training.classes)
    if detector.has_masks:
        for gap in filter(None, map(check_masks, (training, validation))):
            screen.say(gap)
    check_stages(detector, fit)
    check_alternation(detector, fit)
    taken: Transfer | None = None
    if resumed is None and arguments.weights is not None:
        taken = load_weights(detector, arguments.weights)
    elif resumed is None:
        taken = load_backbone(spec, detector)
    if taken is not None:
        screen.say("\n".join(taken.lines()))
    if resumed is None and arguments.weights is None and (line := other_pixels(spec)):
        screen.say(line)
    if resumed is None and arguments.weights is None and stuck(spec, detector):
        screen.say(
            "warning: the backbone starts from random weights, and a part of it is frozen and will never learn; "
            "name a file in backbone.weights, or set backbone.frozen_stages=0 and backbone.norm=batch"
        )
    if resumed is None and arguments.weights is None and (parts := resting_at_random(spec, detector)):
        screen.say(
            f"warning: the first stage keeps {', '.join(parts)} still, at random weights; "
            "begin from a trained detector: --weights RUN"
        )
    detector.to(fabric.device).to(memory_format=layout(detector, fabric.device))

    # ---- the folder
    described = {"spec": show(spec), "classes": list(detector.classes), "versions": environment.versions()}
    fixed = {
        "seed": arguments.seed,
        "batch_size": batch,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": fabric.world_size,
        "data": environment.fingerprint(training, masks=detector.has_masks),
        "val_data": environment.fingerprint(validation, masks=detector.has_masks),
        "proposals": environment.proposal_fingerprint(training),
    }
    for line in _greeting(arguments, spec, batch, fabric, precision, training, validation, note):
        screen.say(line)
    if resumed is not None:
        screen.say(check_same(resumed, spec, described, fixed))
    story = _story(arguments, described, fixed, fabric, training, validation, note)
    story["start"] = None if taken is None else taken.to_dict()
    buffers = 3 + (fit.ema is not None)  # weights, two of a solver at most, the average

    def prepare() -> list[str]:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.check_space(out, detector.parameters(), copies=buffers)
        if resumed is not None:
            return set_aside(out, damaged)
        checkpoint.remove(out / "checkpoints")
        keep_start(detector, out, fit, described)
        write_json(out / "run.json", story)
        return []

    fabric.barrier()  # every process has looked at the folder before the first one writes
    lines = _first_alone(fabric, prepare)
    if resumed is not None:
        for line in (*lines, check_best(out, stored), f"resuming after update {State.from_json(stored).updates}"):
            screen.say(line)

    # ---- the loop
    job = _job(arguments, spec, fabric, detector, training, validation, described, fixed, batch, began)
    offset, step = stored.get("log_bytes", 0), stored.get("first", 0) + stored.get("step", 0)
    log = Log(out, active=first, offset=offset, step=step, tensorboard=arguments.tensorboard)
    try:
        state = run_segments(job, resumed, log, screen)
    finally:
        log.close()
        screen.close()
    if first:
        write_json(out / "results.json", _results(state))
    fabric.barrier()
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
        write_json(out / "results.json", _results(state))
    return Run(out)


def _first_alone(fabric: Fabric, work: Callable[[], list[str]]) -> list[str]:
    """What the first process does while the others wait. Where it fails all raise: they would wait for ever."""
    outcome: list[str] | Exception = []
    if fabric.is_global_zero:
        try:
            outcome = work()
        except (FovealError, OSError) as error:
            if fabric.world_size == 1:
                raise
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _read_data(arguments: Arguments) -> tuple[Dataset, Dataset, str]:
    training, validation, note = split_pair(
        arguments.data,
        val=arguments.val,
        split_map=arguments.split,
        seed=arguments.seed,
        images=arguments.images,
        classes=arguments.classes,
        others=arguments.others,
    )
    if _same_set(training, validation):  # asked for, and the greeting says so once
        validation.findings = [f for f in validation.findings if f.code != "image-in-two-splits"]
    limit = arguments.limit
    training, validation = (replace(d, records=d.records[:limit]) for d in (training, validation))
    check_trainable(training)
    check_trainable(validation)
    return training, validation, note


def _with_proposals(
    arguments: Arguments,
    source: ProposalSource | None,
    fabric: Fabric,
    screen: Progress,
    training: Dataset,
    validation: Dataset,
) -> tuple[Dataset, Dataset]:
    """Both sets with proposals from outside, where the detector wants them. The first process makes what is missing."""
    if source is None:
        if arguments.proposals is not None:
            raise UsageError("this detector makes its own proposals", where="--proposals", fix="Leave them out")
        return training, validation

    def prepare() -> list[str]:
        for dataset in (training, validation) if arguments.proposals is None else ():
            kept(dataset.records, source.setting, from_source(source), progress=screen.making("proposals"))
        return []

    making = screen.making("proposals")
    if fabric.world_size > 1:
        _first_alone(fabric, prepare)
    filled = [fill(d, source, arguments.proposals, progress=making) for d in (training, validation)]
    return filled[0], filled[1]


def _same_set(training: Dataset, validation: Dataset) -> bool:
    """Whether somebody validates on the training images on purpose, as ``foveal check`` does."""
    return training.path == validation.path and training.split == validation.split


def _check_batch(batch: int, fit: Fit, processes: int) -> None:
    if batch % (fit.accumulate * processes):
        raise UsageError(
            f"a batch of {batch} cannot be divided evenly by {processes} processes x fit.accumulate={fit.accumulate}"
        )


def _job(
    arguments: Arguments,
    spec: Spec,
    fabric: Fabric,
    detector: Detector,
    training: Dataset,
    validation: Dataset,
    described: dict[str, Any],
    fixed: dict[str, Any],
    batch: int,
    began: float,
) -> loop.Job:
    fit, rank, world = spec.fit, fabric.global_rank, fabric.world_size
    workers = environment.workers(arguments.workers, fabric.device)
    loaders = Loaders(
        training,
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
        validation,
        fit,
        arguments.seed,
        batch=1 if fabric.device.type == "cpu" else 8,  # on a processor one picture at a time is fastest
        workers=min(workers, 2),
        split=validation.split or "val",
    )
    return loop.Job(
        fabric=fabric,
        detector=detector,
        fit=fit,
        loader=loaders,
        train=training,
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


def _greeting(
    arguments: Arguments,
    spec: Spec,
    batch: int,
    fabric: Fabric,
    precision: str,
    training: Dataset,
    validation: Dataset,
    note: str,
) -> Iterator[str]:
    """What a person should know before it starts."""
    yield f"{arguments.out}: {type(spec).__name__}, {len(training.classes)} classes: {', '.join(training.classes)}"
    yield f"{len(training)} images to train, {len(validation)} to validate" + (f" ({note})" if note else "")
    if _same_set(training, validation):
        yield "validating on the training images themselves: the scores say what was learned by heart"
    for dataset in (training, validation):
        yield from fold(f for f in dataset.findings if f.severity != "note")
        counts = count(dataset.findings)
        if counts["warning"]:
            yield f"{dataset.split or 'data'}: {counts['warning']} warnings; `foveal doctor` lists everything"
    for name in diluted(spec):
        yield (
            f"warning: {name}.sampler=All() keeps every prior, and {name}.box_loss is divided by their number; "
            f"set {name}.box_loss.normalizer=Positives()"
        )
    fit = spec.fit
    lr = fit.scaled_lr(batch)
    scaled = "" if batch == fit.batch else f" ({fit.lr:g} for a batch of {fit.batch}, scaled)"
    where = f"{fabric.device.type} x {fabric.world_size}"
    yield f"batch {batch}, learning rate {lr:g}{scaled}, precision {precision}, {where}"


def _story(
    arguments: Arguments,
    described: dict[str, Any],
    fixed: dict[str, Any],
    fabric: Fabric,
    training: Dataset,
    validation: Dataset,
    note: str,
) -> dict[str, Any]:
    """``run.json``."""
    call = {
        k: _plain(_absolute(v) if k in ("data", "val", "images", "proposals") else v)
        for k, v in vars(arguments).items()
    }
    divided = {"train": [r.id for r in training.records], "val": [r.id for r in validation.records]} if note else None
    return {
        "arguments": call,
        "environment": environment.describe(fabric),
        "spec": described["spec"],
        "classes": described["classes"],
        **{k: v for k, v in fixed.items() if k != "threads"},
        "data_sets": {
            name: {"split": d.split, "images": len(d), "objects": sum(map(len, d.records)), "format": d.format}
            for name, d in (("train", training), ("val", validation))
        },
        "note": note,
        "divided": divided,  # the ids of a split that we made; None: the data has its own
    }


def _absolute(value: PathLike | Sequence[PathLike] | None) -> Any:
    """Paths that mean the same from wherever the run is looked at."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else Path(value).absolute()
    return [Path(each).absolute() for each in value]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _results(state: State) -> dict[str, Any]:
    """``results.json``: the best weights' numbers on the validation data, and those of the last ones."""
    best, last = state.best_results or {}, state.last_results or {}
    return {**best, "step": state.best, "steps": state.updates, "ended": state.ended, "last": last}
