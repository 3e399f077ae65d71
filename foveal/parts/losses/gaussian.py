"""Gaussian YOLO's quality: an objectness, and an uncertainty for each value of a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...types import Match, Priors, Targets
from .objectness import Objectness
from .quality import Quality

_SMALLEST = 1e-3  # standard deviation in the exponent
_OFFSET = 0.3  # added to it in the density's denominator (Darknet's sigma_const)


@dataclass(frozen=True)
class GaussianObjectness(Quality):
    """Objectness, and the standard deviations s of a box's values (Choi et al. 2019, "Gaussian YOLOv3", eq. 3-7).

    Raw outputs (B, A, 5): objectness, then the logits of s for x, y, w and h. A detection's score is objectness times
    class score times 1 - the mean of s. The deviations of a positive prior learn from the errors e of its box, in cells
    and as logarithms of sides, by the likelihood of a normal distribution: the sum of e^2 / (2 s^2) + ln(s + 0.3),
    times (2 - w h) / 2 as in Darknet. The box itself learns by the box loss.
    """

    objectness: Objectness = Objectness()
    weight: float = 1.0  # of the uncertainty's loss (``uc_normalizer``)

    needs_boxes: ClassVar[bool] = True

    def loss(
        self, quality: Tensor, boxes: Tensor | None, priors: Priors, targets: Targets, match: Match, sampled: Tensor
    ) -> Tensor:
        assert boxes is not None
        loss = self.objectness.loss(quality[..., 0], boxes, priors, targets, match, sampled)
        objects = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4)).float()
        places = priors.places(len(boxes))
        sides = (objects[..., 2:] - objects[..., :2]).clamp(min=1e-6)
        shift = (objects[..., :2] + objects[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2 / places[..., 4:6]
        growth = (sides / (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)).log()
        deviation = quality[..., 1:].float().sigmoid()
        error = torch.cat([shift, growth], -1) / deviation.clamp(min=_SMALLEST)
        losses = (error.square() / 2 + (deviation + _OFFSET).log()).sum(-1)
        losses = losses * (1 - (sides / places[..., 6:8]).prod(-1) / 2)
        weight = sampled * match.positive * self.objectness.normalizer(sampled, match.positive)
        return loss + (torch.where(weight > 0, losses, 0.0) * weight).sum() * self.weight

    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        if quality.dim() < scores.dim():  # objectness alone, as of a box without any deviation
            return self.objectness.scores(scores, quality)
        certainty = 1 - quality[..., 1:].sigmoid().mean(-1)
        return self.objectness.scores(scores, quality[..., 0]) * certainty[..., None]
