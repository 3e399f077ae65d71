"""How pictures become network input: the resize rule of prediction and evaluation, and the normalization of all.

Prediction and evaluation work in float as torchvision's ``GeneralizedRCNNTransform`` does: normalize, resize (bilinear,
no antialias), pad with zeros. Training pictures arrive resized and raw (uint8) and are normalized on the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray
from ..types import Images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Placement(NamedTuple):
    """Where a picture comes to lie on the canvas, in pixels."""

    height: int
    width: int
    y: int = 0
    x: int = 0


class Input(ABC):
    """The rule of one detector; subclasses are frozen dataclasses. ``mean`` and ``std`` are RGB on the scale 0..1."""

    @property
    @abstractmethod
    def mean(self) -> tuple[float, float, float]: ...

    @property
    @abstractmethod
    def std(self) -> tuple[float, float, float]: ...

    @abstractmethod
    def placement(self, height: int, width: int) -> Placement:
        """Size and place on the canvas of a picture of this size."""

    @abstractmethod
    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Height and width of the batch that holds pictures *resized* to these (height, width)."""

    @property
    def padding(self) -> tuple[float, float, float]:
        """What surrounds a picture, RGB on the scale 0..1: the mean, which normalizes to zero."""
        return self.mean

    @property
    def fill(self) -> tuple[int, int, int]:
        """The padding of raw training pixels: uint8 RGB."""
        r, g, b = (min(255, max(0, round(255 * v))) for v in self.padding)
        return r, g, b

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture is resized to."""
        place = self.placement(height, width)
        return place.height, place.width

    def batch(self, arrays: Sequence[ImageArray]) -> Images:
        """Upright RGB pictures (H, W, 3) uint8 of any sizes -> a normalized float32 batch on the CPU."""
        for a in arrays:
            if a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or a.size == 0:
                raise FovealError(f"a picture of shape {a.shape} and type {a.dtype}, expected (height, width, 3) uint8")
        return self._batch([torch.from_numpy(_writable(a)).float().div_(255) for a in arrays])

    def batch_tensors(self, tensors: Sequence[Tensor]) -> Images:
        """Pictures (3, H, W) float in 0..1, torchvision's form -> a normalized float32 batch on their device."""
        for t in tensors:
            if t.dim() != 3 or t.shape[0] != 3 or not t.is_floating_point() or t.numel() == 0:
                raise FovealError(
                    f"a picture of shape {tuple(t.shape)} and type {t.dtype}, expected (3, height, width) float"
                )
        return self._batch([t.permute(1, 2, 0).float().clone(memory_format=torch.contiguous_format) for t in tensors])

    def normalize(self, images: Images, dtype: torch.dtype = torch.float32) -> Images:
        """Raw uint8 pixels (B, 3, H, W) on any device -> normalized ``dtype``, channels-last; zero outside ``sizes``.

        No host sync. The arithmetic is fp32 whatever ``dtype`` is.
        """
        b, _, h, w = images.pixels.shape
        mean, std = self._rows(w, images.pixels.device)
        across = (torch.arange(w, device=std.device) < images.sizes[:, 1:]).repeat_interleave(3, 1)[
            :, None
        ]  # (B, 1, 3 W)
        down = torch.arange(h, device=std.device) < images.sizes[:, :1]  # (B, H)
        out = images.pixels.to(torch.float32, memory_format=torch.channels_last)
        out.permute(0, 2, 3, 1).view(b, h, 3 * w).mul_(across / (255 * std)).sub_(across * (mean / std)).mul_(
            down[..., None]
        )
        return replace(images, pixels=out.to(dtype))

    def _rows(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std repeated for a row of pixels, (3 * width,): arithmetic on three values at a time is slow."""
        mean, std = torch.tensor([self.mean, self.std]).to(device, non_blocking=True).repeat(1, width)
        return mean, std

    def _batch(self, pictures: Sequence[Tensor]) -> Images:
        """Float (H, W, 3) in 0..1, contiguous; overwritten."""
        if not pictures:
            raise FovealError("a batch needs at least one picture")
        original = [(int(p.shape[0]), int(p.shape[1])) for p in pictures]
        places = [self.placement(h, w) for h, w in original]
        height, width = self.canvas([(p.height, p.width) for p in places])
        pixels = pictures[0].new_zeros(len(pictures), height, width, 3)
        if self.padding != self.mean:
            mean, std = self._rows(1, pixels.device)
            pixels += (torch.tensor(self.padding, device=pixels.device) - mean) / std
        for out, picture, place in zip(pixels, pictures, places, strict=True):
            mean, std = self._rows(picture.shape[1], pixels.device)
            picture.view(len(picture), -1).sub_(mean).div_(std)
            out[place.y : place.y + place.height, place.x : place.x + place.width] = _resized(picture, place)
        return Images(pixels.permute(0, 3, 1, 2), *self.frames(original, places, (height, width)))

    def frames(
        self, original: Sequence[tuple[int, int]], places: Sequence[Placement], canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``sizes``, ``frame`` and ``original`` of :class:`Images` for pictures of ``original`` (height, width)."""
        sizes = [self.extent(p, canvas) for p in places]
        frame = [(p.width / w, p.height / h, p.x, p.y) for p, (h, w) in zip(places, original, strict=True)]
        return torch.tensor(sizes), torch.tensor(frame, dtype=torch.float32), torch.tensor(list(original))

    def extent(self, place: Placement, canvas: tuple[int, int]) -> tuple[int, int]:
        """The part of the canvas that counts as picture: boxes are clipped to it."""
        return place.height, place.width


@dataclass(frozen=True)
class Resize(Input):
    """The short side becomes ``short``, unless the long one would pass ``long``; padded right and below.

    Fast R-CNN's rule, as torchvision has it: one scale for both axes, the new sides rounded down.
    """

    short: int = 800  # pixels
    long: int = 1333  # pixels
    multiple: int = 32  # the sides of the canvas are multiples of this
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(self.short, self.long, self.multiple) < 1:
            raise UsageError(f"{type(self).__name__}: short, long and multiple are pixels from 1 on, got {self}")

    def placement(self, height: int, width: int) -> Placement:
        scale = min(self.short / min(height, width), self.long / max(height, width))
        return Placement(max(1, math.floor(height * scale)), max(1, math.floor(width * scale)))

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple


@dataclass(frozen=True)
class Original(Input):
    """The picture in its own size, padded right and below where a batch holds a larger one: R-CNN resizes its crops."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def placement(self, height: int, width: int) -> Placement:
        return Placement(height, width)

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return max(h for h, _ in sizes), max(w for _, w in sizes)


@dataclass(frozen=True)
class _Fixed(Input):
    """A canvas of one size. Without a size it stands for the size of the input that it replaces (see :meth:`like`)."""

    width: int | None = None  # pixels
    height: int | None = None  # pixels
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if any(n is not None and n < 1 for n in (self.width, self.height)):
            raise UsageError(f"{type(self).__name__}: width and height are pixels from 1 on, got {self}")

    def like(self, other: Input) -> Self:
        """This rule with the canvas and normalization of ``other``, where it has no size of its own."""
        if self.width is not None and self.height is not None:
            return self
        width, height = (other.short, other.short) if isinstance(other, Resize) else (other.width, other.height)  # type: ignore[attr-defined]
        return replace(self, width=width, height=height, mean=other.mean, std=other.std)

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
    """The picture keeps its shape and lies in the middle of a gray canvas: Darknet's rule (``letterbox_image``).

    Scale min(W / w, H / h), the new sides and the offsets cut to whole pixels, surrounded by 0.5.
    """

    gray: float = 0.5  # what surrounds the picture, on the scale 0..1

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

    def extent(self, place: Placement, canvas: tuple[int, int]) -> tuple[int, int]:
        """The network sees the gray border too, and it lies on both sides: all of the canvas counts."""
        return canvas


def _resized(picture: Tensor, place: Placement) -> Tensor:
    """(H, W, 3) -> (h, w, 3). The form with a leading 1 is one that the kernel knows as channels-last."""
    size = (place.height, place.width)
    if tuple(picture.shape[:2]) == size:
        return picture
    out = F.interpolate(picture[None].permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0)


def _writable(array: ImageArray) -> ImageArray:
    array = np.ascontiguousarray(array)  # a flipped view has negative strides, which torch does not know
    return array if array.flags.writeable else array.copy()
