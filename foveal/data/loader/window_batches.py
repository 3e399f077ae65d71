"""R-CNN's and SPP-Net's training batches: windows drawn over the whole set, each looked at alone.

A window is a proposal or an object. A batch of them is an ordinary one: N times what a ``WindowSource``
shows of a window (R-CNN: crops of the image; SPP-Net: what its pool makes of stored maps, ``stored_maps.py``), each
with one proposal and, where the window is positive, with one object.
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
from ...recipe import Treatment, WindowSampling
from ...types import Images, Targets
from ..records.dataset import Dataset
from .batches import WorkerBatch, generator
from .loader import Batch, _Loader
from .shared_records import PackedRecords

if TYPE_CHECKING:
    from ...parts.pooling.warp import Warp

Windows = NDArray[np.float64]  # (K, 4) xyxy


@dataclass(frozen=True, eq=False)
class WindowTable:
    """The windows of all training images that may be drawn, flat: forked workers share these pages."""

    image: NDArray[np.int32]  # (W,) in ``dataset.records``
    boxes: NDArray[np.float32]  # (W, 4)
    truth: NDArray[np.float32]  # (W, 4) the object overlapped most
    label: NDArray[np.int32]  # (W,) its class
    positive: NDArray[np.int64]  # windows that overlap an object by ``draw.iou`` or more
    negative: NDArray[np.int64]  # those that overlap all by less, and one by ``draw.low`` at least

    @classmethod
    def build(cls, packed: PackedRecords, draw: WindowSampling) -> WindowTable:
        """Raises :class:`FovealError` where there is no positive or no negative window at all."""
        parts = [_windows(packed, index, draw) for index in range(len(packed))]
        image = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p[0]) for p in parts])
        boxes, truth, label, positive = (np.concatenate([p[k] for p in parts]) for k in range(4))
        table = cls(image, boxes, truth, label, np.flatnonzero(positive), np.flatnonzero(~positive))
        for name, found in (("an object", table.positive), ("background", table.negative)):
            if not len(found):
                raise FovealError(
                    f"not one of {len(image)} windows shows {name}",
                    fix="Are the proposals those of these images? See foveal proposals",
                )
        return table


def _windows(
    packed: PackedRecords, index: int, draw: WindowSampling
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Boxes, objects, classes and which are positive, of one image. Windows in an ignored region are left out."""
    rows = slice(packed.starts[index], packed.starts[index + 1])
    ignore = packed.ignore[rows]
    objects, labels = packed.boxes[rows][~ignore], packed.labels[rows][~ignore]
    proposals = packed.proposals[index]
    if proposals is None:
        raise FovealError("the image has no proposals", path=packed.path(index), fix="See foveal proposals")
    boxes = np.concatenate([proposals.astype(np.float64), objects])
    if not len(objects):
        objects, labels = np.zeros((1, 4)), np.zeros(1, np.int64)
    iou = array_iou(boxes, objects)
    best = iou.argmax(1)
    overlap = iou[np.arange(len(boxes)), best]
    keep = overlap >= draw.low
    if ignore.any():
        keep &= array_iou(boxes, packed.boxes[rows][ignore]).max(1) < draw.iou
    picked = best[keep]
    return (
        boxes[keep].astype(np.float32),
        objects[picked].astype(np.float32),
        labels[picked].astype(np.int32),
        overlap[keep] >= draw.iou,
    )


