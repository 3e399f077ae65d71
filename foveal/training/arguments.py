"""The arguments of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.records.subsets import Others
from ..files.paths import PathLike


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

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out
