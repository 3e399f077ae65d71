"""The role of an RoI pool, and RoIAlign, RoIPool and crop-and-resize: features of one size for every box.

``pool(features [(B, c, H, W)], boxes (B, P, 4), strides, sizes (B, 2)) -> (B * P, c, size, size)``, channels-last;
boxes in network pixels. ``sizes`` are the images' without padding, for pools that must not read padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from ...errors import UsageError
from .roi_align_cpu import roi_align_cpu

HALF = (torch.bfloat16, torch.float16)
FAR = 8  # extents of the largest map: what lies farther outside of it is at this distance
T = TypeVar("T")


class Pool(ABC):
    """The role of an RoI pool. Subclasses are frozen dataclasses."""

    crops: ClassVar[bool] = False  # whether it crops the image itself (R-CNN); then windows are drawn from images

    @property
    @abstractmethod
    def size(self) -> int:
        """The side of the output, in cells."""

    @property
    def rows(self) -> int | None:
        """How many RoIs of the whole batch are pooled and classified at a time in inference; None: all."""
        return None

    def channels(self, channels: int) -> int:
        """The channels of the output, for maps of ``channels``."""
        return channels

    @abstractmethod
    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class RoIAlign(Pool):
    """Mean of ``ratio`` x ``ratio`` bilinear samples in each of ``size`` x ``size`` bins (Mask R-CNN, section 3).

    With several feature maps each box is pooled from the level its size calls for: k = floor(canonical_level +
    log2(sqrt(w h) / canonical_size) + 1e-6), clipped to ``levels`` (FPN, equation 1; epsilon as torchvision). The first
    map is level ``levels[0]``; maps beyond ``levels[1]`` are not used. With one map all boxes are pooled from it.

    Equal to torchvision's ``roi_align`` and ``MultiScaleRoIAlign`` to 1e-4. Detectron2 uses ``aligned=True``; its C4
    models ``ratio=0``, as many samples as a bin has cells, rounded up.
    """

    size: int = 7  # side of the output
    ratio: int = 2  # samples a bin and axis; 0: adaptive
    canonical_size: int = 224  # side of a box, pixels, that ...
    canonical_level: int = 4  # ... belongs to this level
    levels: tuple[int, int] | None = None  # first and last level that is pooled from; None: all of the backbone's
    aligned: bool = False  # shift by half a cell, so that samples are at their true locations

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        """Raises ``UsageError`` where there are fewer maps than levels."""
        first, last = self._levels
        count = last - first + 1 if len(features) > 1 else 1
        if len(features) < count:
            raise UsageError(f"RoIAlign pools from levels {self._levels}, but there are {len(features)} feature maps")
        features, scales = list(features[:count]), [1.0 / s for s in strides[:count]]
        boxes = near_boxes(features, boxes, strides)
        level = self.level(boxes) if count > 1 else None
        if boxes.device.type != "cpu" or self.ratio <= 0:
            return self._kernel(features, boxes, scales, level)
        return roi_align_cpu(features, boxes, scales, level, self.size, self.ratio, self.aligned)

    def level(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) -> (...) int64: the index of the map that each is pooled from."""
        side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0).sqrt()
        k = torch.floor(self.canonical_level + torch.log2(side / self.canonical_size) + 1e-6)
        first, last = self._levels
        return k.clamp(first, last).nan_to_num(first).long() - first

    @property
    def _levels(self) -> tuple[int, int]:
        return self.levels or (2, 5)

    def _kernel(self, features: list[Tensor], boxes: Tensor, scales: list[float], level: Tensor | None) -> Tensor:
        """torchvision's kernel over all boxes on each level, without a device sync for how many a level has."""
        rois = with_image(boxes)
        out: Tensor | None = None
        for i, (feature, scale) in enumerate(zip(features, scales, strict=True)):
            part = roi_align(
                feature.float(), rois, self.size, scale, self.ratio if self.ratio > 0 else -1, self.aligned
            )
            at_level = None if level is None else (level.flatten() == i)[:, None, None, None]
            out = part if out is None or at_level is None else torch.where(at_level, part, out)
        assert out is not None
        return channels_last(out.to(features[0].dtype))


