"""Normalizers: what a summed loss is divided by. Each loss owns one; the paper's is its default.

Their factor multiplies the losses of the priors before they are summed: ``(losses * sampled * factor).sum()``.
``sampled`` (B, A) is the weight of every prior (0 or 1, or a loss's own weight), ``positive`` (B, A) the priors that
are assigned to an object. No call waits for the device, and no factor is infinite: an image or a batch without
positives counts as one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import UsageError


class Normalizer(ABC):
    counts_negatives: ClassVar[bool] = False  # whether priors without an object are part of the denominator

    @abstractmethod
    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        """sampled (B, A) float, positive (B, A) bool -> factor (B, 1) float32."""


@dataclass(frozen=True)
class Sampled(Normalizer):
    """One over the sampled priors of the batch, or over the sum of their weights: a mean (Fast R-CNN; torchvision's RPN
    and RoI heads; DETR)."""

    counts_negatives: ClassVar[bool] = True

    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        count = sampled.detach().float().sum()
        return _per_image(1 / torch.where(count > 0, count, 1.0), sampled)


@dataclass(frozen=True)
class Positives(Normalizer):
    """One over the sampled positives of the batch (RetinaNet, SSD, FCOS).

    ``across_ranks`` takes the mean of that number over all processes (FCOS, DETR), so that every object of an
    iteration weighs the same whichever process has it. It is one collective call that all processes have to make, so it
    is made in training alone: in validation they have different numbers of batches.
    """

    across_ranks: bool = False

    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        count = (sampled.detach().float() * positive).sum()
        training = self.across_ranks and torch.is_grad_enabled()
        if training and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return _per_image(1 / count.clamp(min=1), sampled)


@dataclass(frozen=True)
class PositivesPerImage(Normalizer):
    """One over the sampled positives of each image, then the mean over images (torchvision's RetinaNet)."""

    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        count = (sampled.detach().float() * positive).sum(1, keepdim=True)
        return 1 / (count.clamp(min=1) * sampled.shape[0])


@dataclass(frozen=True)
class PerImage(Normalizer):
    """One over the images of the batch: the sum of each image, then the mean (YOLO)."""

    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        return sampled.new_full((sampled.shape[0], 1), 1 / max(1, sampled.shape[0]), dtype=torch.float32)


@dataclass(frozen=True)
class Fixed(Normalizer):
    """One over a number that does not depend on the batch (Faster R-CNN: about 2400 anchor positions)."""

    n: float = 1.0

    def __post_init__(self) -> None:
        if not self.n > 0:
            raise UsageError(f"Fixed(n={self.n}): expected a positive number")

    def __call__(self, sampled: Tensor, positive: Tensor) -> Tensor:
        return sampled.new_full((sampled.shape[0], 1), 1 / self.n, dtype=torch.float32)


def _per_image(factor: Tensor, sampled: Tensor) -> Tensor:
    return factor.expand(sampled.shape[0], 1)
