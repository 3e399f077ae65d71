"""Transforms that combine an image with other images of the training set: mosaic, mix-up and copy-paste.

The loader chooses the other images at random for (seed, epoch, index), the image itself excluded, and applies to each
the transforms that precede the combination in ``fit.augment``, other combinations aside. One combination reads
``others`` more files at most.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...files.aliases import ImageArray
from ...masks.rle import Masks
from .geometry import Sample, crop_to_visible, resample
from .transforms import Transform

__all__ = ["Combination", "CopyPaste", "MixUp", "Mosaic"]


class Combination(Transform):
    """``combine(sample, others, rng) -> sample``; without other images the sample stays as it is.

    Its fields include ``p``, the probability, and ``until``, the share of the training after which it is no longer
    applied.
    """

    others: ClassVar[int] = 1  # other images that it needs
    needs_masks: ClassVar[bool] = False
    p: float
    until: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample

    @abstractmethod
    def combine(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """The sample with ``self.others`` other ones in it; none of them is modified."""

    def _check(self, valid: bool, expected: str = "") -> None:
        if not (0 <= self.p <= 1 and 0 <= self.until <= 1 and valid):
            both = "p and until in [0, 1]"
            raise UsageError(f"{self}: expected {both}{', ' if expected else ''}{expected}")


@dataclass(frozen=True)
class Mosaic(Combination):
    """Four images in the quadrants of one canvas (Bochkovskiy et al. 2020, YOLOv4, section 3.3).

    The canvas is that of the first image. It is divided at a random point, ``center`` or more of each side away from
    the edges. In its quadrant each image has the size at which it would fit the canvas, times a factor uniform in
    ``low``..``high``; what does not fit is cut off at random, and an image smaller than its quadrant touches the point.
    Objects of which less than ``visible`` remains become ignored regions.
    """

    p: float = 1.0
    until: float = 0.9  # share of the training after which the images are whole again
    low: float = 0.5
    high: float = 1.5
    center: float = 0.25
    visible: float = 0.25

    others: ClassVar[int] = 3

    def __post_init__(self) -> None:
        valid = 0 < self.low <= self.high and 0 <= self.center <= 0.5 and 0 <= self.visible <= 1
        self._check(valid, "0 < low <= high, center in [0, .5], visible in [0, 1]")

    def combine(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        height, width = sample.canvas
        split, draws = rng.random(2), rng.random((4, 3))
        if min(height, width) < 2:
            return sample
        y, x = (
            min(max(1, round(side * (self.center + (1 - 2 * self.center) * float(u)))), side - 1)
            for side, u in zip((height, width), split, strict=True)
        )
        out = torch.empty((height, width, 3), dtype=torch.uint8)
        tiles = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
        parts = []
        for number, (image, tile, draw) in enumerate(zip((sample, *others), tiles, draws, strict=True)):
            fill = replace(image, fill=sample.fill)
            parts.append(self._placed(fill, out, tile, draw.tolist(), after=(number >= 2, number % 2 == 1)))
        return _joined(sample, parts, np.asarray(out.numpy()))

    def _placed(
        self,
        image: Sample,
        out: Tensor,
        tile: tuple[int, int, int, int],
        draw: Sequence[float],
        after: tuple[bool, bool],
    ) -> Sample:
        """A window of an image drawn into a tile of ``out``; ``after``: the tile is below, right of the point."""
        top, left, bottom, right = tile
        (canvas_h, canvas_w), (h, w) = out.shape[:2], image.canvas
        zoom = (self.low + (self.high - self.low) * draw[0]) * min(canvas_h / h, canvas_w / w)
        window = max(1, round((bottom - top) / zoom)), max(1, round((right - left) / zoom))
        start = [
            round(u * (side - part)) if part <= side else (0 if here else side - part)
            for side, part, u, here in zip((h, w), window, draw[1:], after, strict=True)
        ]
        cut = crop_to_visible(image, start[0], start[1], *window, self.visible)
        placed = resample(cut, out[top:bottom, left:right], (bottom - top, right - left, 0, 0))
        return _moved(placed, top, left, (canvas_h, canvas_w))


@dataclass(frozen=True)
class MixUp(Combination):
    """The weighted mean of two images, with the objects of both (Zhang et al. 2019, "Bag of Freebies", section 3.1).

    The other image is fitted into the canvas at a random location and mixed in there; the weight of the first is drawn
    from Beta(``alpha``, ``alpha``). The losses of the objects have no weights, therefore ``alpha`` is large: both
    images stay visible.
    """

    p: float = 0.5
    until: float = 0.9
    alpha: float = 8.0

    def __post_init__(self) -> None:
        self._check(self.alpha > 0, "alpha above 0")

    def combine(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        weight = rng.beta(self.alpha, self.alpha)
        pixels, other = _fitted(others[0], sample, rng)
        top, left, height, width = other.offset[0], other.offset[1], *pixels.shape[:2]
        out = torch.from_numpy(_on_whole_canvas(sample).copy())
        below = out[top : top + height, left : left + width]
        below.copy_((below.float().lerp(pixels.float(), 1 - weight)).round_())
        return _joined(sample, [sample, other], np.asarray(out.numpy()))


@dataclass(frozen=True)
class CopyPaste(Combination):
    """Objects of another image pasted by their masks (Ghiasi et al. 2021); for data with masks.

    The other image is fitted into the canvas at a random location, and each of its objects is pasted with probability
    ``share``: those that have a mask and are no ignored region. The pixels that it covers leave the masks and boxes of
    the objects behind it; one of which less than ``visible`` of its mask remains becomes an ignored region, one that is
    covered completely is dropped. Put the geometric transforms before it, as the paper does: both images get them.
    """

    p: float = 0.5
    until: float = 1.0
    share: float = 0.5
    visible: float = 0.25

    needs_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check(0 <= self.share <= 1 and 0 <= self.visible <= 1, "share and visible in [0, 1]")

    def combine(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        pixels, other = _fitted(others[0], sample, rng)
        chosen = rng.random(len(other)) < self.share
        if sample.masks is None or other.masks is None:
            return sample
        pasted = other.select(chosen & ~other.ignore & (other.masks.area() > 0))
        if not len(pasted) or pasted.masks is None:
            return sample
        base = _on_whole_canvas(sample)
        union = pasted.masks.union()
        top, left, height, width = other.offset[0], other.offset[1], *pixels.shape[:2]
        out = torch.from_numpy(base.copy())
        covered = torch.from_numpy(union.dense()[0][top : top + height, left : left + width])
        below = out[top : top + height, left : left + width]
        below.copy_(torch.where(covered[..., None], pixels, below))
        behind = replace(sample, masks=_masks_on_canvas(sample), offset=(0, 0))
        return _joined(sample, [self._occluded(behind, union), pasted], np.asarray(out.numpy()))

    def _occluded(self, sample: Sample, union: Masks) -> Sample:
        """The objects behind what was pasted; those without a mask, and the ignored regions, stay as they are."""
        assert sample.masks is not None
        masks = sample.masks.minus(union)
        before, after = sample.masks.area(), masks.area()
        cut = (after < before) & ~sample.ignore
        boxes = np.where((cut & (after > 0))[:, None], masks.extents(), sample.boxes)
        ignore = sample.ignore | (cut & (after < self.visible * before))
        return replace(sample, boxes=boxes, ignore=ignore, masks=masks).select(~cut | (after > 0))


# ----------------------------------------------------------------------------------------------- inside
def _fitted(other: Sample, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Sample]:
    """Another image as large as it fits into the canvas of ``sample``, at a random location: its pixels (h, w, 3), and
    its objects on that canvas; ``offset`` is the location."""
    (height, width), (h, w) = sample.canvas, other.canvas
    v, u = rng.random(2).tolist()
    zoom = min(height / h, width / w)
    h, w = min(height, max(1, round(h * zoom))), min(width, max(1, round(w * zoom)))
    top, left = round(v * (height - h)), round(u * (width - w))
    pixels = torch.empty((h, w, 3), dtype=torch.uint8)
    placed = resample(replace(other, fill=sample.fill), pixels, (h, w, 0, 0))
    return pixels, replace(_moved(placed, top, left, sample.canvas), offset=(top, left))


def _moved(sample: Sample, top: int, left: int, canvas: tuple[int, int]) -> Sample:
    """Objects (and proposals) of a part of a canvas, at ``top`` and ``left``, in the pixels of the whole canvas."""
    shift = np.array([left, top, left, top], dtype=np.float64)
    return replace(
        sample,
        boxes=sample.boxes + shift,
        proposals=None if sample.proposals is None else sample.proposals + shift,
        masks=None if sample.masks is None else sample.masks.window(-top, -left, *canvas),
        canvas=canvas,
    )


def _masks_on_canvas(sample: Sample) -> Masks | None:
    """The masks in pixels of the canvas instead of those of the image."""
    top, left = sample.offset
    return None if sample.masks is None else sample.masks.window(-top, -left, *sample.canvas)


def _on_whole_canvas(sample: Sample) -> ImageArray:
    """(H, W, 3) the canvas, without a copy where the image covers it. Not to be written to."""
    return sample.image if sample.image.shape[:2] == sample.canvas else sample.render()


def _joined(first: Sample, parts: Sequence[Sample], image: ImageArray) -> Sample:
    """The objects of all parts on one image that covers the canvas of ``first``."""
    masks = [_masks_on_canvas(part) if part is first else part.masks for part in parts]
    proposals = [part.proposals for part in parts if part.proposals is not None]
    return replace(
        first,
        image=image,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        ignore=np.concatenate([part.ignore for part in parts]),
        masks=None if first.masks is None else Masks.join([m for m in masks if m is not None], first.canvas),
        proposals=np.concatenate(proposals) if proposals else None,
        offset=(0, 0),
    )
