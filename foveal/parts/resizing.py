"""Input rules: how images are resized, padded and normalized for the network.

Prediction and evaluation work in float as torchvision's ``GeneralizedRCNNTransform`` does: normalize, resize (bilinear,
no antialias), pad with zeros. Training images are resized as uint8 by the loader and normalized on the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray
from ..types import Images

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # Darknet's networks see RGB in 0..1 as it is
CAFFE_MEAN = (123 / 255, 117 / 255, 104 / 255)  # of the released Caffe code, here in RGB on the scale 0..1
LEVELS = (1 / 255,) * 3  # divided by this, pixels are levels from 0 to 255, as Caffe's networks expect them

RGB = tuple[float, float, float]
PixelStatistics = tuple[RGB, RGB]  # mean and std, RGB on the scale 0..1
IMAGENET_PIXELS: PixelStatistics = (IMAGENET_MEAN, IMAGENET_STD)
UNIT_PIXELS: PixelStatistics = (BLACK, WHITE)
CAFFE_PIXELS: PixelStatistics = (CAFFE_MEAN, LEVELS)


class Placement(NamedTuple):
    """The size and location of an image on the canvas, in pixels."""

    height: int
    width: int
    y: int = 0
    x: int = 0


class Input(ABC):
    """The rule of one detector; subclasses are frozen dataclasses.

    ``mean`` and ``std`` are RGB on the scale 0..1. None: those of the pixels that the backbone's weights were trained
    on, which :meth:`with_pixels` fills in; a rule by itself uses ImageNet's.
    """

    has_short_side: ClassVar[bool] = False  # whether each image is resized by its short side, whatever its shape

    @property
    @abstractmethod
    def mean(self) -> RGB | None: ...

    @property
    @abstractmethod
    def std(self) -> RGB | None: ...

    @property
    def pixels(self) -> PixelStatistics:
        """``mean`` and ``std`` as numbers: ImageNet's where they are unset."""
        return self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD

    def with_pixels(self, pixels: PixelStatistics) -> Self:
        """This rule with numbers in ``mean`` and ``std``: those of ``pixels`` where they are unset."""
        if None not in (self.mean, self.std):
            return self
        known: Any = self  # every subclass is a dataclass
        return replace(known, mean=self.mean or pixels[0], std=self.std or pixels[1])  # type: ignore[no-any-return]

    @abstractmethod
    def placement(self, height: int, width: int) -> Placement:
        """Size and location on the canvas of an image of this size."""

    @abstractmethod
    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Height and width of the batch that holds images *resized* to these (height, width)."""

    @property
    def fixed_canvas(self) -> tuple[int, int] | None:
        """(height, width) of every batch; None: the canvas is as large as the images of the batch make it."""
        return None

    def like(self, other: Input, given: Collection[str] | None = None) -> Self:
        """This rule with the pixels (``mean`` and ``std``) of ``other``, the rule that it replaces.

        Pixels belong to the weights, which were trained on them, and not to the resize rule. ``given``: the fields that
        were set explicitly, which stay as they are; None: all of them.
        """
        if given is None:
            return self
        known: Any = self  # every subclass is a dataclass
        kept = {name: value for name, value in (("mean", other.mean), ("std", other.std)) if name not in given}
        return replace(known, **kept)  # type: ignore[no-any-return]

    def resized(self, side: int) -> Self:
        """The rule for multi-scale training, with ``side`` (pixels) as the short side of the image or canvas.

        Raises :class:`UsageError` for a rule that does not resize.
        """
        raise UsageError(
            f"{type(self).__name__} keeps the size of the images",
            fix="Set input to Resize, Stretch or Letterbox for multi-scale training",
        )

    @property
    def padding(self) -> tuple[float, float, float]:
        """What surrounds an image, RGB on the scale 0..1: the mean, which normalizes to zero."""
        return self.pixels[0]

    @property
    def fill(self) -> tuple[int, int, int]:
        """The padding of raw training pixels: uint8 RGB."""
        r, g, b = (min(255, max(0, round(255 * v))) for v in self.padding)
        return r, g, b

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is resized to."""
        placement = self.placement(height, width)
        return placement.height, placement.width

    def batch(self, arrays: Sequence[ImageArray]) -> Images:
        """Upright RGB images (H, W, 3) uint8 of any sizes -> a normalized float32 batch on the CPU."""
        for a in arrays:
            if a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or a.size == 0:
                raise FovealError(f"an image of shape {a.shape} and type {a.dtype}, expected (height, width, 3) uint8")
        return self._batch([torch.from_numpy(_writable(a)).float().div_(255) for a in arrays])

    def batch_tensors(self, tensors: Sequence[Tensor]) -> Images:
        """Images (3, H, W) float in 0..1, torchvision's form -> a normalized float32 batch on their device."""
        for t in tensors:
            if t.dim() != 3 or t.shape[0] != 3 or not t.is_floating_point() or t.numel() == 0:
                raise FovealError(
                    f"an image of shape {tuple(t.shape)} and type {t.dtype}, expected (3, height, width) float"
                )
        return self._batch([t.permute(1, 2, 0).float().clone(memory_format=torch.contiguous_format) for t in tensors])

    def normalize(self, images: Images, dtype: torch.dtype = torch.float32) -> Images:
        """Raw uint8 pixels (B, 3, H, W) on any device -> normalized ``dtype``, channels-last; zero outside ``sizes``.

        No device sync. The arithmetic is fp32 whatever ``dtype`` is.
        """
        b, _, h, w = images.pixels.shape
        mean, std = self._rows(w, images.pixels.device)
        columns = torch.arange(w, device=std.device) < images.sizes[:, 1:]
        across = columns.repeat_interleave(3, 1)[:, None]  # (B, 1, 3 W)
        down = torch.arange(h, device=std.device) < images.sizes[:, :1]  # (B, H)
        out = images.pixels.to(torch.float32, memory_format=torch.channels_last)
        rows = out.permute(0, 2, 3, 1).view(b, h, 3 * w)
        rows.mul_(across / (255 * std)).sub_(across * (mean / std)).mul_(down[..., None])
        return replace(images, pixels=out.to(dtype))

    def _rows(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std repeated for a row of pixels, (3 * width,): arithmetic on three values at a time is slow."""
        mean, std = torch.tensor(self.pixels).to(device, non_blocking=True).repeat(1, width)
        return mean, std

    def _batch(self, images: Sequence[Tensor]) -> Images:
        """Float (H, W, 3) in 0..1, contiguous; overwritten."""
        if not images:
            raise FovealError("a batch needs at least one image")
        original = [(int(p.shape[0]), int(p.shape[1])) for p in images]
        placements = [self.placement(h, w) for h, w in original]
        height, width = self.canvas([(p.height, p.width) for p in placements])
        pixels = images[0].new_zeros(len(images), height, width, 3)
        if self.padding != self.pixels[0]:
            mean, std = self._rows(1, pixels.device)
            pixels += (torch.tensor(self.padding, device=pixels.device) - mean) / std
        for out, image, placement in zip(pixels, images, placements, strict=True):
            mean, std = self._rows(image.shape[1], pixels.device)
            image.view(len(image), -1).sub_(mean).div_(std)
            out[placement.y : placement.y + placement.height, placement.x : placement.x + placement.width] = _resized(
                image, placement
            )
        return Images(pixels.permute(0, 3, 1, 2), *self.frames(original, placements, (height, width)))

    def frames(
        self, original: Sequence[tuple[int, int]], placements: Sequence[Placement], canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``sizes``, ``frame`` and ``original`` of :class:`Images` for images of ``original`` (height, width)."""
        sizes = [self.extent(p, canvas) for p in placements]
        frame = [(p.width / w, p.height / h, p.x, p.y) for p, (h, w) in zip(placements, original, strict=True)]
        return torch.tensor(sizes), torch.tensor(frame, dtype=torch.float32), torch.tensor(list(original))

    def extent(self, placement: Placement, canvas: tuple[int, int]) -> tuple[int, int]:
        """The part of the canvas that counts as image: boxes are clipped to it."""
        return placement.height, placement.width


@dataclass(frozen=True)
class Resize(Input):
    """The short side becomes ``short``, unless the long one would pass ``long``; padded right and below.

    Fast R-CNN's rule, as torchvision has it: one scale for both axes, the new sides rounded down.
    """

    has_short_side: ClassVar[bool] = True
    short: int = 800  # pixels
    long: int = 1333  # pixels
    multiple: int = 32  # the sides of the canvas are multiples of this
    mean: RGB | None = None  # RGB on the scale 0..1; None: of the pixels that the backbone was trained on
    std: RGB | None = None  # as mean
    nearest: bool = False  # sides are rounded to the nearest pixel, as Detectron2 and MMDetection do, not down

    def __post_init__(self) -> None:
        if min(self.short, self.long, self.multiple) < 1:
            raise UsageError(f"{type(self).__name__}: short, long and multiple are pixels from 1 on, got {self}")

    def resized(self, side: int) -> Self:
        return replace(self, short=side)

    def placement(self, height: int, width: int) -> Placement:
        scale, half = min(self.short / min(height, width), self.long / max(height, width)), self.nearest / 2
        return Placement(max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half)))

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple


