"""The data loaders for training and evaluation, with worker processes.

Order and augmentation of a batch depend on (seed, epoch, index) alone. So any number of workers gives the same bits, a
run resumes in the middle of an epoch from the number of the batch, and no state of a random generator is saved. A
worker builds whole batches and writes their pixels into shared memory once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from ...errors import FovealError, UsageError
from ...files.aliases import ImageArray
from ...recipe import Treatment
from ...types import Images, Targets
from ..augment.combine import Combination
from ..augment.transforms import MultiScale, ShortSide, Transform, expanded
from ..images.load import MOST_SKIPPED
from ..records.dataset import Dataset
from .batches import BatchBuilder, Order, TrainBatches
from .eval_batches import EvalBatches
from .shared_records import PackedRecords, WorkerBatch, targets_of, unpacked_batch
from .worker_process import UNGUARDED, leave_if_imported, live_with_parent, starting

if TYPE_CHECKING:
    from ...parts.resizing import Input

__all__ = ["Batch", "EvalBatch", "EvalLoader", "Loader", "Skipped", "targets_of"]


# --------------------------------------------------------------------------------------------------- public
@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and the reason."""

    index: int  # in ``dataset.records``
    message: str


@dataclass(frozen=True)
class Batch:
    """A training batch. ``images.original`` and ``frame`` refer to the augmented image before it was resized."""

    images: Images  # uint8 pixels, padded with the rule's fill, channels-last
    targets: Targets  # network pixels
    indices: list[int]  # in ``dataset.records``
    ids: list[int | str]
    data_seconds: float  # how long the training loop waited for it


@dataclass(frozen=True)
class EvalBatch:
    """Unchanged images: the detector prepares them, in float."""

    arrays: list[ImageArray]  # (H, W, 3) uint8
    indices: list[int]
    data_seconds: float


_B = TypeVar("_B")
_Spec = tuple[int, int, float]  # epoch, batch, share of the training that is done before it