@dataclass(frozen=True)
class RoIPool(Pool):
    """Maximum over each of ``size`` x ``size`` bins of the box rounded to cells (Fast R-CNN, section 2.1).

    Source: torchvision's ``roi_pool``, which equals the original. From the first feature map only, unless ``area``
    chooses among the scales of an :class:`ImagePyramid` (section 2.4).
    """

    size: int = 7  # side of the output
    area: int | None = None  # side of a square, pixels: a box is pooled at the scale where its area is nearest to it

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        boxes = near_boxes(features, boxes, strides)
        if self.area is None or len(features) == 1:
            return channels_last(self._pool(features[0], boxes, strides[0]))
        scale = nearest_scale(boxes, strides, self.area)  # (B, P)
        out: Tensor | None = None
        for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
            at_scale = scale == index
            part = self._pool(feature, boxes * at_scale[..., None], stride)  # boxes of other scales shrink to one cell
            out = part if out is None else torch.where(at_scale.flatten()[:, None, None, None], part, out)
        assert out is not None
        return channels_last(out)

    def _pool(self, feature: Tensor, boxes: Tensor, stride: float) -> Tensor:
        pooled: Tensor = roi_pool(feature.float(), with_image(boxes), self.size, 1.0 / stride)
        return pooled.to(feature.dtype)


@dataclass(frozen=True)
class CropResize(Pool):
    """Bilinear crop to ``size * pool`` cells, then maximum over ``pool`` x ``pool`` (Luminoth, from tf-faster-rcnn).

    TensorFlow's ``crop_and_resize``: the corner samples are at the box's corners, and pixel x of a map that covers W
    pixels is cell x / W * (cells - 1); in Luminoth W is the image's width. From the first feature map only.
    """

    size: int = 7
    pool: int = 2

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        feature, side = features[0], self.size * self.pool
        boxes = near_boxes(features, boxes, strides)
        b, p = boxes.shape[:2]
        h, w = feature.shape[-2:]
        x = _across(boxes[..., 0], boxes[..., 2], w * strides[0], side)[:, :, None, :].expand(-1, -1, side, -1)
        y = _across(boxes[..., 1], boxes[..., 3], h * strides[0], side)[:, :, :, None].expand(-1, -1, -1, side)
        where = torch.stack([x, y], -1).reshape(b, p * side, side, 2)
        crops = F.grid_sample(feature.float(), where, mode="bilinear", align_corners=True)  # (B, c, P * side, side)
        crops = crops.view(b, feature.shape[1], p, side, side).transpose(1, 2).flatten(0, 1)
        pooled = F.max_pool2d(channels_last(crops), self.pool)
        return pooled.to(feature.dtype)


def _across(low: Tensor, high: Tensor, pixels: float, samples: int) -> Tensor:
    """Samples from ``low`` to ``high`` (B, P), both included, on an axis of ``pixels``: (B, P, samples) in -1..1."""
    step = torch.linspace(0, 1, samples, dtype=low.dtype, device=low.device)
    at = low[..., None] + (high - low)[..., None] * step
    return (at * (2 / pixels) - 1).clamp(-1, 1)


def near_boxes(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float]) -> Tensor:
    """Boxes (B, P, 4) as pools compute with them: float32, detached, none farther out than ``FAR`` maps are large.

    The kernels count cells in 32-bit integers, and the adaptive ones sample in proportion to the box.
    """
    extent = max(stride * max(map_.shape[-2:]) for map_, stride in zip(features, strides, strict=False))
    return boxes.detach().float().nan_to_num(0.0).clamp(-FAR * extent, (1 + FAR) * extent)


def with_image(boxes: Tensor) -> Tensor:
    """(B, P, 4) -> (B * P, 5): the index of the image, then the box, the input of torchvision's kernels."""
    b, p = boxes.shape[:2]
    image = torch.arange(b, device=boxes.device, dtype=boxes.dtype).view(b, 1, 1).expand(-1, p, -1)
    return torch.cat([image, boxes], -1).flatten(0, 1)


def nearest_scale(boxes: Tensor, strides: Sequence[float], side: int) -> Tensor:
    """(B, P, 4) -> (B, P) int64: the map on which each box's area is nearest to ``side`` x ``side`` pixels (SPP-Net).

    The map of the smallest stride is that of the given image; of equally near ones that of the larger image is used.
    """
    shrunk = torch.cat([boxes.new_full((1,), min(strides) / s) for s in strides])
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0)
    distance = (area[..., None] * shrunk.square() - side**2).abs()
    order = shrunk.argsort(descending=True)  # the largest image first, so that it wins a tie
    return order[distance[..., order].argmin(-1)]


def apply_pooled(
    head: Callable[[Tensor], T],
    pool: Pool,
    features: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[float],
    sizes: Tensor | None = None,
) -> T:
    """``head(pooled)`` of the boxes, (B * P, c, h, w), in the dtype of the features; pooling is never autocast."""
    with torch.autocast(boxes.device.type, enabled=False):
        pooled = pool(features, boxes, strides, sizes)  # (B * P, c, h, w)
    with torch.autocast(boxes.device.type, dtype=pooled.dtype, enabled=pooled.dtype in HALF):
        return head(pooled)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
