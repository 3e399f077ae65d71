"""What a training loop runs: the run, the stages of one loop, and the checkpoint that both leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric
from torch import Tensor, nn

from ...assembly.detector import Detector
from ...checkpoints import folder as checkpoint
from ...checkpoints.content import Content
from ...data.loader.loader import Batch, Skipped
from ...data.records.dataset import Dataset
from ...files.atomic import writing
from ...recipe import GradientStage, Recipe
from .log import Log
from .state import State
from .validate import Validator


class SessionOver(Exception):
    """The time limit of a session has passed, and the run is to be continued; its present state is saved."""


class LoopArguments(Protocol):
    """What a loop reads of the training arguments."""

    @property
    def folder(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def max_time(self) -> float | None: ...  # seconds
    @property
    def save_every(self) -> float: ...  # seconds


class BatchSource(Protocol):
    """The training batches: this process' share of each."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that could not be read so far."""
        ...

    def __len__(self) -> int:
        """Batches of an epoch."""
        ...

    def epoch(self, epoch: int = 0, start_batch: int = 0, done: tuple[float, float] = (0.0, 0.0)) -> Iterator[Batch]:
        """The batches of an epoch from ``start_batch`` on; ``done``: the shares of the training that are done before
        the epoch and after it."""
        ...

    def close(self) -> None:
        """Stops the processes that load images."""
        ...


@dataclass(frozen=True)
class Job:
    """A training run: its detector, recipe and data, fixed from the first iteration to the last."""

    arguments: LoopArguments
    fabric: Fabric
    detector: Detector  # on its device
    fit: Recipe
    train: Dataset
    validator: Validator
    spec: dict[str, Any]  # what goes into spec.json
    fixed: dict[str, Any]  # seed, threads, precision, ...: goes into state.json, and must not change on resuming
    batch: int  # images per iteration, over all processes
    began: float  # when the run was called, by ``time.monotonic``
    deadline: float = math.inf  # of a session that ends before the run does, by ``time.monotonic``

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.arguments.folder


@dataclass(frozen=True)
class Segment:
    """The stages that one loop runs, and what they learn from."""

    stages: tuple[GradientStage, ...]
    batches: BatchSource
    # called as a stage begins: (images, targets, rng=...) -> named scalar losses, of the detector or a part of it
    learner: Callable[[], nn.Module]
    before: State | None  # the end of the segment before this one


def save_checkpoint(
    job: Job,
    state: State,
    log: Log,
    *,
    model: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
    scaler: Mapping[str, Any] | None = None,
    meter: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint of this moment; the last two and the best of this segment stay.

    ``model`` are the weights to use, ``raw`` those that learn where ``model`` is their average.
    """
    numbers = {"scaler": dict(scaler or {}), "meter": dict(meter or {}), "log_bytes": log.offset()}
    content = Content(
        model=dict(model),
        raw=dict(raw or {}),
        optimizer=dict(optimizer or {}),
        state={**state.to_json(), **job.fixed, **numbers},
        spec=job.spec,
    )
    folder = job.out / "checkpoints"
    checkpoint.save(folder, state.updates, content)
    if state.best is None:
        checkpoint.unpoint(folder, "best")  # of a segment that is over
    else:
        checkpoint.point(folder, "best", state.best)
    with writing(folder):
        checkpoint.prune(folder, {*checkpoint.steps(folder)[-2:], *([] if state.best is None else [state.best])})
