"""R-CNN's training batches: windows drawn over the whole set, each warped to the CNN's input.

A window is a proposal or an object. A batch of them is an ordinary one: N crops, each with one proposal (the box
within its context) and with one object where the window is positive. SPP-Net's (``maps.py``) are drawn alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveal.boxes import array_iou
from foveal.errors import FovealError, UsageError
from foveal.fit import Draw
from foveal.types import Images, Targets

from .dataset import Dataset
from .loader import Batch, _Loader
from .makers import Packet
from .order import generator
from .samples import Packed, Treatment, _empty

if TYPE_CHECKING:
    from foveal.parts.warp import Warp

Boxes = NDArray[np.floating[Any]]  # (N, 4) xyxy pixels of the original picture


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
    def build(cls, packed: Packed, draw: Draw) -> WindowTable:
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
    packed: Packed, index: int, draw: Draw
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
class Drawing:
    """Which windows are in a batch, by (seed, epoch, batch) alone."""

    table: WindowTable
    draw: Draw
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
        valid = np.isin(chosen, self.table.positive)[:, None]
        label = np.where(valid, self.table.label[chosen][:, None], 0).astype(np.int64)
        return [np.where(valid, boxes, 0.0).astype(np.float32)[:, None], label, valid]


@dataclass(frozen=True, eq=False)
class WindowMaker:
    """Decodes each image of a batch once."""

    packed: Packed
    drawing: Drawing
    pool: Warp
    fill: tuple[int, int, int]  # what lies outside a picture

    def __len__(self) -> int:
        return len(self.drawing)

    def __call__(self, epoch: int, batch: int, shared: bool) -> Packet:
        chosen, mirrored = self.drawing(epoch, batch)
        table = self.drawing.table
        packet, crops, kept = Packet(), [], []
        for index in np.unique(table.image[chosen]).tolist():
            rows = np.flatnonzero(table.image[chosen] == index)
            try:
                crops.append(self._crops(self.packed.image(index), table.boxes[chosen[rows]]))
                kept.append(rows)
            except FovealError as error:
                packet.skipped[index] = str(error)
        if not kept:
            packet.error = True
            return packet
        order = np.concatenate(kept)
        pixels = torch.cat(crops)[torch.from_numpy(order.argsort(kind="stable"))]
        order.sort()
        chosen, mirrored = chosen[order], mirrored[order]
        turned = torch.from_numpy(mirrored)[:, None, None, None]
        pixels = torch.where(turned, pixels.flip(2), pixels)  # (N, S, S, 3)
        packet.pixels = [_empty(tuple(pixels.shape), shared).copy_(pixels).permute(0, 3, 1, 2)]
        packet.indices = table.image[chosen].tolist()
        packet.arrays = self._arrays(chosen, mirrored)
        return packet

    def _crops(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Tensor:
        """(K, S, S, 3) uint8: what prediction crops in float, rounded."""
        fill = torch.tensor(self.fill, dtype=torch.float32)
        pixels = (torch.from_numpy(image.astype(np.float32)) - fill).permute(2, 0, 1)[None]
        crops = self.pool([pixels], torch.from_numpy(boxes)[None], (1,))
        return (crops.permute(0, 2, 3, 1) + fill).round_().clamp_(0, 255).to(torch.uint8)

    def _arrays(self, chosen: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> list[NDArray[Any]]:
        """Proposals (N, 1, 4), and what :meth:`Drawing.objects` says."""
        table = self.drawing.table
        boxes, truth = table.boxes[chosen].astype(np.float64), table.truth[chosen].astype(np.float64)
        inner = np.asarray(self.pool.inner(torch.from_numpy(boxes)).numpy())
        low, side = np.tile(boxes[:, :2], 2), np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6), 2)
        scale = np.tile(inner[:, 2:] - inner[:, :2], 2) / side
        moved = np.tile(inner[:, :2], 2) + (truth - low) * scale
        moved = mirror(moved, mirrored, self.pool.size)
        return [inner.astype(np.float32)[:, None], *self.drawing.objects(chosen, moved)]


def mirror(boxes: NDArray[np.float64], mirrored: NDArray[np.bool_], width: Any) -> NDArray[np.float64]:
    """Boxes (N, 4), those that are ``mirrored`` (N,) in a picture of ``width`` pixels: a number, or one for each."""
    turned = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return np.where(mirrored[:, None], turned, boxes)


class _DrawnLoader(_Loader[Batch]):
    """Batches of windows, whatever they are looked at on."""

    def _finish(self, packet: Packet, seconds: float) -> Batch:
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


class WindowLoader(_DrawnLoader):
    """Training batches of crops; ``batch`` counts them over all processes.

    Windows of an image that cannot be read are missing from their batch. Order and noise follow from (seed, epoch,
    batch) as in :class:`Loader`. Raises :class:`FovealError` for records without proposals.
    """

    def __init__(
        self,
        dataset: Dataset,
        pool: Warp,
        fill: tuple[int, int, int],
        draw: Draw,
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
        packed = Packed(dataset.records, difficult, crowd)
        drawing = drawing_of(packed, draw, batch, seed, flip, rank, world)
        super().__init__(dataset, WindowMaker(packed, drawing, pool, fill), workers)


def drawing_of(packed: Packed, draw: Draw, batch: int, seed: int, flip: float, rank: int, world: int) -> Drawing:
    """Raises :class:`UsageError` for a batch that cannot be shared."""
    if batch < 2 or batch % world:
        raise UsageError(f"a batch of {batch} windows cannot be shared equally by {world} processes")
    return Drawing(WindowTable.build(packed, draw), draw, len(packed), batch, seed, flip, rank, world)
