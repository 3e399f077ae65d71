"""SPP-Net's training batches: windows drawn over the whole set, pooled from stored maps of the backbone.

A batch is an ordinary one: what the pool made of N windows stands where pixels do, and each has one proposal and, where
it is positive, one object, both in network pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from foveal.fit import Draw

from .dataset import Dataset
from .makers import Packet
from .samples import Packed, Treatment
from .stored import Store
from .windows import Drawing, _DrawnLoader, drawing_of, mirror

if TYPE_CHECKING:
    from foveal.parts.pooling import Pool


@dataclass(frozen=True)
class Maps:
    """The maps of one image, or of its mirror image."""

    levels: list[Tensor]  # (1, c, h, w) each, half precision
    size: Tensor  # (1, 2) height and width of the picture in network pixels
    frame: NDArray[np.float64]  # (4,) sx, sy, ox, oy: network x = original x * sx + ox
    width: float  # of the original picture


class MapStore(Store):
    """The maps of a set; those of the mirror images beside them."""

    def read(self, index: int, mirrored: bool) -> Maps | None:
        """None for an image that could not be read. Only what is asked for is read from the disk."""
        with safe_open(self.path(index), "pt") as file:
            names = sorted(n for n in file.keys() if n.startswith("mirrored." if mirrored else "plain."))  # noqa: SIM118
            if not names:
                return None
            size, frame, width = (file.get_tensor(name) for name in ("size", "frame", "width"))
            levels = [file.get_tensor(name) for name in names]
        return Maps(levels, size, frame.numpy(), float(width))


@dataclass(frozen=True, eq=False)
class MapMaker:
    """Reads the maps of each image of a batch once."""

    drawing: Drawing
    store: MapStore
    pool: Pool
    strides: Sequence[float]

    def __len__(self) -> int:
        return len(self.drawing)

    @torch.no_grad()
    def __call__(self, epoch: int, batch: int, shared: bool) -> Packet:
        chosen, mirrored = self.drawing(epoch, batch)
        table = self.drawing.table
        packet, pooled, kept, boxes, truth = Packet(), [], [], [], []
        images = table.image[chosen]
        for index, turned in np.unique(np.stack([images, mirrored], 1), axis=0).tolist():
            rows = np.flatnonzero((images == index) & (mirrored == bool(turned)))
            maps = self.store.read(index, bool(turned))
            if maps is None:
                packet.skipped[index] = f"image {index} of the set could not be read when the maps were stored"
                continue
            boxes.append(_placed(table.boxes[chosen[rows]], mirrored[rows], maps))
            truth.append(_placed(table.truth[chosen[rows]], mirrored[rows], maps))
            where = torch.from_numpy(boxes[-1].astype(np.float32))[None]
            pooled.append(self.pool([level.float() for level in maps.levels], where, self.strides, maps.size))
            kept.append(rows)
        if not kept:
            packet.error = True
            return packet
        order = np.concatenate(kept)
        place = order.argsort(kind="stable")
        packet.pixels = [torch.cat(pooled)[torch.from_numpy(place)]]
        chosen = chosen[order[place]]
        packet.indices = table.image[chosen].tolist()
        proposals = np.concatenate(boxes)[place].astype(np.float32)[:, None]
        packet.arrays = [proposals, *self.drawing.objects(chosen, np.concatenate(truth)[place])]
        return packet


def _placed(boxes: NDArray[np.float32], mirrored: NDArray[np.bool_], maps: Maps) -> NDArray[np.float64]:
    """Boxes (N, 4) of the original picture in network pixels."""
    turned = mirror(boxes.astype(np.float64), mirrored, maps.width)
    return np.asarray(turned * np.tile(maps.frame[:2], 2) + np.tile(maps.frame[2:], 2))


class MapLoader(_DrawnLoader):
    """Training batches of pooled windows; ``batch`` counts them. See :class:`WindowLoader`."""

    def __init__(
        self,
        dataset: Dataset,
        store: MapStore,
        pool: Pool,
        strides: Sequence[float],
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
        super().__init__(dataset, MapMaker(drawing, store, pool, strides), workers)
