"""The loader: batches whose order and noise depend on (seed, epoch, index) alone.

So 0, 1 or 2 workers give the same bits, a run resumes in the middle of an epoch by naming the batch, and nobody saves a
generator's state. A worker makes whole batches and writes their pixels into shared memory once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from ...errors import FovealError, UsageError
from ...files.aliases import ImageArray
from ...recipe import Treatment
from ...types import Images, Targets
from ..augment.transforms import MultiScale, ShortSide, Transform
from ..images.load import MOST_SKIPPED
from ..records.dataset import Dataset
from .batches import BatchBuilder, EvalBatches, Order, TrainBatches, WorkerBatch
from .shared_records import PackedRecords, targets_of

if TYPE_CHECKING:
    from ...parts.resizing import Input

__all__ = ["Batch", "EvalBatch", "EvalLoader", "Loader", "Skipped", "targets_of"]


# --------------------------------------------------------------------------------------------------- public
@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why."""

    index: int  # in ``dataset.records``
    message: str


@dataclass(frozen=True)
class Batch:
    """A training batch. ``images.original`` and ``frame`` speak of the augmented picture before it was resized."""

    images: Images  # uint8 pixels, padded with the rule's fill, channels-last
    targets: Targets  # network pixels
    indices: list[int]  # in ``dataset.records``
    ids: list[int | str]
    data_seconds: float  # how long the caller waited for it


@dataclass(frozen=True)
class EvalBatch:
    """Whole pictures as they are: the detector prepares them, in float."""

    arrays: list[ImageArray]  # (H, W, 3) uint8
    indices: list[int]
    data_seconds: float


_B = TypeVar("_B")
_Spec = tuple[int, int]  # epoch, batch


class _Loader(ABC, Generic[_B]):
    """What both loaders share: workers, waiting, and the count of images that cannot be read."""

    def __init__(self, dataset: Dataset, maker: BatchBuilder, workers: int) -> None:
        if workers < 0:
            raise UsageError(f"{workers} workers; it must be 0 or more")
        self.dataset, self.workers, self.maker = dataset, workers, maker
        self._bad: dict[int, str] = {}
        self._plan = _Plan()
        self._pool: DataLoader[WorkerBatch] | None = None

    @property
    def skipped(self) -> list[Skipped]:
        """Images that could not be used so far, by index."""
        return [Skipped(i, self._bad[i]) for i in sorted(self._bad)]

    def __len__(self) -> int:
        """Batches of an epoch, for this process."""
        return len(self.maker)

    @abstractmethod
    def _finish(self, packet: WorkerBatch, seconds: float) -> _B | None: ...

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[_B]:
        """The batches of an epoch from ``start_batch`` on.

        Raises :class:`FovealError` where more than 5 % of the images cannot be read, or a worker died.
        """
        specs = [(epoch, b) for b in range(start_batch, len(self))]
        packets = self._in_workers(specs) if self.workers else self._here(specs)
        while True:
            start = time.perf_counter()
            packet = next(packets, None)
            if packet is None:
                return
            self._note(packet)
            batch = self._finish(packet, time.perf_counter() - start)
            if batch is not None:
                yield batch

    def close(self) -> None:
        """Stops the workers; the next epoch starts new ones."""
        self._pool = None

    def _here(self, specs: Sequence[_Spec]) -> Iterator[WorkerBatch]:
        for epoch, batch in specs:
            yield self.maker(epoch, batch, shared=False)

    def _in_workers(self, specs: Sequence[_Spec]) -> Iterator[WorkerBatch]:
        if not specs:
            return
        if self._pool is None:
            self._pool = DataLoader(
                _Work(self.maker),
                sampler=self._plan,
                batch_size=None,
                num_workers=self.workers,
                prefetch_factor=2,
                persistent_workers=True,
                worker_init_fn=_leave_with_parent,
            )
        self._plan.specs = list(specs)
        try:
            yield from self._pool
        except (RuntimeError, OSError, EOFError) as error:
            iterator = cast(Any, self._pool._iterator)
            # a batch lies in the memory of the worker that made it, and cannot be had from one that is gone
            unreachable = not isinstance(error, RuntimeError) and wait([w.sentinel for w in iterator._workers], 1.0)
            if "DataLoader worker" not in str(error) and not unreachable:
                raise
            # else torch raises again at the end of any other process, until somebody collects this iterator
            iterator._shutdown_workers()
            self._pool = None
            raise FovealError(
                "a process that loads images died; perhaps memory or shared memory (/dev/shm) ran out",
                fix="Use fewer workers (--workers 0 loads in the main process), a smaller batch or smaller images",
            ) from None

    def _note(self, packet: WorkerBatch) -> None:
        """Remembers what was skipped and stops where it is too much."""
        self._bad.update(packet.skipped)
        if packet.error or len(self._bad) > MOST_SKIPPED * len(self.dataset):
            shown = "; ".join(list(self._bad.values())[:3])
            raise FovealError(
                f"{len(self._bad)} of {len(self.dataset)} images cannot be used, more than {MOST_SKIPPED:.0%}: {shown}",
                path=self.dataset.path,
                fix="foveal doctor names them all",
            )


