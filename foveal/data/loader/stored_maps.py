"""Reads stored feature maps of the backbone and pools windows from them: SPP-Net's training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import Bools, Floats
from .map_cache import Store
from .shared_records import PackedRecords
from .window_batches import mirror

if TYPE_CHECKING:
    from ...parts.pooling.roi_align import Pool


@dataclass(frozen=True)
class Maps:
    """The feature maps of one image, or of its mirror image."""

    levels: list[Tensor]  # (1, c, h, w) each, half precision
    size: Tensor  # (1, 2) height and width of the image in network pixels
    frame: Floats  # (4,) sx, sy, ox, oy: network x = original x * sx + ox
    width: float  # of the original image


class MapStore(Store):
    """The feature maps of a dataset, with those of the mirror images."""

    def read(self, index: int, mirrored: bool) -> Maps | None:
        """The maps of an image, ``None`` if the image could not be read. Reads only these tensors from the file."""
        with self.opened(index, "pt") as file:
            kind = "mirrored" if mirrored else "plain"
            count = sum(name.startswith(f"{kind}.") for name in file.keys())  # noqa: SIM118
            if not count:
                return None
            size, frame, width = (file.get_tensor(name) for name in ("size", "frame", "width"))
            levels = [file.get_tensor(f"{kind}.{level}") for level in range(count)]
        return Maps(levels, size, frame.numpy(), float(width))


@dataclass(frozen=True, eq=False)
class Pooled:
    """Floats pooled from stored maps; boxes in network pixels. A :class:`~.window_batches.WindowSource`."""

    store: MapStore
    pool: Pool
    strides: Sequence[float]

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Floats, truth: Floats, mirrored: Bools
    ) -> tuple[Tensor, Floats, Floats]:
        """See :class:`WindowSource`."""
        pooled: list[Tensor] = []
        boxes, truth = boxes.copy(), truth.copy()
        for flipped in (False, True):
            here = mirrored == flipped
            if not here.any():
                continue
            maps = self.store.read(index, flipped)
            if maps is None:
                raise FovealError("the image could not be read when its maps were stored", path=packed.path(index))
            for each in (boxes, truth):
                each[here] = _to_network(each[here], mirrored[here], maps)
            windows = torch.from_numpy(boxes[here].astype(np.float32))[None]
            pooled.append(self.pool([level.float() for level in maps.levels], windows, self.strides, maps.size))
        back = np.argsort(mirrored, kind="stable").argsort()
        return torch.cat(pooled)[torch.from_numpy(back)], boxes, truth


def _to_network(boxes: Floats, mirrored: Bools, maps: Maps) -> Floats:
    """Boxes (N, 4) in pixels of the original image -> network pixels."""
    flipped = mirror(boxes, mirrored, maps.width)
    return np.asarray(flipped * np.tile(maps.frame[:2], 2) + np.tile(maps.frame[2:], 2))
