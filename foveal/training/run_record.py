"""The run record: startup banner, ``run.json`` and ``results.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric

from ..checkpoints.initial import diluted_box_loss
from ..data.diagnosis.losses import losses
from ..data.records.findings import Finding, count, fold
from ..files.aliases import PathLike
from ..files.text import one_line
from ..recipe import Keep
from ..runtime import processes as environment
from .arguments import TrainArguments
from .datasets import Datasets
from .loop.state import State

if TYPE_CHECKING:
    from ..assembly.detector import Spec


def banner(
    arguments: TrainArguments, spec: Spec, batch: int, fabric: Fabric, precision: str, sets: Datasets
) -> Iterator[str]:
    """Lines to print before the training starts."""
    training, validation, note = sets.training, sets.validation, sets.note
    classes = ", ".join(map(one_line, training.classes))
    yield f"{arguments.out}: {type(spec).__name__}, {len(training.classes)} classes: {classes}"
    yield f"{len(training)} images to train, {len(validation)} to validate" + (f" ({note})" if note else "")
    if sets.same:
        yield "validating on the training images themselves: the scores measure overfitting"
    told: set[Finding] = set()
    for dataset in (training, validation):
        told_here = [f for f in dataset.findings if f not in told]
        yield from fold(told_here)
        told.update(told_here)
        yield from filter(None, [losses(told_here)])
        counts = count(dataset.findings)
        if counts["warning"]:
            yield f"{dataset.split or 'data'}: {counts['warning']} warnings; `foveal doctor` lists everything"
    for name in diluted_box_loss(spec):
        yield (
            f"warning: {name}.sampler=All() keeps every prior, and {name}.box_loss is divided by their number; "
            f"set {name}.box_loss.normalizer=Positives()"
        )
    fit = spec.fit
    lr = fit.scaled_lr(batch)
    scaled = "" if batch == fit.batch else f" ({fit.lr:g} for a batch of {fit.batch}, scaled)"
    where = f"{fabric.device.type} x {fabric.world_size}"
    yield f"batch {batch}, learning rate {lr:g}{scaled}, precision {precision}, {where}"


def run_record(
    arguments: TrainArguments, described: dict[str, Any], fixed: dict[str, Any], fabric: Fabric, sets: Datasets
) -> dict[str, Any]:
    """``run.json``."""
    call = {
        k: _plain(_absolute(v) if k in ("data", "val", "images", "proposals") else v)
        for k, v in arguments.recorded().items()
    }
    both = (("train", sets.training), ("val", sets.validation))
    divided = {name: [r.id for r in d.records] for name, d in both} if sets.note else None
    return {
        "arguments": call,
        "environment": environment.describe_environment(fabric),
        "spec": described["spec"],
        "classes": described["classes"],
        **({"parts": described["parts"]} if "parts" in described else {}),  # of one's own: name -> module
        **{k: v for k, v in fixed.items() if k != "threads"},
        "data_sets": {
            name: {"split": d.split, "images": len(d), "objects": sum(map(len, d.records)), "format": d.format}
            for name, d in both
        },
        "note": sets.note,
        "divided": divided,  # image ids of a split made here; None: the data has its own
    }


def _absolute(value: PathLike | Sequence[PathLike] | None) -> Any:
    """Absolute paths: the run may be read from another folder."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else Path(value).absolute()
    return [Path(each).absolute() for each in value]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def results(state: State, keep: Keep) -> dict[str, Any]:
    """``results.json``: the numbers of the kept weights on the validation data, and those of the last ones."""
    best, last = state.best_results or {}, state.last_results or {}
    kept = {"keep": keep} if keep != "best" else {}
    return {**best, "step": state.best, "steps": state.updates, "ended": state.ended, **kept, "last": last}