@dataclass(frozen=True)
class Original(Input):
    """The image in its own size, padded right and below where a batch holds a larger one: R-CNN resizes its crops."""

    mean: RGB | None = None  # RGB on the scale 0..1; None: of the pixels that the backbone was trained on
    std: RGB | None = None  # as mean

    def placement(self, height: int, width: int) -> Placement:
        return Placement(height, width)

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return max(h for h, _ in sizes), max(w for _, w in sizes)


@dataclass(frozen=True)
class _Fixed(Input):
    """A canvas of one size. Without a size it stands for the size of the input that it replaces (see :meth:`like`)."""

    width: int | None = None  # pixels
    height: int | None = None  # pixels
    mean: RGB | None = None  # RGB on the scale 0..1; None: of the pixels that the backbone was trained on
    std: RGB | None = None  # as mean

    def __post_init__(self) -> None:
        if any(n is not None and n < 1 for n in (self.width, self.height)):
            raise UsageError(f"{type(self).__name__}: width and height are pixels from 1 on, got {self}")

    def like(self, other: Input, given: Collection[str] | None = None) -> Self:
        """As :meth:`Input.like`; without a size of its own, also with the canvas of ``other``."""
        if self.width is not None and self.height is not None:
            return super().like(other, given)
        size = (other.short, other.short) if isinstance(other, Resize) else other.fixed_canvas
        if size is None:
            raise UsageError(f"{type(self).__name__} needs a size here: {type(self).__name__}(width, height)")
        return replace(self, height=size[0], width=size[1]).like(other, given or ())

    @property
    def fixed_canvas(self) -> tuple[int, int] | None:
        return None if self.width is None or self.height is None else (self.height, self.width)

    def resized(self, side: int) -> Self:
        height, width = self.canvas(())
        scale = side / min(width, height)
        return replace(self, width=round(width * scale), height=round(height * scale))

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        if self.width is None or self.height is None:
            raise UsageError(f"{type(self).__name__} needs a size here: {type(self).__name__}(width, height)")
        return self.height, self.width


