"""What a worker does: one batch, named by (epoch, batch), from files to a packet that travels well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveal.errors import FovealError

from .images import MOST_SKIPPED
from .order import Order, generator
from .sample import Sample
from .samples import Packed, collate, prepare, resized_rule
from .transforms import MultiScale, Transform

if TYPE_CHECKING:
    from foveal.parts.inputs import Input


@dataclass
class Packet:
    """What a worker sends. Only pixels are tensors: each tensor costs a file descriptor on its way."""

    pixels: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)  # index -> why
    error: bool = False  # more images than allowed cannot be read


class Maker(Protocol):
    """Makes batch ``batch`` of ``epoch``; the same packet wherever and whenever it is called."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, batch: int, shared: bool) -> Packet: ...


@dataclass(frozen=True, eq=False)
class TrainMaker:
    """Decoded, augmented, resized, padded."""

    packed: Packed
    order: Order
    input: Input
    augment: tuple[Transform, ...]
    scale: MultiScale | None
    rank: int

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, epoch: int, batch: int, shared: bool) -> Packet:
        indices, first = self.order.share(epoch, batch, self.rank)
        seed, packet, prepared = self.order.seed, Packet(), []
        for place, wanted in enumerate(indices.tolist(), first):
            found = self._load(epoch, place, wanted, packet.skipped)
            if found is None:
                packet.error = True
                return packet
            index, sample = found
            prepared.append(prepare(sample, self.augment, generator("sample", seed, epoch, index)))
            packet.indices.append(index)
        side = None if self.scale is None else self.scale.choose(generator("batch", seed, epoch, batch))
        images, targets = collate(prepared, resized_rule(self.input, side), shared=shared)
        packet.pixels = [images.pixels]
        rest = [images.sizes, images.frame, images.original]
        rest += [targets.boxes, targets.labels, targets.valid, targets.ignore]
        if images.proposals is not None and images.proposals_valid is not None:
            rest += [images.proposals, images.proposals_valid]
        packet.arrays = [np.asarray(t.numpy()) for t in rest]
        return packet

    def _load(self, epoch: int, place: int, index: int, skipped: dict[int, str]) -> tuple[int, Sample] | None:
        """The image, or the next in the epoch's order that can be read; None where too many cannot."""
        order: NDArray[np.int64] | None = None
        for step in range(1, 2 + int(MOST_SKIPPED * len(self.packed))):
            try:
                return index, self.packed.sample(index, self.input.fill)
            except FovealError as error:
                skipped[index] = str(error)
            if order is None:
                order = self.order.batches(epoch).reshape(-1)
            index = int(order[(place + step) % len(order)])
        return None


@dataclass(frozen=True, eq=False)
class EvalMaker:
    """Whole pictures of the images ``mine``, in order."""

    packed: Packed
    mine: NDArray[np.int64]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch)

    def __call__(self, epoch: int, batch: int, shared: bool) -> Packet:
        packet = Packet()
        for index in self.mine[batch * self.batch : (batch + 1) * self.batch].tolist():
            try:
                packet.pixels.append(torch.from_numpy(self.packed.image(index)))
                packet.indices.append(index)
            except FovealError as error:
                packet.skipped[index] = str(error)
        return packet