class Loader(_Loader[Batch]):
    """Training batches.

    ``batch`` counts images over all ``world`` processes, of which this one gets an equal share. ``augment`` is a recipe
    of transforms; a :class:`MultiScale` among them (or ``multi_scale``, its short form) changes the size of every
    batch. An image that cannot be read is replaced by the next one in the epoch's order. ``shuffle=False`` keeps the
    order of the records. Images that do not fill a last batch wait for another epoch. ``masks``: targets have masks.
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
        group_by_aspect: bool = False,
        multi_scale: Sequence[int] = (),
        difficult: Treatment = "learn",
        crowd: Treatment = "ignore",
        masks: bool = False,
    ) -> None:
        _check(dataset, batch, rank, world)
        if batch % world:
            raise UsageError(f"a batch of {batch} images cannot be shared equally by {world} processes")
        scales = [t for t in augment if isinstance(t, MultiScale)]
        if multi_scale:
            scales.append(MultiScale(tuple(multi_scale)))
        own = [t for t in augment if isinstance(t, ShortSide)]
        if len(scales) + len(own) > 1:
            raise UsageError("multi-scale is set twice")
        if own and not hasattr(input, "short"):
            raise UsageError("ShortSide is for the resize rule Resize", fix="Use MultiScale, or input=Resize(...)")
        packed = PackedRecords(dataset.records, difficult, crowd, masks=masks)
        tall = packed.sizes[:, 0] > packed.sizes[:, 1] if group_by_aspect else None
        super().__init__(
            dataset,
            TrainBatches(
                packed,
                Order(len(packed), batch, seed, shuffle, world, tall),
                input,
                tuple(t for t in augment if not isinstance(t, MultiScale)),
                scales[0] if scales else None,
                rank,
            ),
            workers,
        )

    def _finish(self, packet: WorkerBatch, seconds: float) -> Batch:
        sizes, frame, original, boxes, labels, valid, ignore, *more = map(torch.from_numpy, packet.arrays)
        masks = more.pop() if len(more) % 2 else None  # proposals are two arrays
        images = Images(packet.pixels[0], sizes, frame, original)
        if more:
            images = replace(images, proposals=more[0], proposals_valid=more[1])
        return Batch(
            images,
            Targets(boxes, labels, valid, ignore, bool(ignore.any()), masks),
            packet.indices,
            [self.dataset.records[i].id for i in packet.indices],
            seconds,
        )


class EvalLoader(_Loader[EvalBatch]):
    """Every image exactly once, as it is, in the order of the records; the ranks take disjoint parts.

    ``batch`` counts the images of one batch of this process; the last may be smaller. An image that cannot be read is
    missing from its batch and listed in ``skipped``.
    """

    def __init__(self, dataset: Dataset, batch: int = 1, *, workers: int = 0, rank: int = 0, world: int = 1) -> None:
        _check(dataset, batch, rank, world)
        packed = PackedRecords(dataset.records, "learn", "learn")
        mine = np.array_split(np.arange(len(packed)), world)[rank]
        super().__init__(dataset, EvalBatches(packed, mine, batch), workers)

    def _finish(self, packet: WorkerBatch, seconds: float) -> EvalBatch | None:
        if not packet.indices:
            return None
        return EvalBatch([np.asarray(p.numpy()) for p in packet.pixels], packet.indices, seconds)


def _check(dataset: Dataset, batch: int, rank: int, world: int) -> None:
    if not len(dataset):
        raise FovealError("the data set has no images", path=dataset.path)
    if batch < 1 or world < 1 or not 0 <= rank < world:
        raise UsageError(f"batch {batch} for rank {rank} of {world} makes no sense")


# -------------------------------------------------------------------------------------------------- workers
class _Plan:
    """The batches that the workers are asked for; another list every epoch, while the workers stay."""

    def __init__(self) -> None:
        self.specs: list[_Spec] = []

    def __iter__(self) -> Iterator[_Spec]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def _leave_with_parent(worker: int) -> None:
    """Ends a worker when the process that asked for it is gone, also by ``kill -9``: nobody else would ever end it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Work(TorchDataset[WorkerBatch]):
    """A maker as torch's map-style data set; its items are whole batches.

    It must not know the loader: a cycle with the pool would leave dead workers to the garbage collector.
    """

    def __init__(self, maker: BatchBuilder) -> None:
        self.maker = maker

    def __getitem__(self, spec: _Spec) -> WorkerBatch:
        return self.maker(*spec, shared=get_worker_info() is not None)
