"""Windows on stored maps of the backbone: what SPP-Net's head learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ...errors import FovealError
from .map_cache import Store
from .shared_records import PackedRecords
from .window_batches import Windows, mirror

if TYPE_CHECKING:
    from ...parts.pooling.roi_align import Pool


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
            kind = "mirrored" if mirrored else "plain"
            count = sum(name.startswith(f"{kind}.") for name in file.keys())  # noqa: SIM118
            if not count:
                return None
            size, frame, width = (file.get_tensor(name) for name in ("size", "frame", "width"))
            levels = [file.get_tensor(f"{kind}.{level}") for level in range(count)]
        return Maps(levels, size, frame.numpy(), float(width))


@dataclass(frozen=True, eq=False)
class Pooled:
    """Windows as ``pool`` makes them of stored maps; boxes in network pixels. A :class:`~.windows.WindowSource`."""

    store: MapStore
    pool: Pool
    strides: Sequence[float]

    def __call__(
        self, packed: PackedRecords, index: int, boxes: Windows, truth: Windows, mirrored: NDArray[np.bool_]
    ) -> tuple[Tensor, Windows, Windows]:
        """See :class:`WindowSource`."""
        rows: list[Tensor] = []
        boxes, truth = boxes.copy(), truth.copy()
        for turned in (False, True):
            here = mirrored == turned
            if not here.any():
                continue
            maps = self.store.read(index, turned)
            if maps is None:
                raise FovealError("the image could not be read when its maps were stored", path=packed.path(index))
            for each in (boxes, truth):
                each[here] = _placed(each[here], mirrored[here], maps)
            where = torch.from_numpy(boxes[here].astype(np.float32))[None]
            rows.append(self.pool([level.float() for level in maps.levels], where, self.strides, maps.size))
        place = np.argsort(mirrored, kind="stable").argsort()
        return torch.cat(rows)[torch.from_numpy(place)], boxes, truth


def _placed(boxes: Windows, mirrored: NDArray[np.bool_], maps: Maps) -> Windows:
    """Boxes (N, 4) of the original picture in network pixels."""
    turned = mirror(boxes, mirrored, maps.width)
    return np.asarray(turned * np.tile(maps.frame[:2], 2) + np.tile(maps.frame[2:], 2))
