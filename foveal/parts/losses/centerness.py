"""FCOS's centerness: how close a location is to the center of its object."""

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
    """How far a point lies from the middle of its object: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).

    FCOS, equation 3: learned by binary cross-entropy at positive points; a detection's score is the square root of
    class score times center-ness.
    """

    weighs_boxes: bool = False  # the box loss of a point counts by its center-ness (the original code; not torchvision)
    floor: float = 0.0  # class scores at or below count as 0 before center-ness comes in (the original code: 0.05)
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def loss(
        self,
        quality: Tensor,
        boxes: Tensor | None,
        priors: Priors,
        targets: Targets,
        match: Match,
        keep: Tensor,
    ) -> Tensor:
        truth = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
        target = centerness(priors.batched(len(truth)), truth)
        rows = F.binary_cross_entropy_with_logits(quality.float(), target, reduction="none")
        weight = keep * match.positive * self.normalizer(keep, match.positive)
        return (torch.where(weight > 0, rows, 0.0) * weight).sum() * self.weight

    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        if self.floor > 0:
            scores = torch.where(scores > self.floor, scores, 0.0)
        return (scores * quality.sigmoid()[..., None]).sqrt()

    def row_weight(self, priors: Priors, boxes: Tensor, match: Match) -> Tensor | None:
        return centerness(priors.batched(len(boxes)), boxes) if self.weighs_boxes else None


def centerness(cells: Tensor, boxes: Tensor) -> Tensor:
    """Of the middles of ``cells`` (B, A, 4) in ``boxes`` (B, A, 4): (B, A) in 0..1, 0 outside."""
    x, y = (cells[..., 0] + cells[..., 2]) / 2, (cells[..., 1] + cells[..., 3]) / 2
    across = torch.stack([x - boxes[..., 0], boxes[..., 2] - x], -1).clamp(min=0)
    down = torch.stack([y - boxes[..., 1], boxes[..., 3] - y], -1).clamp(min=0)
    ratios = (side.amin(-1) / side.amax(-1).clamp(min=1e-6) for side in (across, down))
    product: Tensor = math.prod(ratios)  # type: ignore[assignment]
    return product.sqrt()
