"""Which image comes when: a pure function of seed, epoch and rank, so that nobody has a generator's state to save."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["order", "sample", "batch", "window"]
_PURPOSES: dict[Purpose, int] = {"order": 1, "sample": 2, "batch": 3, "window": 4}


def generator(purpose: Purpose, seed: int, epoch: int, index: int = 0) -> np.random.Generator:
    """The noise of one thing: an epoch's order, a sample's augmentation, a batch's size."""
    return np.random.Generator(np.random.PCG64([_PURPOSES[purpose], seed, epoch, index]))


@dataclass(frozen=True, eq=False)
class Order:
    """The training order of ``count`` images in whole batches of ``batch`` images over all ranks.

    What does not fill a batch is left out, another part every epoch. Fewer images than a batch make one batch of
    them all; repeated from its start where the ranks would not get equal shares.
    """

    count: int
    batch: int
    seed: int
    shuffle: bool = True
    world: int = 1
    tall: NDArray[np.bool_] | None = None  # (count,) bool; given: tall and wide pictures share no batch where possible

    def __len__(self) -> int:
        return max(1, self.count // self.batch)

    def batches(self, epoch: int) -> NDArray[np.int64]:
        """(batches, images of one) int64."""
        return _batches(self, epoch)

    def share(self, epoch: int, batch: int, rank: int) -> tuple[NDArray[np.int64], int]:
        """The images of one batch that belong to a rank, and the place of the first in the epoch's order."""
        table = self.batches(epoch)
        size = table.shape[1] // self.world
        return table[batch, rank * size : (rank + 1) * size], batch * table.shape[1] + rank * size


@functools.lru_cache(maxsize=4)
def _batches(order: Order, epoch: int) -> NDArray[np.int64]:
    rng = generator("order", order.seed, epoch)
    indices = rng.permutation(order.count) if order.shuffle else np.arange(order.count)
    size = order.batch
    if order.count < size:
        return np.resize(indices, (1, -(-order.count // order.world) * order.world))
    if order.tall is None:
        return indices[: len(order) * size].reshape(-1, size)
    whole, rest = [], []
    for group in (indices[order.tall[indices]], indices[~order.tall[indices]]):
        cut = len(group) // size * size
        whole.append(group[:cut])
        rest.append(group[cut:])
    left_over = np.concatenate(rest)  # one mixed batch at most, so that len() does not depend on the epoch
    whole.append(left_over[: len(left_over) // size * size])
    table = np.concatenate(whole).reshape(-1, size)
    return rng.permutation(table) if order.shuffle else table
