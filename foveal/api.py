"""The Python form of the commands: :func:`train` and :func:`evaluate` with paths, names and sensible defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FovealError

if TYPE_CHECKING:
    from .data.subsets import Others
    from .detectors.base import Detector, Spec
    from .evaluate import Results
    from .evaluate.protocols import Protocol
    from .train.seeds import Run

PathLike = str | Path


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
    precision: str | None = None,
    workers: int | None = None,
    max_time: float | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> Run:
    """Trains a detector and leaves a run folder: :func:`foveal.train.run.train`, which explains every argument.

    ``spec`` is a spec, a preset's name, or a run or checkpoint folder. Without ``out`` the run goes into ``runs/``,
    named after the spec and numbered. Raises :class:`FovealError` for data or a folder that is refused and
    :class:`UsageError` for arguments that do not fit.
    """
    from .train.run import train as run

    return run(
        spec,
        data=data,
        out=out or default_out(spec, resume=resume),
        val=val,
        split=split,
        classes=classes,
        others=others,
        images=images,
        epochs=epochs,
        batch=batch,
        seed=seed,
        seeds=seeds,
        weights=weights,
        proposals=proposals,
        resume=resume,
        device=device,
        precision=precision,
        workers=workers,
        max_time=max_time,
        limit=limit,
        overrides=overrides,
        progress=progress,
    )


def evaluate(
    model: Detector | Run | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    split: str | None = None,
    protocol: str | Protocol = "coco",
    classes: Sequence[str] | None = None,
    images: PathLike | None = None,
    proposals: PathLike | Sequence[PathLike] | None = None,
) -> Results:
    """Scores a detector (or a run, checkpoint, alias or weights file) on a data set.

    Without ``split``: ``val`` where the data has splits; the validation images of a run that divided this data itself;
    else the whole set. ``classes``: those to score; else all that detector and data share. ``proposals``: a file of
    ``foveal proposals``, for a detector that takes them from outside.
    """
    from .detectors.base import Detector
    from .loading import load
    from .scoring import divided_ids, evaluation_set, score_detector, with_proposals
    from .train.seeds import Run

    place = model.path if isinstance(model, Run) else model
    detector = place if isinstance(place, Detector) else load(place)
    divided = None if isinstance(place, Detector) else divided_ids(place, data)
    dataset = evaluation_set(data, split=split, images=images, divided=divided)
    dataset = with_proposals(detector, dataset, proposals)
    return score_detector(detector, dataset, protocol=protocol, classes=classes).results


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
