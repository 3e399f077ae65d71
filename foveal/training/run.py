"""``foveal.train``: from a spec and a data set to a run folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.folder import Run
from ..checkpoints.initial import find_spec
from ..config.overrides import override
from ..errors import FovealError
from ..files.aliases import PathLike
from ..runtime import process_group
from ..runtime.processes import first_process
from .arguments import TrainArguments, with_fields
from .launch import train_one
from .loop.loop import now
from .seeds import train_seeds

if TYPE_CHECKING:
    from ..assembly.detector import Spec


@with_fields(TrainArguments)
def train(spec: Spec | PathLike, arguments: TrainArguments) -> Run:
    """Trains a detector and leaves a run folder: run.json, metrics.jsonl, results.json and checkpoints.

        run = foveal.train("retinanet_mini", data="my-photos", epochs=20, out="runs/first")
        run = foveal.train(foveal.presets.retinanet_mini, data="my-photos", max_time=1800, overrides=["fit.lr=0.01"])

    ``spec`` is a spec, the name of a preset, or a run or checkpoint folder (its spec, and its weights unless others
    are given). A folder ``out`` that holds a run is refused without ``resume``. With ``seeds`` greater than 1 the runs
    are in ``out/seed-K``. Returns the run; ``run.results`` is its results.json, ``run.path`` its folder.

    Raises :class:`FovealError` for data or a folder that is refused, :class:`UsageError` for arguments that do not fit,
    :class:`~foveal.training.loop.nonfinite.NonFiniteLoss`, and ``KeyboardInterrupt`` after a checkpoint was saved.
    """
    began = now()
    found, own_weights = find_spec(spec, arguments.parts)
    found = override(found, list(arguments.overrides), parts=arguments.parts)
    out = default_out(spec, resume=arguments.resume) if arguments.out is None else Path(arguments.out)
    arguments = replace(arguments, out=out, weights=arguments.weights or own_weights)

    def one(seed: int) -> Run:
        return train_one(found, replace(arguments, seed=seed, out=out / f"seed-{seed}"), now())

    with process_group.together():
        if arguments.seeds == 1:
            return train_one(found, arguments, began)
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        return train_seeds(one, out, seeds, write=first_process())


def _holds_run(folder: Path) -> bool:
    """Whether a folder holds a run, or several seeds of one."""
    return any(folder.joinpath(name).exists() for name in ("run.json", "results.json")) or any(folder.glob("seed-*"))


def default_out(spec: Any, *, resume: bool = False) -> Path:
    """``runs/NAME``, or ``runs/NAME-2``, ... where that holds a run; with ``resume`` the newest of these."""
    if isinstance(spec, (str, Path)):
        name = re.sub(r"[^\w.-]+", "-", Path(spec).name) or "run"
    else:
        name = type(spec).__name__.lower()
    base = Path("runs") / name
    candidate, number = base, 1
    while _holds_run(candidate):
        base, number = candidate, number + 1
        candidate = base.with_name(f"{name}-{number}")
    if not resume:
        return candidate
    if number == 1:
        raise FovealError("there is no run to resume", path=base, fix="Give its folder as out")
    return base
