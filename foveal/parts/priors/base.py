"""The role of a prior set (boxes that predictions are relative to), and grids of priors, which are cached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from ...types import Images, Priors

P = ParamSpec("P")
T = TypeVar("T")
MapSize = tuple[int, int]  # height, width


@dataclass(frozen=True)
class PriorSet(ABC):
    """``priors(images, features, strides) -> Priors``; ``per_location``: the priors of a cell of each level."""

    @property
    @abstractmethod
    def per_location(self) -> tuple[int, ...]: ...

    @abstractmethod
    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """For features [(B, c, H, W), ...] of these strides, pixels."""


def cached(build: Callable[P, T]) -> Callable[P, T]:
    """Computes each grid once: aspect ratios vary from batch to batch, and 160,000 boxes are 2.5 MB.

    Cached tensors must be ordinary ones, so inference mode and gradients are off while they are computed.
    """

    @wraps(build)
    def ordinary(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    return cast(Callable[P, T], lru_cache(maxsize=64)(ordinary))


def grid_boxes(y: Tensor, x: Tensor, cell: Tensor) -> Tensor:
    """Boxes ``cell`` (n, 4) around every location of a grid, at ``y`` (H,) and ``x`` (W,), pixels: (H * W * n, 4),
    row by row, cell by cell."""
    center = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1).repeat(1, 1, 2)  # (H, W, 4) xyxy
    return (center[:, :, None] + cell).reshape(-1, 4)


def inside_image(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Whether boxes (A, 4) lie within images of ``sizes`` (B, 2) = height, width: (B, A) bool."""
    limit = sizes.to(boxes.dtype)[:, None]  # (B, 1, 2)
    return (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0) & (boxes[:, 2] <= limit[..., 1]) & (boxes[:, 3] <= limit[..., 0])
