"""The IoU losses of Darknet: their gradient is that of the box as fractions of the image, passed on to the outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError
from ..coders import Coder, GridCoder, at_least_fp32
from .box import BoxLoss, CIoU
from .normalizers import Normalizer, PerImage


@dataclass(frozen=True)
class FractionIoU(BoxLoss):
    """An IoU loss with the gradient of AlexeyAB's Darknet, for which its ``iou_normalizer`` is made.

    With center and sides as fractions of the canvas, the gradient of the loss by the center is that of the outputs tx
    and ty, and the gradient by a side times exp(tw) that of tw: the slope of the logistic function, the cell and the
    anchor are left out, so that small boxes count more (for a box of a tenth of the canvas ten times as much). Where
    the sides are logistic too (``new_coords``), both are those of the values behind the logistic function. Gradients
    are then at most ``largest``. The value is that of ``loss``. Needs a :class:`GridCoder`.
    """

    loss: BoxLoss = CIoU()
    largest: float | None = None  # gradient of an output, times ``weight`` (``max_delta``); None: no limit
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.largest is not None and not self.largest > 0:
            raise UsageError(f"FractionIoU(largest={self.largest}): expected more than 0, or None")

    def __call__(self, deltas: Tensor, priors: Tensor, boxes: Tensor, coder: Coder) -> Tensor:
        if not isinstance(coder, GridCoder) or priors.shape[-1] != 9:
            raise UsageError("FractionIoU needs a GridCoder and the priors Cells", fix="Use CIoU, GIoU or IoU")
        deltas, canvas = at_least_fp32(deltas), priors[..., 6:8].repeat(1, 1, 2)
        raw = deltas.detach()
        predicted = _to_center(coder.decode(raw, priors) / canvas)
        target = at_least_fp32(boxes) / canvas
        if not torch.is_grad_enabled() or not deltas.requires_grad:
            return self.loss(predicted, target, target, _CenterSize())
        with torch.enable_grad():
            leaf = predicted.requires_grad_()
            value = self.loss(leaf, target, target, _CenterSize())
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        if coder.sides == "exp":
            gradient = torch.cat([gradient[..., :2], gradient[..., 2:] * raw[..., 2:].clamp(max=16.0).exp()], -1)
        if self.largest is not None and self.weight > 0:
            gradient = gradient.clamp(-self.largest / self.weight, self.largest / self.weight)
        if coder.sides == "logistic":
            gradient = gradient * raw.sigmoid() * (1 - raw.sigmoid())
        surrogate = (gradient * deltas).sum(-1)
        return value.detach() + surrogate - surrogate.detach()


class _CenterSize(Coder):
    """Boxes as center and sides, whatever the prior."""

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        return _to_center(boxes)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        center, half = deltas[..., :2], deltas[..., 2:] / 2
        return torch.cat([center - half, center + half], -1)


def _to_center(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