@dataclass(frozen=True)
class Stretch(_Fixed):
    """Both axes are scaled to the canvas, each by itself: SSD, DSSD, YOLOv1."""

    def placement(self, height: int, width: int) -> Placement:
        return Placement(*self.canvas(()))


@dataclass(frozen=True)
class Letterbox(_Fixed):
    """The image keeps its shape and lies in the middle of a gray canvas: Darknet's rule (``letterbox_image``).

    Scale min(W / w, H / h), the new sides and the offsets cut to whole pixels, surrounded by 0.5.
    """

    gray: float = 0.5  # what surrounds the image, on the scale 0..1

    def placement(self, height: int, width: int) -> Placement:
        h, w = self.canvas(())
        if w * height < h * width:  # in whole numbers, as Darknet: no rounding of a scale
            new_h, new_w = max(1, height * w // width), w
        else:
            new_h, new_w = h, max(1, width * h // height)
        return Placement(new_h, new_w, (h - new_h) // 2, (w - new_w) // 2)

    @property
    def padding(self) -> tuple[float, float, float]:
        return (self.gray, self.gray, self.gray)

    def extent(self, placement: Placement, canvas: tuple[int, int]) -> tuple[int, int]:
        """The network sees the gray border too, and it lies on both sides: all of the canvas counts."""
        return canvas


def _resized(image: Tensor, placement: Placement) -> Tensor:
    """(H, W, 3) -> (h, w, 3). The form with a leading 1 is one that the kernel knows as channels-last."""
    size = (placement.height, placement.width)
    if tuple(image.shape[:2]) == size:
        return image
    out = F.interpolate(image[None].permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0)


def _writable(array: ImageArray) -> ImageArray:
    array = np.ascontiguousarray(array)  # a flipped view has negative strides, which torch does not know
    return array if array.flags.writeable else array.copy()
