"""Box arithmetic on ``xyxy`` tensors. Every function takes any leading dimensions and is differentiable.

Boxes of half precision are computed in float32, as the area of a box of 300 x 300 is beyond float16, and integers in
the default dtype. Coordinates are limited (:func:`computable`), so that areas and their ratios are finite for any box.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def computable(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) whose areas are finite, in float32 or float64: coordinates within 2.3e18 pixels in float32."""
    if boxes.dtype not in (torch.float32, torch.float64):
        boxes = boxes.to(torch.float32 if boxes.is_floating_point() else torch.get_default_dtype())
    far = math.sqrt(torch.finfo(boxes.dtype).max) / 8
    return boxes.clamp(-far, far)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...); never negative."""
    boxes = computable(boxes)
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Shared area of boxes that broadcast: (..., 4) x (..., 4) -> (...)."""
    a, b = computable(a), computable(b)
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    side = (high - low).clamp(min=0)
    return side[..., 0] * side[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes that broadcast; 0 where both are empty."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4) x (..., M, 4) -> (..., N, M). For small N x M; matching uses bounded chunks instead."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4) x (..., M, 4) -> (..., N, M) in -1..1: IoU - (|C| - |U|) / |C|, C the smallest box around both."""
    a, b = computable(a)[..., :, None, :], computable(b)[..., None, :, :]
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    side = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull, tiny = side[..., 0] * side[..., 1], torch.finfo(union.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def array_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """:func:`pairwise_iou` of arrays (N, 4), (M, 4), in float64."""
    first, second = (torch.as_tensor(boxes, dtype=torch.float64) for boxes in (a, b))
    return np.asarray(pairwise_iou(first, second).numpy())
