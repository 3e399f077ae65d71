"""``train``: from a spec and a data set to a run folder. The loop itself is in ``loop.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.folder import Run
from ..checkpoints.initial import find_spec
from ..config.overrides import override
from ..data.records.subsets import Others
from ..errors import FovealError
from ..files.paths import PathLike
from ..runtime import process_group as processes
from ..runtime import processes as environment
from .arguments import Arguments
from .launch import _train_one
from .loop import loop
from .seeds import train_seeds

if TYPE_CHECKING:
    from ..assembly.detector import Spec


def train(
    spec: Spec | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    out: PathLike | None = None,
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
        see :func:`foveal.data.open.split_pair`
    ``out``
        the run folder; one that holds a run is refused without ``resume``. None: ``runs/NAME``, numbered
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
    :class:`~foveal.training.loop.nonfinite.NonFiniteLoss`, and ``KeyboardInterrupt`` after a checkpoint was saved.
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
        out=default_out(spec, resume=resume) if out is None else Path(out),
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
    with processes.together():
        if seeds <= 1:
            return _train_one(found, arguments, began)
        return train_seeds(
            lambda k: _train_one(
                found, replace(arguments, seed=seed + k, out=arguments.out / f"seed-{seed + k}"), loop.now()
            ),
            arguments.out,
            seeds,
            seed,
            write=environment.first_process(),
        )


def _taken(folder: Path) -> bool:
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
    while _taken(candidate):
        base, number = candidate, number + 1
        candidate = base.with_name(f"{name}-{number}")
    if not resume:
        return candidate
    if number == 1:
        raise FovealError("there is no run to go on with", path=base, fix="Name it with out")
    return base
