"""Training transforms: frozen dataclasses, ``transform(sample, rng) -> sample``, pure and stateless.

A tuple of them is the field ``fit.augment``. The loader applies the geometric ones in order, resizes, and applies the
color transforms before or after resizing, whichever has fewer pixels: they are pointwise, so mostly the time differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...files.aliases import Floats
from .color import adjust_hsv, apply_table, lookup_table
from .geometry import Sample, centers_inside, crop_to_centers, crop_to_visible, flip

__all__ = [
    "Expand",
    "FixedCrop",
    "FlipScaleColor",
    "HorizontalFlip",
    "IoUCrop",
    "Jitter",
    "MultiScale",
    "PhotometricDistortion",
    "ResizedCrop",
    "Sample",
    "ScaleJitter",
    "ShortSide",
    "Transform",
]


class Transform(ABC):
    """``transform(sample, rng) -> sample``. All randomness comes from ``rng``; the given sample is not modified."""

    color: ClassVar[bool] = False  # pointwise on pixels, so it may be applied before or after resizing

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


# ------------------------------------------------------------------------------------------------- geometry
@dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Mirrors left and right."""

    p: float = 0.5  # probability

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return flip(sample) if rng.random() < self.p else sample


@dataclass(frozen=True)
class Expand(Transform):
    """Puts the image at a random location on a larger canvas (SSD's "zoom out", section 3.6 of its journal version).

    Each side grows by the same factor, uniform in 1..``ratio``.
    """

    ratio: float = 4.0
    p: float = 0.5
    fill: tuple[int, int, int] | None = None  # None: as the padding of the batch

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        chance, factor, v, u = rng.random(4)
        if chance >= self.p:
            return sample
        factor = 1 + (self.ratio - 1) * factor
        height, width = sample.canvas
        h, w = round(height * factor), round(width * factor)
        top, left = round(v * (h - height)), round(u * (w - width))
        sample = sample if self.fill is None else replace(sample, fill=self.fill)
        return sample.window(-top, -left, h, w)


@dataclass(frozen=True)
class IoUCrop(Transform):
    """SSD's crop: the whole image, or a window with a minimum IoU with some object (section 2.2 of the paper).

    One option is sampled: a minimum IoU with at least one object, ``0`` for any window, ``1`` for the whole image. Of
    ``trials`` windows the first that satisfies it and contains the center of an object is used; if none does, another
    option is sampled. Objects whose center is outside the window are dropped, the others are clipped. A window's side
    is ``scale`` of the canvas's, its aspect ratio (relative to the canvas's) within ``aspect``, as in the original
    ``sampler.cpp``.
    """

    options: tuple[float, ...] = (1.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    trials: int = 50

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for option in rng.permutation(np.asarray(self.options, dtype=np.float64)):
            if option >= 1:
                return sample
            windows = self.windows(sample.canvas, rng)
            fits = self._fits(windows, sample.boxes[~sample.ignore], float(option))
            if fits.any():
                x1, y1, x2, y2 = windows[int(fits.argmax())].tolist()
                return crop_to_centers(sample, y1, x1, y2 - y1, x2 - x1)
        return sample

    def windows(self, canvas: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
        """(trials, 4) random windows, xyxy."""
        scale, ratio, u, v = rng.random((4, self.trials))
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * scale
        low, high = np.maximum(self.aspect[0], scale**2), np.minimum(self.aspect[1], scale**-2)
        root = np.sqrt(low + (high - low) * ratio)
        height, width = canvas
        w = np.clip(np.rint(width * scale * root), 1, width)
        h = np.clip(np.rint(height * scale / root), 1, height)
        x, y = np.rint(u * (width - w)), np.rint(v * (height - h))
        return np.stack([x, y, x + w, y + h], 1).astype(np.int64)

    @staticmethod
    def _fits(windows: NDArray[np.int64], boxes: Floats, min_iou: float) -> NDArray[np.bool_]:
        """(trials,) bool: the windows with an IoU of ``min_iou`` or more and a center inside."""
        if not len(boxes):
            return np.ones(len(windows), dtype=np.bool_)
        w = windows[:, None].astype(np.float64)  # (trials, 1, 4)
        side = (np.minimum(w[..., 2:], boxes[:, 2:]) - np.maximum(w[..., :2], boxes[:, :2])).clip(0)
        shared = side.prod(-1)
        union = (w[..., 2:] - w[..., :2]).prod(-1) + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - shared
        inside = centers_inside(boxes, w)
        fits: NDArray[np.bool_] = inside.any(1) & ((shared / union).max(1) >= min_iou)
        return fits


@dataclass(frozen=True)
class ScaleJitter(Transform):
    """Zooms the image by a factor uniform in ``low``..``high`` on a canvas of constant size.

    Above 1 a random part of the image remains; below 1 it is at a random location and the rest is fill. With the resize
    rule after it this is large-scale jitter (Ghiasi et al. 2021): ``ScaleJitter(0.1, 2.0)``. Objects of which less than
    ``visible`` remains become ignored regions.
    """

    low: float = 0.8
    high: float = 1.25
    visible: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise UsageError(f"{self}: expected 0 < low <= high")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        zoom, v, u = rng.random(3)
        zoom = self.low + (self.high - self.low) * zoom
        height, width = sample.canvas
        h, w = max(1, round(height / zoom)), max(1, round(width / zoom))
        return crop_to_visible(sample, round(v * (height - h)), round(u * (width - w)), h, w, self.visible)


@dataclass(frozen=True)
class Jitter(Transform):
    """Moves each edge of the image in or out by up to ``most`` of the side: Darknet's jitter.

    Pixels outside the image are fill. Aspect ratio and size change; the resize rule is applied after it. Objects of
    which less than ``visible`` remains become ignored regions.
    """

    most: float = 0.2  # of the width, or of the height
    visible: float = 0.25

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.canvas
        top, bottom, left, right = self.most * (2 * rng.random(4) - 1)
        y, x = round(height * top), round(width * left)
        h, w = max(1, round(height * (1 + bottom)) - y), max(1, round(width * (1 + right)) - x)
        return crop_to_visible(sample, y, x, h, w, self.visible)


@dataclass(frozen=True)
class FixedCrop(Transform):
    """A random window of a fixed size, in pixels of the file; a smaller side is padded at the right or bottom.

    Objects of which less than ``visible`` remains become ignored regions.
    """

    width: int
    height: int
    visible: float = 0.25

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        v, u = rng.random(2)
        top = round(v * max(0, sample.canvas[0] - self.height))
        left = round(u * max(0, sample.canvas[1] - self.width))
        return crop_to_visible(sample, top, left, self.height, self.width, self.visible)


@dataclass(frozen=True)
class MultiScale(Transform):
    """Another size for every batch: the loader calls :meth:`choose` once a batch and changes the resize rule.

    ``sides`` are short sides for ``Resize``, and the shorter side of the canvas for ``Stretch`` and ``Letterbox``.
    """

    sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)

    def choose(self, rng: np.random.Generator) -> int:
        return self.sides[int(rng.integers(len(self.sides)))]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample  # the size belongs to the batch


@dataclass(frozen=True)
class ShortSide(Transform):
    """Another short side for every image, instead of that of ``Resize`` (DETR). The limit of the long side remains."""

    sides: tuple[int, ...] = tuple(range(480, 801, 32))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, short=self.sides[int(rng.integers(len(self.sides)))])


