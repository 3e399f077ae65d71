"""Training batches of frozen maps: what the frozen layers of a backbone compute of each view of an image, stored.

A view is an image as it lies on the canvas of its batch: augmented, resized, padded. Its maps are computed of this
image alone and rounded to the format in which they are stored, also where there is no room for them. So they depend
neither on the other images of the batch nor on the limit and on what is stored already, and a resumed run gets the same
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import FovealError
from ...types import Images
from ..augment.geometry import Sample
from ..augment.transforms import HorizontalFlip, MultiScale, ShortSide
from .batches import PlacedBatch, TrainBatches
from .map_cache import ViewStore
from .shared_records import WorkerBatch, packed_batch

FEW = (HorizontalFlip, MultiScale, ShortSide)  # their results differ in ``Sample.mirrored`` and in size alone
ComputeMaps = Callable[[Images], list[Tensor]]  # raw pixels of one image -> maps (1, c, h, w), on any device


@dataclass(frozen=True, eq=False)
class ViewBatches:
    """The batches of ``source`` with ``frozen_maps`` (B, h, w, c) for pixels, built in the process that trains.

    ``half``: fp32 maps become fp16. Raises :class:`FovealError` where they are not finite then.
    """

    source: TrainBatches
    store: ViewStore
    compute: ComputeMaps
    half: bool

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        result, source = WorkerBatch(), self.source
        samples = source.samples(epoch, batch, self._sample, result)
        if samples is None:
            return result
        prepared = [source.prepared(epoch, number, each, source.augment, {}) for number, each in samples]
        placed = PlacedBatch.of(prepared, source.rule(epoch, batch))
        blank = torch.zeros(()).expand(len(prepared), 3, *placed.canvas)  # one number in memory
        images, targets = placed.labeled(blank)
        maps = [self._maps(epoch, number, place, placed, images) for place, (number, _) in enumerate(samples)]
        stacked = tuple(torch.stack(level) for level in zip(*maps, strict=True))
        return packed_batch(result, replace(images, frozen_maps=stacked), targets)

    def _sample(self, index: int) -> Sample:
        """Without pixels where a view of the image is stored, so that it is known to be readable."""
        return self.source.packed.sample(index, self.source.input.fill, blank=index in self.store.images)

    def _maps(self, epoch: int, number: int, place: int, placed: PlacedBatch, images: Images) -> list[Tensor]:
        """The maps (h, w, c) of image ``number`` of the epoch, which is number ``place`` of the batch."""
        times, index = divmod(number, len(self.source.packed))
        view = self._view(epoch, times, place, placed)
        stored = self.store.read(index, view)
        if stored is not None:
            return stored
        item, source = placed.prepared[place], self.source
        if item.sample.is_blank:
            item = source.prepared(epoch, number, source.decoded(index), source.augment, {})
        pixels = torch.empty((*placed.canvas, 3), dtype=torch.uint8)
        placed.draw(item, place, pixels)
        size, frame, original = (each[place : place + 1] for each in (images.sizes, images.frame, images.original))
        computed = self.compute(Images(pixels.permute(2, 0, 1)[None], size, frame, original))
        maps = [self._rounded(each[0].permute(1, 2, 0).cpu().contiguous(), index) for each in computed]
        self.store.write(index, view, maps)
        return maps

    def _view(self, epoch: int, times: int, place: int, placed: PlacedBatch) -> str:
        """A name for all that decides what the network sees of an image."""
        sample, at = placed.prepared[place].sample, placed.placements[place]
        # a flip and a size say all of a few views; else it is the number of the augmentation
        number = "0" if all(isinstance(t, FEW) for t in self.source.augment) else f"{self.source.view(epoch)}.{times}"
        frame = f"{at.height}x{at.width}+{at.y}+{at.x}of{placed.canvas[0]}x{placed.canvas[1]}"
        return f"{number}{'m' if sample.mirrored else ''}-{frame}"

    def _rounded(self, one: Tensor, index: int) -> Tensor:
        one = one.half() if self.half and one.dtype == torch.float32 else one
        if not one.isfinite().all():
            raise FovealError(
                f"what the frozen layers compute is not finite in {one.dtype}",
                path=self.source.packed.path(index),
                fix="Set fit.frozen_maps.precision=32" if self.half else "Leave out fit.frozen_maps",
            )
        return one
