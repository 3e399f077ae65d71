"""What a worker does: one batch, named by (epoch, batch), from files to a packet that travels well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import ImageArray
from ...types import Images, Target, Targets, pad_boxes
from ..augment.geometry import Sample, resample
from ..augment.transforms import MultiScale, Transform
from ..images.load import MOST_SKIPPED
from .shared_records import PackedRecords

if TYPE_CHECKING:
    from ...parts.resizing import Input


@dataclass
class WorkerBatch:
    """What a worker sends. Only pixels are tensors: each tensor costs a file descriptor on its way."""

    pixels: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)  # index -> why
    error: bool = False  # more images than allowed cannot be read


class BatchBuilder(Protocol):
    """Makes batch ``batch`` of ``epoch``; the same packet wherever and whenever it is called."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, batch: int, shared: bool) -> WorkerBatch: ...


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """Decoded, augmented, resized, padded."""

    packed: PackedRecords
    order: Order
    input: Input
    augment: tuple[Transform, ...]
    scale: MultiScale | None
    rank: int

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, epoch: int, batch: int, shared: bool) -> WorkerBatch:
        indices, first = self.order.share(epoch, batch, self.rank)
        seed, packet, prepared = self.order.seed, WorkerBatch(), []
        for slot, wanted in enumerate(indices.tolist(), first):
            found = self._load(epoch, slot, wanted, packet.skipped)
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
        rest += [] if targets.masks is None else [targets.masks]
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
class EvalBatches:
    """Whole pictures of the images ``mine``, in order."""

    packed: PackedRecords
    mine: NDArray[np.int64]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch)

    def __call__(self, epoch: int, batch: int, shared: bool) -> WorkerBatch:
        packet = WorkerBatch()
        for index in self.mine[batch * self.batch : (batch + 1) * self.batch].tolist():
            try:
                packet.pixels.append(torch.from_numpy(self.packed.image(index)))
                packet.indices.append(index)
            except FovealError as error:
                packet.skipped[index] = str(error)
        return packet


# -------------------------------------------------------------------------------------------------- batches
@dataclass(frozen=True)
class Prepared:
    """A sample whose geometry is done; ``color_jitter`` is the color that is still to come."""

    sample: Sample
    color_jitter: Callable[[ImageArray], ImageArray] | None


def prepare(sample: Sample, augment: Sequence[Transform], rng: np.random.Generator) -> Prepared:
    """Runs the geometry and keeps the colors for later: they cost least on the smaller picture."""
    for transform in augment:
        if not transform.color:
            sample = transform(sample, rng)
    colors = [t for t in augment if t.color]
    if not colors:
        return Prepared(sample, None)

    def color_jitter(image: ImageArray) -> ImageArray:
        painted = replace(sample, image=image, masks=None)
        for transform in colors:
            painted = transform(painted, rng)
        return painted.image

    return Prepared(sample, color_jitter)


def collate(prepared: Sequence[Prepared], rule: Input, *, shared: bool = False) -> tuple[Images, Targets]:
    """Resizes, paints, pads: (B, 3, H, W) uint8 channels-last. ``shared`` puts the pixels into shared memory."""
    canvases = [p.sample.canvas for p in prepared]
    places = [resized_rule(rule, p.sample.short).placement(*p.sample.canvas) for p in prepared]
    canvas = rule.canvas([(p.height, p.width) for p in places])
    pixels = _empty((len(prepared), *canvas, 3), shared)
    targets, proposals = [], []
    for item, spot, out in zip(prepared, places, pixels, strict=True):
        sample, finish = item.sample, item.color_jitter
        height, width = sample.canvas
        if finish is not None and height * width <= spot.height * spot.width:
            sample, finish = replace(sample, image=finish(sample.image)), None
        placed = resample(sample, out, (spot.height, spot.width, spot.y, spot.x), finish)
        targets.append(_target(placed))
        if placed.proposals is not None:
            proposals.append(torch.from_numpy(placed.proposals))
    images = Images(pixels.permute(0, 3, 1, 2), *rule.frames(canvases, places, canvas))
    if proposals:
        boxes, valid = pad_boxes(proposals)
        images = replace(images, proposals=boxes, proposals_valid=valid)
    return images, Targets.pad(targets)


def _target(sample: Sample) -> Target:
    return Target(
        torch.as_tensor(sample.boxes, dtype=torch.float32).reshape(-1, 4),
        torch.as_tensor(sample.labels, dtype=torch.int64),
        ignore=torch.as_tensor(sample.ignore, dtype=torch.bool),
        masks=sample.masks,
    )


def _empty(shape: tuple[int, ...], shared: bool) -> Tensor:
    if not shared:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's own collate does it: written once, straight into the memory that the main process will map.
    storage = cast("Any", torch.UntypedStorage)._new_shared(int(np.prod(shape)), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def resized_rule(rule: Input, side: int | None) -> Input:
    """The resize rule with another short side (``Resize``) or a canvas whose shorter side is ``side``."""
    if side is None:
        return rule
    known: Any = rule  # the two families of rules share no field
    if hasattr(known, "short"):
        return cast("Input", replace(known, short=side))
    scale = side / min(known.width, known.height)
    return cast("Input", replace(known, width=round(known.width * scale), height=round(known.height * scale)))


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
