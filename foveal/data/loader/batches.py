"""Builds one batch, given (epoch, batch), in a worker process: from image files to padded pixels and targets.

:class:`TrainBatches` takes four steps: (1) the :class:`Order` chooses the images, (2) the records' ``sample`` decodes
each, (3) :func:`prepare` augments it, and (4) :func:`collate` resizes and pads all of them into one tensor. All
randomness comes from :func:`generator`, so a batch is the same in whichever process it is built.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import Floats, ImageArray, Ints
from ...types import Images, Targets, pad_boxes
from ..augment.combine import Combination
from ..augment.geometry import Sample, draw_pixels, resampled_objects
from ..augment.transforms import MultiScale, Transform
from ..images.load import MOST_SKIPPED
from .shared_records import PackedRecords, WorkerBatch, allocate_pixels, packed_batch, repeated, sample_target

if TYPE_CHECKING:
    from ...parts.resizing import Input, Placement


PARTNER_TRIALS = 3  # images that are tried, where some cannot be read


# ---------------------------------------------------------------------------------------------- the builders
class BatchBuilder(Protocol):
    """Builds batch ``batch`` of ``epoch``, ``done`` of the training (a share) before it; the result depends on nothing
    else. ``shared``: pixels in shared memory."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch: ...


LoadSample = Callable[[int], Sample]  # of the image of this index; raises FovealError where it cannot be used


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """Training batches of one rank, as :func:`packed_batch` packs them; with masks if ``masks`` is true.

    ``views``: how many times each image is augmented differently, one epoch after the other, before the first view
    comes again; None: anew in every epoch.
    """

    packed: PackedRecords
    order: Order
    input: Input
    augment: tuple[Transform, ...]
    scale: MultiScale | None
    rank: int
    masks: bool = True
    views: int | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        result = WorkerBatch()
        samples = self.samples(epoch, batch, self.decoded, result)
        if samples is None:
            return result
        augment = [t for t in self.augment if not isinstance(t, Combination) or done < t.until]
        prepared = [self.prepared(epoch, number, each, augment, result.skipped) for number, each in samples]
        return packed_batch(result, *collate(prepared, self.rule(epoch, batch), shared=shared))

    def samples(self, epoch: int, batch: int, load: LoadSample, result: WorkerBatch) -> list[tuple[int, Sample]] | None:
        """The images of a batch with their numbers in the epoch (see :meth:`Order.batches`); ``None`` where too many
        are unreadable. Their indices are added to ``result``."""
        numbers, start = self.order.share(epoch, batch, self.rank)
        samples = []
        for position, scheduled in enumerate(numbers.tolist(), start):
            loaded = self._load(epoch, position, scheduled, load, result.skipped)
            if loaded is None:
                result.error = True
                return None
            result.indices.append(loaded[0] % len(self.packed))
            samples.append(loaded)
        return samples

    def decoded(self, index: int) -> Sample:
        """Image ``index`` with its pixels. Raises :class:`FovealError` where it cannot be used."""
        return self.packed.sample(index, self.input.fill)

    def view(self, epoch: int) -> int:
        """The number of the view that is shown in an epoch."""
        return epoch if self.views is None else epoch % self.views

    def prepared(
        self, epoch: int, number: int, sample: Sample, augment: Sequence[Transform], skipped: dict[int, str]
    ) -> Prepared:
        """The sample of image ``number`` of the epoch, augmented."""
        partner = functools.partial(self._partner, self.view(epoch), number, skipped)
        item = prepare(sample, augment, generator("sample", self.order.seed, self.view(epoch), number), partner)
        return item if self.masks else replace(item, sample=replace(item.sample, masks=None))

    def rule(self, epoch: int, batch: int) -> Input:
        """The resize rule of a batch."""
        if self.scale is None:
            return self.input
        return resized_rule(self.input, self.scale.choose(generator("batch", self.order.seed, epoch, batch)))

    def _load(
        self, epoch: int, position: int, number: int, load: LoadSample, skipped: dict[int, str]
    ) -> tuple[int, Sample] | None:
        """The image with its number, or the next readable one in the epoch's order; ``None`` where too many are
        unreadable."""
        order: Ints | None = None
        for step in range(1, 2 + int(MOST_SKIPPED * len(self.packed))):
            index = number % len(self.packed)
            try:
                return number, load(index)
            except FovealError as error:
                skipped[index] = str(error)
            if order is None:
                order = self.order.batches(epoch).reshape(-1)
            number = int(order[(position + step) % len(order)])
        return None

    def _partner(
        self, view: int, number: int, skipped: dict[int, str], which: int, before: Sequence[Transform]
    ) -> Sample | None:
        """Another image for a combination, number ``which`` for this sample, after the transforms before that one;
        ``None`` where none of a few can be read."""
        rng = generator("partner", self.order.seed, view, number, which)
        for _ in range(PARTNER_TRIALS):
            other = (number + int(rng.integers(1, max(2, len(self.packed))))) % len(self.packed)
            try:
                sample = self.decoded(other)
            except FovealError as error:
                skipped[other] = str(error)
                continue
            for transform in before:
                sample = transform(sample, rng)
            return sample
        return None


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
    group: Ints | None = None  # (count,); if given, a batch has images of one group, where possible
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
        indices = repeated(indices, order.repeats, rng, order.shuffle)[: order.images]
    size = order.batch
    if len(indices) < size:
        return np.resize(indices, (1, -(-len(indices) // order.world) * order.world))
    if order.group is None:
        return indices[: len(order) * size].reshape(-1, size)
    full, partial = [], []
    groups = order.group[indices % order.count]
    for group in np.unique(groups):
        members = indices[groups == group]
        cut = len(members) // size * size
        full.append(members[:cut])
        partial.append(members[cut:])
    mixed = np.concatenate(partial)  # of them as many batches as there are, so that len() is that of one group
    full.append(mixed[: len(mixed) // size * size])
    table = np.concatenate(full).reshape(-1, size)
    return rng.permutation(table) if order.shuffle else table


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
    placed = PlacedBatch.of(prepared, rule)
    pixels = allocate_pixels((len(prepared), *placed.canvas, 3), shared)
    for place, (item, out) in enumerate(zip(prepared, pixels, strict=True)):
        placed.draw(item, place, out)
    return placed.labeled(pixels.permute(0, 3, 1, 2))


@dataclass(frozen=True)
class PlacedBatch:
    """The samples of a batch, with the size and location of each on the canvas of the batch."""

    prepared: Sequence[Prepared]
    rule: Input
    placements: Sequence[Placement]
    canvas: tuple[int, int]  # height, width

    @classmethod
    def of(cls, prepared: Sequence[Prepared], rule: Input) -> PlacedBatch:
        """The placements by a resize rule."""
        placements = [resized_rule(rule, p.sample.short).placement(*p.sample.canvas) for p in prepared]
        return cls(prepared, rule, placements, rule.canvas([(p.height, p.width) for p in placements]))

    def draw(self, item: Prepared, place: int, out: Tensor) -> None:
        """Writes the pixels of number ``place`` of the batch, which is ``item``, into ``out`` (H, W, 3) uint8."""
        sample, finish, at = item.sample, item.color_jitter, self.placements[place]
        height, width = sample.canvas
        if finish is not None and height * width <= at.height * at.width:
            sample, finish = replace(sample, image=finish(sample.image)), None
        draw_pixels(sample, out, (at.height, at.width, at.y, at.x), finish)

    def labeled(self, pixels: Tensor) -> tuple[Images, Targets]:
        """The batch with these pixels (B, 3, H, W), and its targets."""
        canvases, targets, proposals = [p.sample.canvas for p in self.prepared], [], []
        for item, at in zip(self.prepared, self.placements, strict=True):
            placed = resampled_objects(item.sample, self.canvas, (at.height, at.width, at.y, at.x))
            targets.append(sample_target(placed))
            if placed.proposals is not None:
                proposals.append(torch.from_numpy(placed.proposals))
        images = Images(pixels, *self.rule.frames(canvases, self.placements, self.canvas))
        if proposals:
            boxes, valid = pad_boxes(proposals)
            images = replace(images, proposals=boxes, proposals_valid=valid)
        return images, Targets.pad(targets)


def resized_rule(rule: Input, side: int | None) -> Input:
    """The resize rule with another short side (``Resize``), or with a canvas whose shorter side is ``side``."""
    return rule if side is None else rule.resized(side)
