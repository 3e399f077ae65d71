"""Training batches of R-CNN and SPP-Net: windows sampled from the whole dataset.

A window is a proposal or an object. A batch has, for each of its N windows, what a :class:`WindowSource` computes of
it (R-CNN: a crop of the image; SPP-Net: features pooled from stored feature maps, see ``stored_maps.py``), with one
proposal and, for a positive window, one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...boxes import array_iou
from ...errors import FovealError, UsageError
from ...files.aliases import Bools, Floats, Floats32, Ints
from ...recipe import Treatment, WindowSampling
from ...types import Images, Targets
from ..records.dataset import Dataset
from .batches import generator
from .loader import BaseLoader, Batch
from .shared_records import PackedRecords, WorkerBatch

if TYPE_CHECKING:
    from ...parts.pooling.warp import Warp


@dataclass(frozen=True, eq=False)
class WindowTable:
    """The windows of all training images that may be sampled, in flat arrays, whose memory forked workers share."""

    image: NDArray[np.int32]  # (W,) index in ``dataset.records``
    boxes: Floats32  # (W, 4)
    truth: Floats32  # (W, 4) the object with the largest IoU
    label: NDArray[np.int32]  # (W,) its class
    positive: Ints  # windows whose IoU with an object is ``draw.iou`` or more
    negative: Ints  # windows whose largest IoU is less, and ``draw.low`` or more

    @classmethod
    def build(cls, packed: PackedRecords, draw: WindowSampling) -> WindowTable:
        """Raises :class:`FovealError` if there is no positive or no negative window."""
        parts = [_windows(packed, index, draw) for index in range(len(packed))]
        image = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p[0]) for p in parts])
        boxes, truth, label, positive = (np.concatenate([p[k] for p in parts]) for k in range(4))
        table = cls(image, boxes, truth, label, np.flatnonzero(positive), np.flatnonzero(~positive))
        for name, windows in (("positive", table.positive), ("negative", table.negative)):
            if not len(windows):
                raise FovealError(
                    f"none of {len(image)} windows is {name}",
                    fix="Check with foveal proposals that the proposals belong to these images",
                )
        return table


def _windows(
    packed: PackedRecords, index: int, draw: WindowSampling
) -> tuple[Floats32, Floats32, NDArray[np.int32], Bools]:
    """Boxes, objects, classes and positive flags of the windows of one image, without those in ignored regions."""
    rows = slice(packed.starts[index], packed.starts[index + 1])
    ignore = packed.ignore[rows]
    objects, labels = packed.boxes[rows][~ignore], packed.labels[rows][~ignore]
    proposals = packed.proposals[index]
    if proposals is None:
        raise FovealError("the image has no proposals", path=packed.path(index), fix="Run foveal proposals")
    boxes = np.concatenate([proposals.astype(np.float64), objects])
    if not len(objects):
        objects, labels = np.zeros((1, 4)), np.zeros(1, np.int64)
    iou = array_iou(boxes, objects)
    best = iou.argmax(1)
    overlap = iou[np.arange(len(boxes)), best]
    keep = overlap >= draw.low
    if ignore.any():
        keep &= array_iou(boxes, packed.boxes[rows][ignore]).max(1) < draw.iou
    matched = best[keep]
    return (
        boxes[keep].astype(np.float32),
        objects[matched].astype(np.float32),
        labels[matched].astype(np.int32),
        overlap[keep] >= draw.iou,
    )


@dataclass(frozen=True, eq=False)
class WindowSampler:
    """Chooses the windows of a batch, from (seed, epoch, batch) alone."""

    table: WindowTable
    draw: WindowSampling
    images: int
    batch: int  # windows over all ranks
    seed: int
    flip: float  # probability of the mirror image
    rank: int
    world: int

    def __len__(self) -> int:
        return max(1, self.draw.per_image * self.images // self.batch)

    def __call__(self, epoch: int, batch: int) -> tuple[Ints, Bools]:
        """Indices (N,) of this rank's windows, positives first, and which of them are mirrored (N,)."""
        rng = generator("window", self.seed, epoch, batch)
        positives = round(self.batch * self.draw.positive)
        chosen = np.concatenate(
            [rng.choice(self.table.positive, positives), rng.choice(self.table.negative, self.batch - positives)]
        )
        mirrored = rng.random(self.batch) < self.flip
        return chosen[self.rank :: self.world], mirrored[self.rank :: self.world]

    def objects(self, chosen: Ints, boxes: Floats) -> list[NDArray[Any]]:
        """Objects ``boxes`` (N, 4) of sampled windows -> boxes (N, 1, 4), labels (N, 1) and valid flags (N, 1)."""
        positive = self.table.positive  # ascending
        at = np.searchsorted(positive, chosen).clip(max=len(positive) - 1)
        valid = (positive[at] == chosen)[:, None]
        label = np.where(valid, self.table.label[chosen][:, None], 0).astype(np.int64)
        return [np.where(valid, boxes, 0.0).astype(np.float32)[:, None], label, valid]