class BaseLoader(ABC, Generic[_B]):
    """What the loaders share: worker processes, waiting time, and the images that were skipped."""

    def __init__(self, dataset: Dataset, builder: BatchBuilder, workers: int) -> None:
        if workers < 0:
            raise UsageError(f"workers is {workers}, expected 0 or more")
        self.dataset, self.workers, self.builder = dataset, workers, builder
        self._skipped: dict[int, str] = {}
        self._schedule = _Schedule()
        self._pool: DataLoader[WorkerBatch] | None = None

    @property
    def skipped(self) -> list[Skipped]:
        """The images that could not be used so far, by index."""
        return [Skipped(i, self._skipped[i]) for i in sorted(self._skipped)]

    def __len__(self) -> int:
        """Number of batches of an epoch, for this process."""
        return len(self.builder)

    @abstractmethod
    def _finish(self, built: WorkerBatch, seconds: float) -> _B | None:
        """The batch as the caller sees it, which waited ``seconds`` for it; ``None``: an empty batch, not yielded."""

    def epoch(self, epoch: int = 0, start_batch: int = 0, done: tuple[float, float] = (0.0, 0.0)) -> Iterator[_B]:
        """The batches of an epoch from ``start_batch`` on. ``done``: shares of the training that are done before the
        epoch and after it, which decide when a combination of images ends.

        Raises :class:`FovealError` where more than 5 % of the images cannot be read, or a worker died.
        """
        before, after = done
        specs = [(epoch, b, before + (after - before) * b / len(self)) for b in range(start_batch, len(self))]
        built = self._in_workers(specs) if self.workers else self._in_process(specs)
        while True:
            start = time.perf_counter()
            worker_batch = next(built, None)
            if worker_batch is None:
                return
            self._record_skipped(worker_batch)
            batch = self._finish(worker_batch, time.perf_counter() - start)
            if batch is not None:
                yield batch

    def close(self) -> None:
        """Stops the workers; the next epoch starts new ones."""
        self._pool = None

    def _in_process(self, specs: Sequence[_Spec]) -> Iterator[WorkerBatch]:
        for spec in specs:
            yield self.builder(*spec, shared=False)

    def _in_workers(self, specs: Sequence[_Spec]) -> Iterator[WorkerBatch]:
        if not specs:
            return
        leave_if_imported()
        if self._pool is None:
            self._pool = DataLoader(
                _BuilderDataset(self.builder),
                sampler=self._schedule,
                batch_size=None,
                num_workers=self.workers,
                prefetch_factor=2,
                persistent_workers=True,
                worker_init_fn=live_with_parent,
            )
        self._schedule.specs = list(specs)
        try:
            with starting(self.builder):
                batches = iter(self._pool)
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:
            iterator = cast(Any, self._pool._iterator)
            # a batch is in the memory of the worker that built it, and is lost with that process
            unreachable = not isinstance(error, RuntimeError) and wait([w.sentinel for w in iterator._workers], 1.0)
            if "DataLoader worker" not in str(error) and not unreachable:
                raise
            unguarded = any(w.exitcode == UNGUARDED for w in iterator._workers)
            # otherwise torch raises again when any other process ends, until this iterator is collected
            iterator._shutdown_workers()
            self._pool = None
            if unguarded:
                raise UsageError(
                    "the processes that load images import the script, whose parts the data needs, and it trains again",
                    fix='Put the call below if __name__ == "__main__": or use workers=0',
                ) from None
            raise FovealError(
                "a worker process died, perhaps because memory or shared memory (/dev/shm) ran out",
                fix="Use fewer workers (--workers 0 loads in the main process), a smaller batch or smaller images",
            ) from None

    def _record_skipped(self, built: WorkerBatch) -> None:
        """Raises :class:`FovealError` where too many images were skipped."""
        self._skipped.update(built.skipped)
        if built.error or (built.skipped and len(self._skipped) > MOST_SKIPPED * len(self.dataset)):
            shown = "; ".join(list(self._skipped.values())[:3])
            part = f"{len(self._skipped)} of {len(self.dataset)} images"
            raise FovealError(
                f"{part} cannot be used, more than {MOST_SKIPPED:.0%}: {shown}",
                path=self.dataset.path,
                fix="Run foveal doctor for the complete list",
            )


class Loader(BaseLoader[Batch]):
    """Training batches.

    ``batch`` counts the images of all ``world`` processes, of which this one gets an equal share. ``augment`` is a
    sequence of transforms; a :class:`MultiScale` among them (or ``multi_scale``, its short form) changes the size of
    every batch. An unreadable image is replaced by the next one in the epoch's order. ``shuffle=False`` preserves the
    order of the records. Images that do not fill a last batch are dropped for the epoch. ``masks``: targets have masks.
    ``group_by_canvas``: where possible, the images of a batch need a canvas of the same size, so that none is padded.
    ``views``: see :class:`TrainBatches`. ``repeat_threshold``: see :func:`~.shared_records.repeat_factors`; 0 for no
    repetition.
    """

    def __init__(
        self,
        dataset: Dataset,
        input: Input,
        augment: Sequence[Transform] = (),
        batch: int = 2,
        seed: int = 0,
        *,
        shuffle: bool = True,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        group_by_canvas: bool = False,
        views: int | None = None,
        multi_scale: Sequence[int] = (),
        difficult: Treatment = "learn",
        crowd: Treatment = "ignore",
        masks: bool = False,
        repeat_threshold: float = 0.0,
    ) -> None:
        _check(dataset, batch, rank, world)
        if batch % world:
            raise UsageError(f"a batch of {batch} images is not divisible by {world} processes")
        scales = [t for t in augment if isinstance(t, MultiScale)]
        if multi_scale:
            scales.append(MultiScale(tuple(multi_scale)))
        short_sides = [t for t in augment if isinstance(t, ShortSide)]
        if len(scales) + len(short_sides) > 1:
            raise UsageError("multi-scale is set twice", fix="Use one of MultiScale, ShortSide and multi_scale")
        if short_sides and not input.has_short_side:
            raise UsageError("ShortSide needs the resize rule Resize", fix="Use MultiScale or input=Resize(...)")
        pasted = any(isinstance(t, Combination) and t.needs_masks for t in augment)
        if pasted and not any(record.masks and any(record.masks) for record in dataset.records):
            fix = "Leave CopyPaste out of fit.augment, or use data with masks"
            raise UsageError("CopyPaste pastes objects by their masks, and the training data has none", fix=fix)
        packed = PackedRecords(dataset.records, difficult, crowd, masks=masks or pasted)
        group = canvas_groups(packed, input) if group_by_canvas else None
        repeats = packed.repeat_factors(repeat_threshold) if repeat_threshold else None
        super().__init__(
            dataset,
            TrainBatches(
                packed,
                Order(len(packed), batch, seed, shuffle, world, group, repeats),
                input,
                expanded([t for t in augment if not isinstance(t, MultiScale)]),
                scales[0] if scales else None,
                rank,
                masks,
                views,
            ),
            workers,
        )

    def _finish(self, built: WorkerBatch, seconds: float) -> Batch:
        images, targets = unpacked_batch(built)
        ids = [self.dataset.records[i].id for i in built.indices]
        return Batch(images, targets, built.indices, ids, seconds)


