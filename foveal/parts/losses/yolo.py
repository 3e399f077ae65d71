"""YOLO's box loss: squared errors of cell offsets and (log or root) sizes."""

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
    """Half the sum of squared errors of the four numbers of a :class:`GridCoder` coder: the box loss of Darknet.

    Its gradient is Darknet's (which writes gradients, not losses). Centers are compared as places in the cell:
    "squared" is 1/2 (f(tx) - x)^2 (YOLOv1, YOLOv2); "logistic" is cross-entropy, whose gradient by tx is f(tx) - x
    (YOLOv3). ``small_box_weight``: the loss of an object counts 2 - w h times, w and h as fractions of the image
    (YOLOv2 on). For the first ``warmup_images`` images, priors without an object are pulled to their anchors with
    weight 0.01 (YOLOv2: 12,800).
    """

    center: Literal["squared", "logistic"] = "squared"
    small_box_weight: bool = True  # small objects count up to twice
    warmup_images: int = 0  # images
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.center not in ("squared", "logistic") or self.warmup_images < 0:
            raise UsageError(f"{self}: center is 'squared' or 'logistic', warmup_images a number of images")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        deltas, wanted = at_least_fp32(deltas), coder.encode(at_least_fp32(boxes), at_least_fp32(priors)).detach()
        found, place = deltas[..., :2], wanted[..., :2]
        if isinstance(coder, GridCoder) and coder.logistic:
            place = place.sigmoid()
            if self.center == "logistic":
                across = F.binary_cross_entropy_with_logits(found, place, reduction="none")
            else:
                across = (found.sigmoid() - place).square() / 2
        else:
            across = (found - place).square() / 2
        return across.sum(-1) + (deltas[..., 2:] - wanted[..., 2:]).square().sum(-1) / 2

    def row_weight(self, priors: Tensor, boxes: Tensor) -> Tensor | None:
        if not self.small_box_weight or priors.shape[-1] < 9:
            return None
        return 2 - ((boxes[..., 2:] - boxes[..., :2]) / priors[..., 6:8]).prod(-1)

    def background(self, seen: int) -> float:
        return 0.01 if seen < self.warmup_images else 0.0