class WindowSource(Protocol):
    """Computes the network input of the windows of one image.

    Gets the index of the image, boxes and objects of K windows, float64 (K, 4) xyxy in pixels of the original image,
    and which of them are mirrored (K,). Returns the inputs (K, ...), and boxes and objects in the coordinates of the
    inputs. Raises :class:`FovealError` for an image that cannot be read.
    """

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Floats, truth: Floats, mirrored: Bools
    ) -> tuple[Tensor, Floats, Floats]: ...


@dataclass(frozen=True)
class Crops:
    """Each window warped to (3, S, S) uint8: the crops of prediction, rounded."""

    pool: Warp
    fill: tuple[int, int, int]  # color outside the image

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Floats, truth: Floats, mirrored: Bools
    ) -> tuple[Tensor, Floats, Floats]:
        """See :class:`WindowSource`; a box has the same location in every crop, inside its context."""
        fill = torch.tensor(self.fill, dtype=torch.float32)[:, None, None]
        pixels = torch.from_numpy(packed.image(index).astype(np.float32)).permute(2, 0, 1)
        crops = self.pool([(pixels - fill)[None]], torch.from_numpy(boxes.astype(np.float32))[None], (1,))
        rounded = (crops + fill).round_().clamp_(0, 255).to(torch.uint8)
        flipped = torch.from_numpy(mirrored)[:, None, None, None]
        inner = np.asarray(self.pool.inner(torch.from_numpy(boxes)).numpy())
        corner, side = np.tile(boxes[:, :2], 2), np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6), 2)
        scale = np.tile(inner[:, 2:] - inner[:, :2], 2) / side
        moved = np.tile(inner[:, :2], 2) + (truth - corner) * scale
        return torch.where(flipped, rounded.flip(3), rounded), inner, mirror(moved, mirrored, self.pool.size)


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Builds batches of windows; each image of a batch is read once."""

    packed: PackedRecords
    sampler: WindowSampler
    source: WindowSource

    def __len__(self) -> int:
        return len(self.sampler)

    @torch.no_grad()
    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        chosen, mirrored = self.sampler(epoch, batch)
        table = self.sampler.table
        boxes, truth = table.boxes[chosen].astype(np.float64), table.truth[chosen].astype(np.float64)
        images = table.image[chosen]
        result, inputs, used = WorkerBatch(), [], []
        for index in np.unique(images).tolist():
            rows = np.flatnonzero(images == index)
            try:
                inputs.append(self.source(self.packed, index, boxes[rows], truth[rows], mirrored[rows]))
                used.append(rows)
            except FovealError as error:
                result.skipped[index] = str(error)
        if not used:
            result.error = True
            return result
        order = np.concatenate(used)
        back = order.argsort()  # from image by image to the order of sampling
        rows = order[back]
        pixels, inner, moved = zip(*inputs, strict=True)
        result.pixels = [torch.cat(pixels)[torch.from_numpy(back)]]
        result.indices = images[rows].tolist()
        proposals = np.concatenate(inner)[back].astype(np.float32)[:, None]
        result.arrays = [proposals, *self.sampler.objects(chosen[rows], np.concatenate(moved)[back])]
        return result


def mirror(boxes: Floats, mirrored: Bools, width: Any) -> Floats:
    """Boxes (N, 4), of which those with ``mirrored`` (N,) are flipped within ``width`` pixels: a number or (N,)."""
    flipped = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return np.where(mirrored[:, None], flipped, boxes)


class WindowLoader(BaseLoader[Batch]):
    """Training batches of windows as ``source`` computes them; ``batch`` counts the windows of all processes.

    Floats of an unreadable image are missing from their batch. Order and augmentation follow from (seed, epoch, batch)
    as in :class:`Loader`. Raises :class:`FovealError` for records without proposals and :class:`UsageError` for a batch
    that is not divisible by the number of processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        source: WindowSource,
        draw: WindowSampling,
        batch: int,
        seed: int = 0,
        *,
        flip: float = 0.5,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        difficult: Treatment = "learn",
        crowd: Treatment = "ignore",
    ) -> None:
        if batch < 2 or batch % world:
            raise UsageError(f"a batch of {batch} windows is not divisible by {world} processes")
        packed = PackedRecords(dataset.records, difficult, crowd)
        sampler = WindowSampler(WindowTable.build(packed, draw), draw, len(packed), batch, seed, flip, rank, world)
        super().__init__(dataset, WindowBatches(packed, sampler, source), workers)

    def _finish(self, built: WorkerBatch, seconds: float) -> Batch:
        proposals, boxes, labels, valid = (torch.from_numpy(a) for a in built.arrays)
        (pixels,) = built.pixels
        size = torch.tensor(pixels.shape[-2:]).expand(len(pixels), -1)
        frame = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(len(pixels), -1)
        valid_proposals = torch.ones(len(pixels), 1, dtype=torch.bool)
        return Batch(
            Images(pixels, size, frame, size, proposals=proposals, proposals_valid=valid_proposals),
            Targets(boxes, labels, valid, torch.zeros_like(valid)),
            built.indices,
            [self.dataset.records[i].id for i in built.indices],
            seconds,
        )
