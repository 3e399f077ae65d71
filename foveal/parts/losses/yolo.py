"""YOLO's box loss: squared errors (or cross-entropy) of offsets in the cell and of log or root sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..coders import Coder, GridCoder, at_least_fp32
from .box import BoxLoss
from .normalizers import Normalizer, PerImage


@dataclass(frozen=True)
class YOLOBoxLoss(BoxLoss):
    """Half the sum of squared errors of the four deltas of a :class:`GridCoder`: the box loss of Darknet.

    Its gradient is Darknet's (whose code has gradients, not losses). Centers are compared as locations in the cell:
    "squared" is 1/2 (f(tx) - x)^2 (YOLOv1, YOLOv2); "logistic" is cross-entropy, whose gradient by tx is f(tx) - x
    (YOLOv3). ``small_box_weight``: the loss of an object is multiplied by 2 - w h, w and h as fractions of the image
    (since YOLOv2). For the first ``warmup_images`` images, the target of priors without an object is their anchor, with
    weight 0.01 (YOLOv2: 12,800).
    """

    center: Literal["squared", "logistic"] = "squared"
    small_box_weight: bool = True  # small objects weigh up to twice as much
    warmup_images: int = 0  # images during which priors without an object learn their anchors
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.center not in ("squared", "logistic") or self.warmup_images < 0:
            raise UsageError(f"{self}: expected center 'squared' or 'logistic', and warmup_images of 0 or more")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        deltas, target = at_least_fp32(deltas), coder.encode(at_least_fp32(boxes), at_least_fp32(priors)).detach()
        center, target_center = deltas[..., :2], target[..., :2]
        if coder.logistic:
            target_center = target_center.sigmoid()
            if self.center == "logistic":
                loss = F.binary_cross_entropy_with_logits(center, target_center, reduction="none")
            else:
                loss = (center.sigmoid() - target_center).square() / 2
        else:
            loss = (center - target_center).square() / 2
        sides, target_sides = deltas[..., 2:], target[..., 2:]
        if isinstance(coder, GridCoder) and coder.sides == "logistic":
            sides, target_sides = sides.sigmoid(), target_sides.sigmoid()
        return loss.sum(-1) + (sides - target_sides).square().sum(-1) / 2

    def prior_weight(self, priors: Tensor, boxes: Tensor) -> Tensor | None:
        if not self.small_box_weight or priors.shape[-1] < 9:
            return None
        return 2 - ((boxes[..., 2:] - boxes[..., :2]) / priors[..., 6:8]).prod(-1)

    def background(self, seen: int) -> float:
        return 0.01 if seen < self.warmup_images else 0.0
