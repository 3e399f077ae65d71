"""YOLO's quality: objectness, the probability that a box holds an object, or its IoU with the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import boxes as box_ops
from ...errors import UsageError
from ...types import Match, Priors, Targets
from ..matching.matcher import best_overlaps
from .normalizers import Normalizer, PerImage
from .quality import Quality


@dataclass(frozen=True)
class Objectness(Quality):
    """The probability of an object; a detection's score is objectness times class score.

    The target of a positive prior is 1, or with ``target="iou"`` the current IoU of its box with its object (Darknet's
    ``rescore``). The target of every other prior is 0, but those whose box overlaps any object by more than ``ignore``
    are ignored, or learn that overlap (``above="iou"``, Darknet's ``objectness_smooth``). Losses: "cross-entropy" on
    the logit (YOLOv3), "squared" 1/2 (sigmoid(x) - t)^2 (YOLOv2), "linear" 1/2 (x - t)^2 without the logistic function
    (YOLOv1).
    """

    kind: Literal["cross-entropy", "squared", "linear"] = "cross-entropy"
    target: Literal["one", "iou"] = "one"
    ignore: float | None = None  # IoU with any object above which a prior that is not positive is ignored
    positive: float = 1.0  # weight of positive priors
    negative: float = 1.0  # weight of all others
    normalizer: Normalizer = PerImage()
    weight: float = 1.0
    above: Literal["ignored", "iou"] = "ignored"  # what priors that overlap by more than ``ignore`` learn
    levels: tuple[float, ...] | None = None  # weight of each level, finest first; None: 1

    needs_boxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kind not in ("cross-entropy", "squared", "linear") or self.target not in ("one", "iou"):
            raise UsageError(f"{self}: kind is 'cross-entropy', 'squared' or 'linear', target is 'one' or 'iou'")
        if self.ignore is not None and not 0 <= self.ignore <= 1:
            raise UsageError(f"Objectness(ignore={self.ignore}): expected an IoU from 0 to 1, or None")
        if not min(self.positive, self.negative, *(self.levels or ())) >= 0:
            raise UsageError(f"{self}: expected weights positive, negative and levels of 0 or more")
        if self.above not in ("ignored", "iou"):
            raise UsageError(f"{self}: above is 'ignored' or 'iou'")

    def loss(
        self, quality: Tensor, boxes: Tensor | None, priors: Priors, targets: Targets, match: Match, sampled: Tensor
    ) -> Tensor:
        assert boxes is not None
        objects = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4)).float()
        target = match.positive.float() if self.target == "one" else match.positive * box_ops.iou(boxes, objects)
        weight = torch.where(match.positive, self.positive, self.negative)
        if self.ignore is not None:
            overlap = largest_iou(boxes, targets)
            ignored = ~match.positive & (overlap > self.ignore)
            if self.above == "iou":
                target = torch.where(ignored, overlap, target)
            else:
                weight = torch.where(ignored, 0.0, weight)
        x = quality.float()
        if self.kind == "cross-entropy":
            losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        else:
            losses = ((x.sigmoid() if self.kind == "squared" else x) - target).square() / 2
        if self.levels is not None:
            weight = weight * self._of_levels(priors.counts, weight)
        weight = weight * sampled * self.normalizer(sampled, match.positive)
        return (torch.where(weight > 0, losses, 0.0) * weight).sum() * self.weight

    def _of_levels(self, counts: tuple[int, ...], like: Tensor) -> Tensor:
        """The weight of each prior (A,), of levels with these numbers of priors."""
        assert self.levels is not None
        if len(self.levels) != len(counts):
            raise UsageError(f"Objectness has weights for {len(self.levels)} levels, but there are {len(counts)}")
        return torch.cat([like.new_full((n,), weight) for n, weight in zip(counts, self.levels, strict=True)])

    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        return scores * (quality if self.kind == "linear" else quality.sigmoid())[..., None]


@torch.no_grad()
def largest_iou(boxes: Tensor, targets: Targets) -> Tensor:
    """IoU (B, A) of each box (B, A, 4) with the object it overlaps most; 0 where the image has none."""
    objects = torch.where(targets.valid[..., None], targets.boxes, 0.0).float()
    return best_overlaps(boxes, objects, ties=False)[0]
