"""Box losses: regression on deltas (L1, SmoothL1) or on decoded boxes (the IoU family).

Each gets deltas, priors, boxes and the coder, and chooses its own space: L1 and SmoothL1 compare deltas with encoded
boxes, the IoU family compares decoded boxes. All compute in float32 and return one loss a prior, neither normalized nor
weighted. The target of a prior without an object is the prior itself; value and gradient are finite for any boxes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ..coders import Coder, at_least_fp32, finite_areas
from .normalizers import Normalizer, Positives

_EPS = 1e-7  # added to denominators where torchvision's operators add it
_LOG_FLOOR = 1e-6  # IoU below this counts as this in -ln(IoU)


class BoxLoss(ABC):
    """The role of a box loss. Subclasses are frozen dataclasses with these two fields."""

    normalizer: Normalizer
    weight: float

    @abstractmethod
    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        """deltas (B, A, 4), priors (B, A, 4 or 9) and boxes (B, A, 4) in ``xyxy`` pixels -> (B, A) float32."""

    def prior_weight(self, priors: Tensor, boxes: Tensor) -> Tensor | None:
        """The weight of each positive prior, (B, A); None: 1."""
        return None

    def background(self, seen: int) -> float:
        """The weight of priors without an object, whose target is the prior itself, after ``seen`` images."""
        return 0.0


@dataclass(frozen=True)
class L1(BoxLoss):
    """Sum of |d - d*| over the four deltas (torchvision's RetinaNet; DETR)."""

    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        return (at_least_fp32(deltas) - _encoded(priors, boxes, coder)).abs().sum(-1)


@dataclass(frozen=True)
class SmoothL1(BoxLoss):
    """Sum over the four deltas of x^2 / (2 beta) where |x| < beta, else |x| - beta / 2 (Fast R-CNN, eq. 3).

    ``beta`` is 1 / sigma^2 of the Caffe code: 1 in Fast R-CNN and SSD, 1/9 in Faster R-CNN's RPN; 0 gives L1.
    """

    beta: float = 1.0
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise UsageError(f"SmoothL1(beta={self.beta}): expected beta of 0 or more")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        target = _encoded(priors, boxes, coder)
        return F.smooth_l1_loss(at_least_fp32(deltas), target, beta=self.beta, reduction="none").sum(-1)


@dataclass(frozen=True)
class IoU(BoxLoss):
    """1 - IoU ("linear"), or -ln IoU ("log": UnitBox, FCOS) with IoU at least 1e-6. No gradient without overlap."""

    kind: Literal["linear", "log"] = "linear"
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "log"):
            raise UsageError(f"IoU(kind={self.kind!r}): expected 'linear' or 'log'")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        iou = _overlap(deltas, priors, boxes, coder).iou
        return 1 - iou if self.kind == "linear" else -iou.clamp(min=_LOG_FLOOR).log()


@dataclass(frozen=True)
class GIoU(BoxLoss):
    """1 - GIoU, GIoU = IoU - (|C| - |U|) / |C| with C the smallest box around both (Rezatofighi et al. 2019).

    Where C is empty GIoU is IoU.
    """

    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        o = _overlap(deltas, priors, boxes, coder)
        around = o.hull[..., 0] * o.hull[..., 1]
        return 1 - o.iou + _ratio(around - o.union, around)


@dataclass(frozen=True)
class DIoU(BoxLoss):
    """1 - IoU + d^2 / c^2: d between the centers, c the diagonal of the smallest box around both (Zheng 2020)."""

    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        o = _overlap(deltas, priors, boxes, coder)
        return 1 - o.iou + _center_distance(o)


@dataclass(frozen=True)
class CIoU(BoxLoss):
    """DIoU's loss + a v, v = 4 / pi^2 (atan(w*/h*) - atan(w/h))^2, a = v / (1 - IoU + v) a constant (same paper)."""

    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        o = _overlap(deltas, priors, boxes, coder)
        v = 4 / math.pi**2 * (_angle(o.target) - _angle(o.predicted)) ** 2
        a = (v / (1 - o.iou + v + _EPS)).detach()
        return 1 - o.iou + _center_distance(o) + a * v


@dataclass(frozen=True)
class Sum(BoxLoss):
    """The sum of several losses, each times its own ``weight``: ``Sum((L1(weight=5.0), GIoU(weight=2.0)))`` is DETR's.

    Their normalizers are not used; the sum has its own.
    """

    losses: tuple[BoxLoss, ...]
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.losses:
            raise UsageError("Sum(losses=()): expected at least one box loss")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        return torch.stack([loss.weight * loss(deltas, priors, boxes, coder) for loss in self.losses]).sum(0)


class _Overlap(NamedTuple):
    iou: Tensor  # (B, A)
    union: Tensor  # (B, A)
    hull: Tensor  # (B, A, 2) sides of the smallest box around both
    predicted: Tensor  # (B, A, 4) the decoded boxes, corners ordered
    target: Tensor  # (B, A, 4)


def _overlap(deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> _Overlap:
    predicted = _ordered(finite_areas(coder.decode(at_least_fp32(deltas), at_least_fp32(priors))))
    target = _ordered(finite_areas(boxes))
    low = torch.maximum(predicted[..., :2], target[..., :2])
    high = torch.minimum(predicted[..., 2:], target[..., 2:])
    side = (high - low).clamp(min=0)
    shared = side[..., 0] * side[..., 1]
    union = _area(predicted) + _area(target) - shared
    hull = torch.maximum(predicted[..., 2:], target[..., 2:]) - torch.minimum(predicted[..., :2], target[..., :2])
    return _Overlap(_ratio(shared, union), union, hull, predicted, target)


def _ordered(boxes: Tensor) -> Tensor:
    """Corners ordered by min and max, as the authors of GIoU do: an inverted box becomes the box it covers."""
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 without gradient where b is not above ``_EPS``: dividing by a tiny number would overflow there."""
    divisible = b > _EPS
    return torch.where(divisible, a / torch.where(divisible, b, 1.0), 0.0)


def _center_distance(o: _Overlap) -> Tensor:
    """Squared distance of the centers over the squared diagonal of the hull, 0..1."""
    shift = (o.predicted[..., :2] + o.predicted[..., 2:] - o.target[..., :2] - o.target[..., 2:]) / 2
    return _ratio(shift.square().sum(-1), o.hull.square().sum(-1))


def _angle(boxes: Tensor) -> Tensor:
    """atan(w / h) with both sides at least ``_EPS``."""
    w, h = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_EPS).unbind(-1)
    return torch.atan2(w, h)


def _encoded(priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
    """The target deltas (B, A, 4), detached."""
    return coder.encode(at_least_fp32(boxes), at_least_fp32(priors)).detach()
