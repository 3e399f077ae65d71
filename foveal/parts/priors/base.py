"""The role of a prior set: boxes or points that predictions are relative to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...types import Images, Priors


@dataclass(frozen=True)
class PriorSet(ABC):
    """``priors(images, features, strides) -> Priors``; ``per_location``: how many a cell of each level has."""

    @property
    @abstractmethod
    def per_location(self) -> tuple[int, ...]: ...

    @abstractmethod
    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors: ...


def inside_image(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Which of the boxes (A, 4) cross no border of pictures of ``sizes`` (B, 2) = height, width: (B, A) bool."""
    limit = sizes.to(boxes.dtype)[:, None]  # (B, 1, 2)
    return (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0) & (boxes[:, 2] <= limit[..., 1]) & (boxes[:, 3] <= limit[..., 0])
