"""The IoU losses of AlexeyAB's Darknet, with its gradients: of the box in fractions of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import UsageError
from ..coders import Coder, GridCoder, at_least_fp32
from .box import BoxLoss, CIoU, DIoU, GIoU, IoU
from .normalizers import Normalizer, PerImage

_TINY = 1e-12  # smallest area and squared length that is divided by


@dataclass(frozen=True)
class DarknetIoU(BoxLoss):
    """1 - IoU, GIoU, DIoU or CIoU with the gradient of Darknet (``dx_box_iou``), for which ``iou_normalizer`` is made.

    With center and sides as fractions of the canvas, the gradient by the center is that of the outputs tx and ty, and
    the gradient by the sides times exp(tw), exp(th) that of tw and th: the slope of the logistic function, the cell and
    the anchor are left out, so that small boxes count more. Where the sides are logistic too (``new_coords``), both are
    those of the values behind the logistic function. No gradient is above ``largest``.

    As in Darknet the overlap's gradient by the sides is twice the slope, and the aspect ratio's lacks its denominator
    w^2 + h^2. Needs a :class:`GridCoder`; the value is that of :class:`CIoU` and its like.
    """

    kind: Literal["iou", "giou", "diou", "ciou"] = "ciou"
    largest: float | None = None  # gradient of an output, times ``weight`` (``max_delta``); None: no limit
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("iou", "giou", "diou", "ciou"):
            raise UsageError(f"DarknetIoU(kind={self.kind!r}): expected 'iou', 'giou', 'diou' or 'ciou'")
        if self.largest is not None and not self.largest > 0:
            raise UsageError(f"DarknetIoU(largest={self.largest}): expected more than 0, or None")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        if not isinstance(coder, GridCoder) or priors.shape[-1] != 9:
            raise UsageError("DarknetIoU needs a GridCoder and the priors Cells", fix="Use CIoU, GIoU or IoU")
        deltas, canvas = at_least_fp32(deltas), priors[..., 6:8].repeat(1, 1, 2)
        raw = deltas.detach()
        predicted, target = coder.decode(raw, priors) / canvas, at_least_fp32(boxes) / canvas
        value = _VALUES[self.kind](predicted, target, target, _CORNERS)
        center, side = _ascent(predicted, target, self.kind)
        if coder.sides == "exp":
            side = side * raw[..., 2:].clamp(max=16.0).exp()
        gradient = -torch.cat([center, side], -1).nan_to_num(0.0, 0.0, 0.0)
        if self.largest is not None and self.weight > 0:
            gradient = gradient.clamp(-self.largest / self.weight, self.largest / self.weight)
        if coder.sides == "logistic":
            gradient = gradient * raw.sigmoid() * (1 - raw.sigmoid())
        linear = (gradient * deltas).sum(-1)
        return value + linear - linear.detach()


class _Corners(Coder):
    """The deltas are the box."""

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        return boxes

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        return deltas


_CORNERS = _Corners()
_VALUES: dict[str, BoxLoss] = {"iou": IoU(), "giou": GIoU(), "diou": DIoU(), "ciou": CIoU()}


def _ascent(predicted: Tensor, target: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Darknet's slope of IoU, GIoU, DIoU or CIoU by center and sides (..., 2) of the predicted boxes (..., 4)."""
    low, high, t_low, t_high = predicted[..., :2], predicted[..., 2:], target[..., :2], target[..., 2:]
    side, t_side = high - low, t_high - t_low
    hull = torch.maximum(high, t_high) - torch.minimum(low, t_low)
    shared = (torch.minimum(high, t_high) - torch.maximum(low, t_low)).clamp(min=0)
    shared = shared * (shared > 0).all(-1, keepdim=True)
    overlap = shared.prod(-1, keepdim=True)
    union = (side.prod(-1, keepdim=True) + t_side.prod(-1, keepdim=True) - overlap).clamp(min=_TINY)
    area = side.flip(-1)  # slope of the predicted area by the higher edge; by the lower one its negative
    overlap_low = torch.where(low > t_low, -shared.flip(-1), 0.0)
    overlap_high = torch.where(high < t_high, shared.flip(-1), 0.0)
    union_low, union_high = -area - overlap_low, area - overlap_high
    by_low = (union * overlap_low - overlap * union_low) / union**2
    by_high = (union * overlap_high - overlap * union_high) / union**2
    if kind == "giou":
        around = hull.prod(-1, keepdim=True).clamp(min=_TINY)
        by_low = by_low + (around * union_low + union * torch.where(low < t_low, hull.flip(-1), 0.0)) / around**2
        by_high = by_high + (around * union_high - union * torch.where(high > t_high, hull.flip(-1), 0.0)) / around**2
    center, sides = by_low + by_high, by_high - by_low
    if kind in ("diou", "ciou"):
        shift = (t_low + t_high - low - high) / 2
        diagonal, distance = (v.square().sum(-1, keepdim=True) for v in (hull, shift))
        diagonal = diagonal.clamp(min=_TINY)
        beyond_high, beyond_low = (high > t_high).float(), (low < t_low).float()
        center = center + (2 * shift * diagonal - 2 * hull * (beyond_high - beyond_low) * distance) / diagonal**2
        sides = sides + hull * (beyond_high + beyond_low) * distance / diagonal**2
    if kind == "ciou":
        sides = sides + _aspect(side, t_side, overlap / union)
    return center, sides


def _aspect(side: Tensor, t_side: Tensor, iou: Tensor) -> Tensor:
    """Darknet's slope of the aspect ratio's term by the sides (..., 2)."""
    (w, h), (t_w, t_h) = (v.clamp(min=1e-6).unbind(-1) for v in (side, t_side))
    angle = torch.atan2(t_w, t_h) - torch.atan2(w, h)
    v = 4 / math.pi**2 * angle**2
    alpha = v / (1 - iou[..., 0] + v + 1e-6)
    slope = alpha * 8 / math.pi**2 * angle
    return torch.stack([slope * h, -slope * w], -1)
