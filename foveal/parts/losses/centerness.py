"""FCOS's quality: centerness, how close a location is to the center of its object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...types import Match, Priors, Targets
from .normalizers import Normalizer, Positives
from .quality import Quality


@dataclass(frozen=True)
class Centerness(Quality):
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the distances from a location to the sides of its object.

    FCOS, equation 3: learned by binary cross-entropy at positive locations; a detection's score is the square root of
    class score times centerness.
    """

    weighs_boxes: bool = False  # box losses are weighted by the target centerness (the original code; not torchvision)
    floor: float = 0.0  # class scores up to this count as 0 before centerness multiplies them (the original code: 0.05)
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def loss(
        self,
        quality: Tensor,
        boxes: Tensor | None,
        priors: Priors,
        targets: Targets,
        match: Match,
        sampled: Tensor,
    ) -> Tensor:
        boxes = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
        target = centerness(priors.batched(len(boxes)), boxes)
        losses = F.binary_cross_entropy_with_logits(quality.float(), target, reduction="none")
        weight = sampled * match.positive * self.normalizer(sampled, match.positive)
        return (torch.where(weight > 0, losses, 0.0) * weight).sum() * self.weight

    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        if self.floor > 0:
            scores = torch.where(scores > self.floor, scores, 0.0)
        return (scores * quality.sigmoid()[..., None]).sqrt()

    def prior_weight(self, priors: Priors, boxes: Tensor, match: Match) -> Tensor | None:
        return centerness(priors.batched(len(boxes)), boxes) if self.weighs_boxes else None


def centerness(cells: Tensor, boxes: Tensor) -> Tensor:
    """Centerness (B, A) of the centers of ``cells`` (B, A, 4) in ``boxes`` (B, A, 4): 0 to 1, 0 outside the box."""
    x, y = (cells[..., 0] + cells[..., 2]) / 2, (cells[..., 1] + cells[..., 3]) / 2
    across = torch.stack([x - boxes[..., 0], boxes[..., 2] - x], -1).clamp(min=0)
    down = torch.stack([y - boxes[..., 1], boxes[..., 3] - y], -1).clamp(min=0)
    ratios = (side.amin(-1) / side.amax(-1).clamp(min=1e-6) for side in (across, down))
    product: Tensor = math.prod(ratios)  # type: ignore[assignment]
    return product.sqrt()