def canvas_groups(packed: PackedRecords, rule: Input) -> NDArray[np.int64] | None:
    """(N,) a number for each image, equal where the images alone have equal canvases; ``None`` where all have."""
    canvases = [rule.canvas([rule.size(h, w)]) for h, w in packed.sizes.tolist()]
    unique, numbers = np.unique(np.array(canvases, dtype=np.int64), axis=0, return_inverse=True)
    return numbers.reshape(-1) if len(unique) > 1 else None


class EvalLoader(BaseLoader[EvalBatch]):
    """Every image exactly once, unchanged, in the order of the records; each rank has its own part.

    ``batch`` counts the images of this process; a batch may be smaller. With the resize rule ``input`` the images of a
    batch have equal canvases, one canvas after the other: no image is padded for another one, which would change what
    is detected in it. An unreadable image is missing from its batch and listed in ``skipped``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int = 1,
        *,
        input: Input | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        _check(dataset, batch, rank, world)
        packed = PackedRecords(dataset.records, "learn", "learn")
        group = None if input is None or batch == 1 else canvas_groups(packed, input)
        if group is None:
            group = np.zeros(len(packed), np.int64)
        order = np.array_split(np.argsort(group, kind="stable"), world)[rank]
        runs = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
        batches = [run[start : start + batch] for run in runs for start in range(0, len(run), batch)]
        super().__init__(dataset, EvalBatches(packed, batches), workers)

    def _finish(self, built: WorkerBatch, seconds: float) -> EvalBatch | None:
        if not built.indices:
            return None
        return EvalBatch([np.asarray(p.numpy()) for p in built.pixels], built.indices, seconds)


def _check(dataset: Dataset, batch: int, rank: int, world: int) -> None:
    if not len(dataset):
        raise FovealError("the dataset has no images", path=dataset.path)
    if batch < 1 or world < 1 or not 0 <= rank < world:
        raise UsageError(f"batch is {batch} for rank {rank} of {world}, expected batch >= 1 and 0 <= rank < world")


# -------------------------------------------------------------------------------------------------- workers
class _Schedule:
    """The batches of the current epoch that the workers shall build; the workers outlive the epoch."""

    def __init__(self) -> None:
        self.specs: list[_Spec] = []

    def __iter__(self) -> Iterator[_Spec]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


class _BuilderDataset(TorchDataset[WorkerBatch]):
    """A batch builder as a map-style dataset of torch; its items are whole batches.

    It has no reference to the loader: a cycle with the pool would leave dead workers to the garbage collector.
    """

    def __init__(self, builder: BatchBuilder) -> None:
        self.builder = builder

    def __getitem__(self, spec: _Spec) -> WorkerBatch:
        return self.builder(*spec, shared=get_worker_info() is not None)