@dataclass(frozen=True)
class ResizedCrop(Transform):
    """DETR's crop: a random window of the image resized to one of ``shorts`` as its short side.

    Each side of the window is uniform in ``low``..``high`` pixels of that size, and no longer than the image. Objects
    that overlap it are clipped to it.
    """

    shorts: tuple[int, ...] = (400, 500, 600)
    low: int = 384
    high: int = 600
    p: float = 0.5  # probability

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        height, width = sample.canvas
        scale = self.shorts[int(rng.integers(len(self.shorts)))] / min(height, width)

        def side(whole: int) -> int:
            longest = min(round(whole * scale), self.high)
            pixels = int(rng.integers(min(self.low, longest), longest + 1))
            return max(1, min(whole, round(pixels / scale)))

        h, w = side(height), side(width)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return crop_to_visible(sample, top, left, h, w, 0.0)


# --------------------------------------------------------------------------------------------------- color
@dataclass(frozen=True)
class PhotometricDistortion(Transform):
    """Brightness, contrast, saturation and hue, each with probability ``p`` (SSD, section 2.2; Howard 2013).

    Contrast is applied before or after saturation and hue, with equal probability. Hue is shifted by degrees: the SSD
    code shifts OpenCV's half degrees by at most 18, most others shift by 18 degrees, as is done here.
    """

    brightness: float = 32.0  # added, at most, in levels of 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0  # degrees, at most
    p: float = 0.5

    color: ClassVar[bool] = True

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        chance, amount = rng.random((2, 5))
        on = chance < self.p
        add = self.brightness * (2 * amount[0] - 1) if on[0] else 0.0
        contrast = _between(self.contrast, amount[1]) if on[1] else 1.0
        saturation = _between(self.saturation, amount[2]) if on[2] else 1.0
        hue = self.hue * (2 * amount[3] - 1) if on[3] else 0.0
        late = amount[4] < 0.5
        image = apply_table(sample.image, lookup_table(add, 1.0 if late else contrast))
        image = adjust_hsv(image, saturation, hue)
        image = apply_table(image, lookup_table(0.0, contrast if late else 1.0))
        return replace(sample, image=image)


def _between(limits: tuple[float, float], u: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * u)


# ------------------------------------------------------------------------------------------ one number for all
@dataclass(frozen=True)
class FlipScaleColor(Transform):
    """Flip, zoom and color with one strength: 0 is the flip alone, 1 zooms to 1/2..2 with SSD's color distortion.

    Strength s stands for ``HorizontalFlip()``, ``ScaleJitter(1 / (1 + s), 1 + s)`` and, in proportion to s,
    ``PhotometricDistortion()``: :attr:`parts`.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 2:
            raise UsageError(f"{self}: strength must lie in [0, 2]")

    @property
    def parts(self) -> tuple[Transform, ...]:
        """The transforms that it stands for."""
        s = self.strength
        if not s:
            return (HorizontalFlip(),)
        most = min(0.5 * s, 0.9)
        color = PhotometricDistortion(32 * s, (1 - most, 1 + most), (1 - most, 1 + most), 18 * s)
        return HorizontalFlip(), ScaleJitter(1 / (1 + s), 1 + s), color

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for part in self.parts:
            sample = part(sample, rng)
        return sample


def expanded(augment: Sequence[Transform]) -> tuple[Transform, ...]:
    """The transforms with the parts of each :class:`FlipScaleColor` in its place, so that color can wait."""
    return tuple(part for t in augment for part in (t.parts if isinstance(t, FlipScaleColor) else (t,)))
