"""The order of the training images, and the random numbers of a batch: both follow from (seed, epoch, index) alone."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...files.aliases import Bools, Floats, Ints

Purpose = Literal["order", "sample", "batch", "window", "partner"]
_PURPOSES: dict[Purpose, int] = {"order": 1, "sample": 2, "batch": 3, "window": 4, "partner": 5}


def generator(purpose: Purpose, seed: int, epoch: int, index: int = 0, *number: int) -> np.random.Generator:
    """The random numbers of one epoch's order, one sample's augmentation, one batch's size, one batch of windows, or
    of the ``number``-th image that a sample is combined with."""
    return np.random.Generator(np.random.PCG64([_PURPOSES[purpose], seed, epoch, index, *number]))


@dataclass(frozen=True, eq=False)
class Order:
    """The training order of ``count`` images, in full batches of ``batch`` images over all ranks.

    Images that do not fill a last batch are dropped, different ones every epoch. Fewer images than a batch make one
    batch of all of them, padded by repetition so that all ranks get the same number.
    """

    count: int
    batch: int
    seed: int
    shuffle: bool = True
    world: int = 1
    tall: Bools | None = None  # (count,); if given, tall and wide images are put into separate batches where possible
    repeats: Floats | None = None  # (count,) how often an image comes in an epoch, on average; 1 or more

    @property
    def images(self) -> int:
        """Images of an epoch, before those that fill no batch are dropped."""
        return self.count if self.repeats is None else math.floor(self.repeats.sum().round(9))

    def __len__(self) -> int:
        return max(1, self.images // self.batch)

    def batches(self, epoch: int) -> Ints:
        """(number of batches, batch size) indices of images, plus ``count`` for every time that the image came before
        in the epoch: an image that is repeated gets another augmentation."""
        return _batches(self, epoch)

    def share(self, epoch: int, batch: int, rank: int) -> tuple[Ints, int]:
        """A rank's images of one batch, and the position of the first of them in the epoch's order."""
        table = self.batches(epoch)
        size = table.shape[1] // self.world
        return table[batch, rank * size : (rank + 1) * size], batch * table.shape[1] + rank * size


@functools.lru_cache(maxsize=4)
def _batches(order: Order, epoch: int) -> Ints:
    rng = generator("order", order.seed, epoch)
    indices = rng.permutation(order.count) if order.shuffle else np.arange(order.count)
    if order.repeats is not None:
        indices = _repeated(indices, order.repeats, rng, order.shuffle)[: order.images]
    size = order.batch
    if len(indices) < size:
        return np.resize(indices, (1, -(-len(indices) // order.world) * order.world))
    if order.tall is None:
        return indices[: len(order) * size].reshape(-1, size)
    full, partial = [], []
    tall = order.tall[indices % order.count]
    for group in (indices[tall], indices[~tall]):
        cut = len(group) // size * size
        full.append(group[:cut])
        partial.append(group[cut:])
    mixed = np.concatenate(partial)  # at most one mixed batch, so that len() does not depend on the epoch
    full.append(mixed[: len(mixed) // size * size])
    table = np.concatenate(full).reshape(-1, size)
    return rng.permutation(table) if order.shuffle else table


def _repeated(indices: Ints, repeats: Floats, rng: np.random.Generator, shuffle: bool) -> Ints:
    """Each image ``repeats`` times on average over the epochs: that number rounded down or up (systematic sampling)."""
    ends = np.cumsum(repeats[indices]).round(9) + (rng.random() if shuffle else 0.0)
    times = np.diff(np.floor(ends), prepend=0.0).astype(np.int64)
    copies = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    numbers = np.repeat(indices, times) + copies * len(indices)
    return rng.permutation(numbers) if shuffle else numbers


def repeat_factors(images: Ints, labels: Ints, count: int, threshold: float) -> Floats:
    """(count,) how often each image comes in an epoch: repeat-factor sampling (Gupta et al. 2019, LVIS, section 3.2).

    ``images`` (G,) is the image of each object and ``labels`` (G,) its class. A class in a share f of the images has
    the factor max(1, sqrt(threshold / f)), an image the largest of its classes.
    """
    factors = np.ones(count)
    if not len(labels):
        return factors
    pairs = np.unique(np.stack([labels, images]), axis=1)
    share = np.bincount(pairs[0]) / count
    of_class = np.sqrt(threshold / share.clip(1 / count)).clip(1.0)
    np.maximum.at(factors, pairs[1], of_class[pairs[0]])
    return factors
