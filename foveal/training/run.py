"""``foveal.train``: from a spec and a dataset to a run folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.folder import Run
from ..checkpoints.initial import find_spec
from ..config.overrides import override
from ..config.parse import parse_spec, stored_modules
from ..data.loader.worker_process import leave_if_imported
from ..errors import FovealError
from ..files.aliases import PathLike
from ..files.atomic import read_object
from ..files.lock import FolderInUse, locked
from ..runtime import launchers, process_group
from ..runtime.processes import first_process
from ..runtime.progress import Console
from .arguments import TrainArguments, with_fields
from .auto import AUTO, plan
from .launch import train_one
from .loop import loop
from .seeds import train_seeds

if TYPE_CHECKING:
    from ..assembly.detector import Spec


@with_fields(TrainArguments)
def train(spec: Spec | PathLike | None, arguments: TrainArguments) -> Run:
    """Trains a detector and leaves a run folder: run.json, metrics.jsonl, results.json and checkpoints.

        run = foveal.train(data="my-photos", max_time=900)  # the detector and its settings are chosen
        run = foveal.train("retinanet_mini", data="my-photos", epochs=20, out="runs/first")
        run = foveal.train(foveal.presets.retinanet_mini, data="my-photos", max_time=1800, overrides=["fit.lr=0.01"])

    ``spec`` is a spec, the name of a preset, or a run or checkpoint folder (its spec, and its weights unless others
    are given); None or "auto" chooses one by the data, the machine and the time, prints why, and trains it as if it
    had been typed (docs/auto.md). A folder ``out`` that holds a run is refused without ``resume``. With ``seeds``
    greater than 1 the runs are in ``out/seed-K``. Returns the run; ``run.results`` is its results.json, ``run.path``
    its folder.

    Raises :class:`FovealError` for data or a folder that is refused, :class:`UsageError` for arguments that do not fit,
    :class:`~foveal.training.loop.update.NonFiniteLoss`, and ``KeyboardInterrupt`` after a checkpoint was saved (or, for
    SIGTERM, :class:`~foveal.runtime.interrupt.Terminated`, a ``SystemExit``).
    """
    began = loop.now()
    leave_if_imported()
    launchers.adopt()
    spec = AUTO if spec is None else spec
    named, arguments = named_spec(spec, arguments)
    with process_group.together(), run_folder(spec, arguments) as out, process_group.deaths_explained(out):
        found = named or chosen(arguments, out)
        arguments = replace(arguments, out=out)

        def one(seed: int) -> Run:
            return train_one(found, replace(arguments, seed=seed, out=out / f"seed-{seed}"), loop.now())

        if arguments.seeds == 1:
            return train_one(found, arguments, began)
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        return train_seeds(one, out, seeds, write=first_process())


@contextmanager
def run_folder(spec: Any, arguments: TrainArguments) -> Iterator[Path]:
    """The run folder, on which no other training works meanwhile; of two that begin at once, each gets its own name.

    The first process holds the lock.
    """
    if arguments.out is not None or arguments.resume:
        out = Path(arguments.out or default_out(spec, resume=True))
        with locked(out, "a training run") if first_process() else nullcontext():
            yield out
        return
    taken: set[Path] = set()  # by runs that have written nothing yet
    while True:
        out = default_out(spec, taken=taken)
        with ExitStack() as stack:
            if first_process():
                try:
                    stack.enter_context(locked(out, "a training run"))
                except FolderInUse:
                    taken.add(out)
                    continue
                if _holds_run(out):  # since a moment ago
                    continue
            yield out
            return


def resolved(spec: Spec | PathLike | None, arguments: TrainArguments) -> tuple[Spec, TrainArguments]:
    """The spec with its overrides, and the arguments with a run folder and the weights to start from, for what leaves
    no run: the folder has no lock."""
    spec = AUTO if spec is None else spec
    named, arguments = named_spec(spec, arguments)
    out = default_out(spec, resume=arguments.resume) if arguments.out is None else Path(arguments.out)
    return named or chosen(arguments, out), replace(arguments, out=out)


def named_spec(spec: Spec | PathLike, arguments: TrainArguments) -> tuple[Spec | None, TrainArguments]:
    """The spec that a call names, with its overrides, and the arguments with the weights that come with it; ``None``:
    it is to be chosen."""
    if spec == AUTO:
        return None, arguments
    found, own_weights = find_spec(spec, arguments.parts)
    found = override(found, list(arguments.overrides), parts=arguments.parts)
    return found, replace(arguments, weights=arguments.weights or own_weights)


def chosen(arguments: TrainArguments, out: Path) -> Spec:
    """The spec of the automatic choice, whose reasons are printed; of a run that is resumed, the one that it has."""
    stored = [folder / "run.json" for folder in (out, out / f"seed-{arguments.seed}")]
    stored = [file for file in stored if arguments.resume and file.exists()]
    if stored:
        record = read_object(stored[0])
        spec: Spec = parse_spec(record["spec"], parts=arguments.parts, modules=stored_modules(record))
        return override(spec, list(arguments.overrides), parts=arguments.parts)
    choice = plan(arguments)
    console = Console(shown=arguments.progress and first_process())
    for line in choice.lines():
        console.print(line)
    console.close()
    return choice.spec


def _holds_run(folder: Path) -> bool:
    """Whether a folder holds a run, or several seeds of one."""
    return any(folder.joinpath(name).exists() for name in ("run.json", "results.json")) or any(folder.glob("seed-*"))


def default_out(spec: Any, *, resume: bool = False, taken: Collection[Path] = ()) -> Path:
    """``runs/NAME``, or ``runs/NAME-2``, ... where that holds a run or is taken; ``resume``: the newest of these."""
    if isinstance(spec, (str, Path)):
        name = re.sub(r"[^\w.-]+", "-", Path(spec).name) or "run"
    else:
        name = type(spec).__name__.lower()
    base = Path("runs") / name
    candidate, number = base, 1
    while _holds_run(candidate) or candidate in taken:
        base, number = candidate, number + 1
        candidate = base.with_name(f"{name}-{number}")
    if not resume:
        return candidate
    if number == 1:
        raise FovealError("there is no run to resume", path=base, fix="Give its folder as out")
    return base
