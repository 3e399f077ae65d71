"""SPP-Net's pool: maxima over a pyramid of bins, a vector of fixed length for a box of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_pool

from ...errors import UsageError
from .roi_align import Pool, near_boxes, nearest_scale, with_image

Corners = Literal["paper", "code"]


@dataclass(frozen=True)
class SPP(Pool):
    """Spatial pyramid pooling (He et al., ECCV 2014): (R, c * bins, 1, 1), 50 bins for the default.

    A box is converted to cells (:meth:`cells`); level n is the maximum, at least zero, over n x n bins of them, row i
    of bins covering the rows from floor(i h / n) up to ceil((i + 1) h / n) of h. The values are ordered level by level,
    in a level channel by channel: channel * n^2 + bin.

    The cells of a box from x1 to x2 at stride S, counted from 0, both included:

    - "paper" (appendix A): floor(x1 / S) + 1 to ceil(x2 / S) - 1, those whose center, at S times their number, lies
      inside the box;
    - "code" (the released one): floor(x1 / S + .5) to ceil(x2 / S - .5). Its two further offsets come with a trained
      model and are not known; they are 0 here.

    Where no cell is left, both become the mean of the two (rounded down), and all are clamped to the map.

    With several maps (:class:`ImagePyramid`) each box is pooled from the scale at which its area is nearest to
    ``area`` x ``area``; of equally near ones from that of the largest image.
    """

    levels: tuple[int, ...] = (6, 3, 2, 1)  # bins along each side
    corners: Corners = "paper"  # which cells belong to a box
    area: int = 224  # side of the square, pixels, whose area chooses the scale

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 1:
            raise UsageError(f"SPP: levels are {self.levels}, expected at least one, each of at least 1 bin a side")
        if self.corners not in ("paper", "code"):
            raise UsageError(f"SPP: corners is {self.corners!r}, not one of paper, code")

    @property
    def size(self) -> int:
        return 1

    @property
    def bins(self) -> int:
        return sum(n * n for n in self.levels)

    def channels(self, channels: int) -> int:
        return channels * self.bins

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        boxes = near_boxes(features, boxes, strides)
        scale = None if len(features) == 1 else nearest_scale(boxes, strides, self.area)
        out: Tensor | None = None
        for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
            at_scale = None if scale is None else scale == index  # (B, P)
            part = self._pool(feature, self.cells(boxes, stride, feature.shape[-2:], sizes), at_scale)
            out = part if out is None or at_scale is None else torch.where(at_scale.flatten()[:, None], part, out)
        assert out is not None
        return out[:, :, None, None].to(features[0].dtype)

    def cells(self, boxes: Tensor, stride: float, shape: Sequence[int], sizes: Tensor | None = None) -> Tensor:
        """Boxes (B, P, 4) in pixels -> first and last cells x1, y1, x2, y2 (B, P, 4) of a map of (height, width)."""
        low, high = boxes[..., :2] / stride, boxes[..., 2:] / stride
        if self.corners == "paper":
            low, high = low.floor() + 1, high.ceil() - 1
        else:
            low, high = (low + 0.5).floor(), (high - 0.5).ceil()
        mean = ((low + high) / 2).floor()
        empty = low > high
        low, high = torch.where(empty, mean, low), torch.where(empty, mean, high)
        last = torch.cat([low.new_full((1,), shape[1] - 1), low.new_full((1,), shape[0] - 1)])
        if sizes is not None:  # without the cells of the padding
            last_of_image = (sizes.to(low).flip(-1)[:, None] / stride).ceil() - 1
            last = last.minimum(last_of_image.clamp(min=0))
        return torch.cat([low.clamp(min=0).minimum(last), high.clamp(min=0).minimum(last)], -1)

    def _pool(self, feature: Tensor, cells: Tensor, at_scale: Tensor | None) -> Tensor:
        """(B * P, c * bins). Boxes of another scale shrink to one cell, at little cost."""
        if at_scale is not None:
            cells = cells * at_scale[..., None]
        rois, feature = with_image(cells), feature.float()
        pooled = [roi_pool(feature, rois, n, 1.0).clamp(min=0).flatten(1) for n in self.levels]
        return torch.cat(pooled, 1)
