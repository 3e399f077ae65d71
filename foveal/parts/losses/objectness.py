"""YOLO's objectness: is there an object at this box, and how well does the box fit it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import boxes as box_ops
from ...errors import UsageError
from ...types import Match, Priors, Targets
from ..matching.matcher import match_on_device, match_on_host
from .normalizers import Normalizer, PerImage
from .quality import Quality


@dataclass(frozen=True)
class Objectness(Quality):
    """Probability of an object; a detection's score is it times the class score.

    A row with an object learns 1, or with ``target="iou"`` the overlap its box has now (Darknet's ``rescore``). Every
    other row learns 0, but boxes that overlap any object by more than ``ignore`` are left alone. Losses:
    "cross-entropy" on the logit (YOLOv3), "squared" 1/2 (sigmoid(x) - t)^2 (YOLOv2), "linear" 1/2 (x - t)^2 without
    the logistic function (YOLOv1).
    """

    kind: Literal["cross-entropy", "squared", "linear"] = "cross-entropy"
    target: Literal["one", "iou"] = "one"
    ignore: float | None = None  # IoU with any object above which a box without one is left alone
    positive: float = 1.0  # weight of rows with an object
    negative: float = 1.0  # weight of rows without
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    needs_boxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kind not in ("cross-entropy", "squared", "linear") or self.target not in ("one", "iou"):
            raise UsageError(f"{self}: kind is 'cross-entropy', 'squared' or 'linear', target is 'one' or 'iou'")
        if self.ignore is not None and not 0 <= self.ignore <= 1:
            raise UsageError(f"Objectness(ignore={self.ignore}): expected an IoU from 0 to 1, or None")
        if not min(self.positive, self.negative) >= 0:
            raise UsageError(f"{self}: positive and negative are weights from 0 on")

    def loss(
        self, quality: Tensor, boxes: Tensor | None, priors: Priors, targets: Targets, match: Match, keep: Tensor
    ) -> Tensor:
        assert boxes is not None
        own = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4)).float()
        wanted = match.positive.float() if self.target == "one" else match.positive * box_ops.iou(boxes, own)
        x = quality.float()
        if self.kind == "cross-entropy":
            rows = F.binary_cross_entropy_with_logits(x, wanted, reduction="none")
        else:
            rows = ((x.sigmoid() if self.kind == "squared" else x) - wanted).square() / 2
        weight = torch.where(match.positive, self.positive, self.negative)
        if self.ignore is not None:
            weight = torch.where(match.positive | ~(nearest_objects(boxes, targets) > self.ignore), weight, 0.0)
        weight = weight * keep * self.normalizer(keep, match.positive)
        return (torch.where(weight > 0, rows, 0.0) * weight).sum() * self.weight

    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        return scores * (quality if self.kind == "linear" else quality.sigmoid())[..., None]


@torch.no_grad()
def nearest_objects(boxes: Tensor, targets: Targets) -> Tensor:
    """IoU (B, A) of each box (B, A, 4) with the object it overlaps most; 0 where the picture has none."""
    objects = torch.where(targets.valid[..., None], targets.boxes, 0.0).float()
    host = boxes.device.type == "cpu" and not torch.compiler.is_compiling()
    return (match_on_host if host else match_on_device)(boxes, objects, False)[0]
