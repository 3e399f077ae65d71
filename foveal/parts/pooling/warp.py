"""R-CNN's pool: the pixels of a box, with some context around it, resampled to the CNN's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from .roi_align import Pool, channels_last, near_boxes


@dataclass(frozen=True)
class Warp(Pool):
    """Crops of ``size`` x ``size`` pixels (R-CNN, section 2.1 and appendix A; ``rcnn_im_crop`` of the released code).

    A box is enlarged about its center so that the resized crop has ``context`` pixels of surroundings on each side (by
    227 / (227 - 32) for the default), rounded to whole pixels, clipped to the image and resized, bilinear without
    antialias. Pixels outside the image are zero, the mean of normalized pixels. "warp" resizes both axes
    independently; "square" first extends the shorter side to the longer ("tightest square with context").

    Our boxes are half-open, so an enlarged box is as wide as calculated; the released code, whose boxes include their
    last pixel, takes one pixel more.
    """

    crops: ClassVar[bool] = True
    size: int = 227  # side of the crop, pixels
    context: int = 16  # pixels of the crop
    mode: Literal["warp", "square"] = "warp"
    rows: int | None = 128  # crops in memory at a time in inference; None: all

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.context < self.size:
            raise UsageError(f"{self}: expected a context of 0 to less than half of the size")
        if self.rows is not None and self.rows < 1:
            raise UsageError(f"{self}: expected rows of at least 1, or None")
        if self.mode not in ("warp", "square"):
            raise UsageError(f"Warp: mode is {self.mode!r}, not one of warp, square")

    def windows(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) -> the enlarged boxes in whole pixels, at least one wide and high, not clipped."""
        low, high = boxes[..., :2], boxes[..., 2:]
        center, half = (low + high) / 2, (high - low) / 2
        if self.mode == "square":
            half = half.amax(-1, keepdim=True).expand_as(half)
        half = half * (self.size / (self.size - 2 * self.context))
        low, high = _round(center - half), _round(center + half)
        return torch.cat([low, torch.maximum(high, low + 1)], -1)

    def inner(self, boxes: Tensor) -> Tensor:
        """Where boxes (..., 4) lie in their own crops, but for the rounding of the window: (..., 4) pixels."""
        sides = boxes[..., 2:] - boxes[..., :2]
        share = sides / sides.amax(-1, keepdim=True) if self.mode == "square" else torch.ones_like(sides)
        half = share.nan_to_num(1.0) * (self.size / 2 - self.context)  # a box without extent counts as a square
        return torch.cat([self.size / 2 - half, self.size / 2 + half], -1)

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        pixels = features[0]
        b, p, side = *boxes.shape[:2], self.size
        height, width = pixels.shape[-2:]
        window = self.windows(near_boxes(features, boxes, strides))
        ends = (None, None) if sizes is None else sizes.to(window).unbind(1)
        x, inside_x = self._samples(window[..., 0], window[..., 2], width, ends[1])
        y, inside_y = self._samples(window[..., 1], window[..., 3], height, ends[0])
        x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
        where = torch.stack(
            [x[:, :, None, :].expand(-1, -1, side, -1), y[:, :, :, None].expand(-1, -1, -1, side)], -1
        ).reshape(b, p * side, side, 2)
        crops = F.grid_sample(pixels.float(), where, padding_mode="border", align_corners=False)
        crops = crops.view(b, pixels.shape[1], p, side, side).transpose(1, 2)  # (B, P, 3, side, side)
        crops = crops * (inside_y[:, :, None, :, None] & inside_x[:, :, None, None, :])
        return channels_last(crops.flatten(0, 1).to(pixels.dtype))

    def _samples(self, low: Tensor, high: Tensor, pixels: int, end: Tensor | None) -> tuple[Tensor, Tensor]:
        """Along one axis, windows from ``low`` to ``high`` (B, P) in a map of ``pixels``, of which the first ``end``
        (B,) belong to the image: where each pixel of a crop is read (B, P, size), and whether that is in the image."""
        first, last = low.clamp(0, pixels), high.clamp(0, pixels)
        if end is not None:
            first, last = first.minimum(end[:, None]), last.minimum(end[:, None])
        scale = self.size / (high - low)
        before = _round((first - low) * scale)[..., None]
        count = _round((last - first) * scale)[..., None].minimum(self.size - before)
        index = torch.arange(self.size, device=low.device) - before
        length = (last - first)[..., None]
        at = ((index + 0.5) * (length / count.clamp(min=1)) - 0.5).clamp(min=0).minimum(length - 1)
        return first[..., None] + at, (index >= 0) & (index < count) & (length > 0)


def _round(x: Tensor) -> Tensor:
    """To whole numbers, halves away from zero."""
    return torch.copysign((x.abs() + 0.5).floor(), x)