@dataclass(frozen=True, eq=False)
class WindowSampler:
    """Which windows are in a batch, by (seed, epoch, batch) alone."""

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

    def __call__(self, epoch: int, batch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The windows of this rank and which of them are mirrored: positives first, then spread over the ranks."""
        rng = generator("window", self.seed, epoch, batch)
        positives = round(self.batch * self.draw.positive)
        chosen = np.concatenate(
            [rng.choice(self.table.positive, positives), rng.choice(self.table.negative, self.batch - positives)]
        )
        mirrored = rng.random(self.batch) < self.flip
        return chosen[self.rank :: self.world], mirrored[self.rank :: self.world]

    def objects(self, chosen: NDArray[np.int64], boxes: NDArray[np.float64]) -> list[NDArray[Any]]:
        """The objects of windows, ``boxes`` (N, 4): (N, 1, 4), their labels (N, 1) and whether there is one (N, 1)."""
        positive = self.table.positive  # rising
        at = np.searchsorted(positive, chosen).clip(max=len(positive) - 1)
        valid = (positive[at] == chosen)[:, None]
        label = np.where(valid, self.table.label[chosen][:, None], 0).astype(np.int64)
        return [np.where(valid, boxes, 0.0).astype(np.float32)[:, None], label, valid]


class WindowSource(Protocol):
    """What the windows of one image are looked at on.

    Gets the index of the image, boxes and objects of K windows, float64 (K, 4) pixels of the original picture, and
    which of them are mirrored (K,). Returns what is seen of each, (K, ...), and boxes and objects in the pixels of
    that. Raises :class:`FovealError` for an image that cannot be read.
    """

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Windows, truth: Windows, mirrored: NDArray[np.bool_]
    ) -> tuple[Tensor, Windows, Windows]: ...


@dataclass(frozen=True)
class Crops:
    """Each window warped to (3, S, S) uint8: what prediction crops in float, rounded."""

    pool: Warp
    fill: tuple[int, int, int]  # what lies outside a picture

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Windows, truth: Windows, mirrored: NDArray[np.bool_]
    ) -> tuple[Tensor, Windows, Windows]:
        """See :class:`WindowSource`; a box lies within its context, at the same place of every crop."""
        fill = torch.tensor(self.fill, dtype=torch.float32)[:, None, None]
        picture = torch.from_numpy(packed.image(index).astype(np.float32)).permute(2, 0, 1)
        crops = self.pool([(picture - fill)[None]], torch.from_numpy(boxes.astype(np.float32))[None], (1,))
        pixels = (crops + fill).round_().clamp_(0, 255).to(torch.uint8)
        turned = torch.from_numpy(mirrored)[:, None, None, None]
        inner = np.asarray(self.pool.inner(torch.from_numpy(boxes)).numpy())
        low, side = np.tile(boxes[:, :2], 2), np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6), 2)
        scale = np.tile(inner[:, 2:] - inner[:, :2], 2) / side
        moved = np.tile(inner[:, :2], 2) + (truth - low) * scale
        return torch.where(turned, pixels.flip(3), pixels), inner, mirror(moved, mirrored, self.pool.size)


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Reads each image of a batch once."""

    packed: PackedRecords
    drawing: WindowSampler
    view: WindowSource

    def __len__(self) -> int:
        return len(self.drawing)

    @torch.no_grad()
    def __call__(self, epoch: int, batch: int, shared: bool) -> WorkerBatch:
        chosen, mirrored = self.drawing(epoch, batch)
        table = self.drawing.table
        boxes, truth = table.boxes[chosen].astype(np.float64), table.truth[chosen].astype(np.float64)
        images = table.image[chosen]
        packet, seen, kept = WorkerBatch(), [], []
        for index in np.unique(images).tolist():
            rows = np.flatnonzero(images == index)
            try:
                seen.append(self.view(self.packed, index, boxes[rows], truth[rows], mirrored[rows]))
                kept.append(rows)
            except FovealError as error:
                packet.skipped[index] = str(error)
        if not kept:
            packet.error = True
            return packet
        order = np.concatenate(kept)
        place = order.argsort()  # from image by image back to the order of drawing
        rows = order[place]
        pixels, inner, moved = zip(*seen, strict=True)
        packet.pixels = [torch.cat(pixels)[torch.from_numpy(place)]]
        packet.indices = images[rows].tolist()
        proposals = np.concatenate(inner)[place].astype(np.float32)[:, None]
        packet.arrays = [proposals, *self.drawing.objects(chosen[rows], np.concatenate(moved)[place])]
        return packet


def mirror(boxes: NDArray[np.float64], mirrored: NDArray[np.bool_], width: Any) -> NDArray[np.float64]:
    """Boxes (N, 4), those that are ``mirrored`` (N,) in a picture of ``width`` pixels: a number, or one for each."""
    turned = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return np.where(mirrored[:, None], turned, boxes)


class WindowLoader(_Loader[Batch]):
    """Training batches of windows as ``view`` shows them; ``batch`` counts them over all processes.

    Windows of an image that cannot be read are missing from their batch. Order and noise follow from (seed, epoch,
    batch) as in :class:`Loader`. Raises :class:`FovealError` for records without proposals and :class:`UsageError` for
    a batch that cannot be shared.
    """

    def __init__(
        self,
        dataset: Dataset,
        view: WindowSource,
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
            raise UsageError(f"a batch of {batch} windows cannot be shared equally by {world} processes")
        packed = PackedRecords(dataset.records, difficult, crowd)
        drawing = WindowSampler(WindowTable.build(packed, draw), draw, len(packed), batch, seed, flip, rank, world)
        super().__init__(dataset, WindowBatches(packed, drawing, view), workers)

    def _finish(self, packet: WorkerBatch, seconds: float) -> Batch:
        proposals, boxes, labels, valid = (torch.from_numpy(a) for a in packet.arrays)
        (pixels,) = packet.pixels
        size = torch.tensor(pixels.shape[-2:]).expand(len(pixels), -1)
        frame = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(len(pixels), -1)
        here = torch.ones(len(pixels), 1, dtype=torch.bool)
        return Batch(
            Images(pixels, size, frame, size, proposals=proposals, proposals_valid=here),
            Targets(boxes, labels, valid, torch.zeros_like(valid)),
            packet.indices,
            [self.dataset.records[i].id for i in packet.indices],
            seconds,
        )
