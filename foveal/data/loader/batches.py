"""Builds one batch, given (epoch, batch), in a worker process: from image files to padded pixels and targets.

:class:`TrainBatches` takes four steps: (1) the :class:`Order` chooses the images, (2) the records' ``sample`` decodes
each, (3) :func:`prepare` augments it, and (4) :func:`collate` resizes and pads all of them into one tensor. All
randomness comes from :func:`generator`, so a batch is the same in whichever process it is built.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import Bools, Floats, ImageArray, Ints
from ...types import Images, Target, Targets, pad_boxes
from ..augment.combine import Combination
from ..augment.geometry import Sample, resample
from ..augment.transforms import MultiScale, Transform
from ..images.load import MOST_SKIPPED
from .shared_records import PackedRecords

if TYPE_CHECKING:
    from ...parts.resizing import Input


PARTNER_TRIALS = 3  # images that are tried, where some cannot be read


# ---------------------------------------------------------------------------------------------- the builders
@dataclass
class WorkerBatch:
    """What a worker sends to the main process. Only pixels are tensors, since each tensor costs a file descriptor."""

    pixels: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of the images, in the records
    skipped: dict[int, str] = field(default_factory=dict)  # index of an unusable image -> reason
    error: bool = False  # too many images are unusable


class BatchBuilder(Protocol):
    """Builds batch ``batch`` of ``epoch``, ``done`` of the training (a share) before it; the result depends on nothing
    else. ``shared``: pixels in shared memory."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch: ...


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """Training batches of one rank. ``arrays``: sizes, frame, original; boxes, labels, valid, ignore; then, if there
    are any, proposals and their valid flags; then masks, if ``masks`` is true and there are any."""

    packed: PackedRecords
    order: Order
    input: Input
    augment: tuple[Transform, ...]
    scale: MultiScale | None
    rank: int
    masks: bool = True

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        indices, start = self.order.share(epoch, batch, self.rank)
        seed, result, prepared = self.order.seed, WorkerBatch(), []
        augment = [t for t in self.augment if not isinstance(t, Combination) or done < t.until]
        for position, scheduled in enumerate(indices.tolist(), start):
            loaded = self._load(epoch, position, scheduled, result.skipped)
            if loaded is None:
                result.error = True
                return result
            number, sample = loaded
            partner = functools.partial(self._partner, epoch, number, result.skipped)
            item = prepare(sample, augment, generator("sample", seed, epoch, number), partner)
            prepared.append(item if self.masks else replace(item, sample=replace(item.sample, masks=None)))
            result.indices.append(number % len(self.packed))
        side = None if self.scale is None else self.scale.choose(generator("batch", seed, epoch, batch))
        images, targets = collate(prepared, resized_rule(self.input, side), shared=shared)
        result.pixels = [images.pixels]
        tensors = [images.sizes, images.frame, images.original]
        tensors += [targets.boxes, targets.labels, targets.valid, targets.ignore]
        if images.proposals is not None and images.proposals_valid is not None:
            tensors += [images.proposals, images.proposals_valid]
        tensors += [] if targets.masks is None else [targets.masks]
        result.arrays = [np.asarray(t.numpy()) for t in tensors]
        return result

    def _load(self, epoch: int, position: int, number: int, skipped: dict[int, str]) -> tuple[int, Sample] | None:
        """The image with its number in the epoch (see :meth:`Order.batches`), or the next readable one in the epoch's
        order; ``None`` where too many are unreadable."""
        order: Ints | None = None
        for step in range(1, 2 + int(MOST_SKIPPED * len(self.packed))):
            index = number % len(self.packed)
            try:
                return number, self.packed.sample(index, self.input.fill)
            except FovealError as error:
                skipped[index] = str(error)
            if order is None:
                order = self.order.batches(epoch).reshape(-1)
            number = int(order[(position + step) % len(order)])
        return None

    def _partner(
        self, epoch: int, number: int, skipped: dict[int, str], which: int, before: Sequence[Transform]
    ) -> Sample | None:
        """Another image for a combination, number ``which`` for this sample, after the transforms before that one;
        ``None`` where none of a few can be read."""
        rng = generator("partner", self.order.seed, epoch, number, which)
        for _ in range(PARTNER_TRIALS):
            other = (number + int(rng.integers(1, max(2, len(self.packed))))) % len(self.packed)
            try:
                sample = self.packed.sample(other, self.input.fill)
            except FovealError as error:
                skipped[other] = str(error)
                continue
            return functools.reduce(lambda moved, transform: transform(moved, rng), before, sample)
        return None


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """The images ``indices`` in order, unchanged."""

    packed: PackedRecords
    indices: Ints
    batch: int

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        result = WorkerBatch()
        for index in self.indices[batch * self.batch : (batch + 1) * self.batch].tolist():
            try:
                result.pixels.append(torch.from_numpy(self.packed.image(index)))
                result.indices.append(index)
            except FovealError as error:
                result.skipped[index] = str(error)
        return result


