"""What one loop trains on what: fixed from its first iteration to its last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric

from ...data.records.dataset import Dataset
from ...recipe import Recipe
from .state import State
from .validate import Validator


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


@dataclass(frozen=True)
class Job:
    """A detector, its data and its recipe, for one segment of stages."""

    arguments: LoopArguments
    fabric: Fabric
    detector: Any  # a ``Detector`` on its device
    fit: Recipe
    loader: Any  # ``foveal.data.loader.loader.Loader``: this process' share of every batch
    train: Dataset
    validator: Validator
    spec: dict[str, Any]  # what goes into spec.json
    fixed: dict[str, Any]  # seed, threads, precision, ...: goes into state.json, and must not change on resuming
    batch: int  # images per iteration, over all processes
    began: float  # when the run was called, by ``time.monotonic``
    before: State | None = None  # the end of the segment before this one
    learner: Any = None  # what is called with the batches, where that is a part of the detector

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.arguments.folder
