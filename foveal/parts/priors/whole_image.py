"""DETR's priors: the whole image, once for each object query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import Images, Priors
from .base import PriorSet


@dataclass(frozen=True)
class WholeImage(PriorSet):
    """The whole image for each query, as set prediction has no locations of its own (DETR)."""

    queries: int = 100

    @property
    def per_location(self) -> tuple[int, ...]:
        return (self.queries,)

    def __call__(self, images: Images, features: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """Boxes (B, queries, 4) around the image, without its padding."""
        sides = images.sizes.flip(1).float()
        boxes = torch.cat([torch.zeros_like(sides), sides], 1)  # (B, 4)
        return Priors(boxes[:, None].expand(-1, self.queries, -1), (self.queries,))