# ---------------------------------------------------------------------------------- step 1: choose the images
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


# ---------------------------------------------------------------------------------- step 3: augment an image
@dataclass(frozen=True)
class Prepared:
    """A sample after its geometric transforms; ``color_jitter`` are the color transforms, not applied yet."""

    sample: Sample
    color_jitter: Callable[[ImageArray], ImageArray] | None


# (number of the other image, transforms to apply to it) -> the image; None: there is none
Partner = Callable[[int, Sequence[Transform]], Sample | None]


def prepare(
    sample: Sample, augment: Sequence[Transform], rng: np.random.Generator, partner: Partner = lambda *_: None
) -> Prepared:
    """Applies the geometric transforms and defers the color transforms, which cost less on a smaller image."""
    before, partners = list[Transform](), 0
    for transform in augment:
        if transform.color:
            continue
        if not isinstance(transform, Combination):
            sample = transform(sample, rng)
            before.append(transform)
        elif rng.random() < transform.p:
            found = [partner(partners + k, before) for k in range(transform.others)]
            partners += transform.others
            others = [each for each in found if each is not None]
            sample = transform.combine(sample, others, rng) if len(others) == transform.others else sample
    colors = [t for t in augment if t.color]
    if not colors:
        return Prepared(sample, None)

    def color_jitter(image: ImageArray) -> ImageArray:
        jittered = replace(sample, image=image, masks=None)
        for transform in colors:
            jittered = transform(jittered, rng)
        return jittered.image

    return Prepared(sample, color_jitter)


# ------------------------------------------------------------------------------------ step 4: resize and pad
def collate(prepared: Sequence[Prepared], rule: Input, *, shared: bool = False) -> tuple[Images, Targets]:
    """Resizes, jitters colors and pads: pixels (B, 3, H, W) uint8, channels-last; targets in network pixels.

    ``shared`` allocates the pixels in shared memory.
    """
    canvases = [p.sample.canvas for p in prepared]
    placements = [resized_rule(rule, p.sample.short).placement(*p.sample.canvas) for p in prepared]
    canvas = rule.canvas([(p.height, p.width) for p in placements])
    pixels = _allocate((len(prepared), *canvas, 3), shared)
    targets, proposals = [], []
    for item, place, out in zip(prepared, placements, pixels, strict=True):
        sample, finish = item.sample, item.color_jitter
        height, width = sample.canvas
        if finish is not None and height * width <= place.height * place.width:
            sample, finish = replace(sample, image=finish(sample.image)), None
        placed = resample(sample, out, (place.height, place.width, place.y, place.x), finish)
        targets.append(_target(placed))
        if placed.proposals is not None:
            proposals.append(torch.from_numpy(placed.proposals))
    images = Images(pixels.permute(0, 3, 1, 2), *rule.frames(canvases, placements, canvas))
    if proposals:
        boxes, valid = pad_boxes(proposals)
        images = replace(images, proposals=boxes, proposals_valid=valid)
    return images, Targets.pad(targets)


def resized_rule(rule: Input, side: int | None) -> Input:
    """The resize rule with another short side (``Resize``), or with a canvas whose shorter side is ``side``."""
    return rule if side is None else rule.resized(side)


def _target(sample: Sample) -> Target:
    return Target(
        torch.as_tensor(sample.boxes, dtype=torch.float32).reshape(-1, 4),
        torch.as_tensor(sample.labels, dtype=torch.int64),
        ignore=torch.as_tensor(sample.ignore, dtype=torch.bool),
        masks=sample.masks,
    )


def _allocate(shape: tuple[int, ...], shared: bool) -> Tensor:
    if not shared:
        return torch.empty(shape, dtype=torch.uint8)
    # like torch's default collate function: written once, directly into the memory that the main process will map
    storage = cast("Any", torch.UntypedStorage)._new_shared(int(np.prod(shape)), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
