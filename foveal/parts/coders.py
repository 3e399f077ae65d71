"""Coders: boxes to regression targets (deltas) and back.

A coder is a pair of inverses. ``encode`` turns a box into the deltas that a head should predict at a prior, ``decode``
turns predicted deltas into a box. Both take any leading dimensions and broadcast, compute in at least float32, and
never return an inverted box.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageError

_EPS = 1e-6  # pixels: sides below this count as this, so that log and division stay finite


class Coder(ABC):
    """Boxes (..., 4) in pixels <-> deltas (..., 4) at priors (..., 4)."""

    logistic: bool = False  # whether the center's deltas are logits of its location in the cell

    @property
    def scales_priors(self) -> bool:
        """Whether the sides of a box are multiples of its prior's, so that the shapes of the priors matter."""
        return True

    @abstractmethod
    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """``xyxy`` boxes (..., 4) at ``xyxy`` priors (..., 4) -> deltas (..., 4)."""

    @abstractmethod
    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Deltas (..., 4) at ``xyxy`` priors (..., 4) -> ``xyxy`` boxes (..., 4), not clipped to the image."""


@dataclass(frozen=True)
class Delta(Coder):
    """Shift of the center in units of the prior's sides, and log of the ratio of sides (R-CNN, appendix C).

    ``dx = wx (cx - cx_a) / w_a``, ``dy = wy (cy - cy_a) / h_a``, ``dw = ww ln(w / w_a)``, ``dh = wh ln(h / h_a)``.

    ``weights`` are one over the standard deviations of the targets: (10, 10, 5, 5) for variances (.1, .1, .2, .2).
    ``clamp`` limits ``dw / ww`` and ``dh / wh`` on decoding, so that ``exp`` cannot overflow; Detectron and
    torchvision use ln(1000 / 16), the Caffe originals none. Beyond it the pair is not inverse.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clamp: float = math.log(1000 / 16)

    def __post_init__(self) -> None:
        if len(self.weights) != 4 or min(self.weights) <= 0:
            raise UsageError(f"Delta(weights={self.weights}): expected four positive numbers")

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        boxes, priors = at_least_fp32(boxes), at_least_fp32(priors)
        xa, ya, wa, ha = _center_size(priors)
        x, y, w, h = _center_size(boxes)
        wx, wy, ww, wh = self.weights
        dx, dy = wx * (x - xa) / wa, wy * (y - ya) / ha
        return torch.stack([dx, dy, ww * torch.log(w / wa), wh * torch.log(h / ha)], -1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        deltas, priors = at_least_fp32(deltas), at_least_fp32(priors)
        wa, ha = (priors[..., 2] - priors[..., 0]).clamp(min=0), (priors[..., 3] - priors[..., 1]).clamp(min=0)
        xa, ya = priors[..., 0] + 0.5 * wa, priors[..., 1] + 0.5 * ha
        dx, dy, dw, dh = deltas.unbind(-1)
        wx, wy, ww, wh = self.weights
        x, y = dx / wx * wa + xa, dy / wy * ha + ya
        half_w = 0.5 * (torch.exp((dw / ww).clamp(max=self.clamp)) * wa)
        half_h = 0.5 * (torch.exp((dh / wh).clamp(max=self.clamp)) * ha)
        return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1)


@dataclass(frozen=True)
class LTRB(Coder):
    """Distances from the prior's center to the four sides (FCOS, equation 1).

    ``l = (cx_a - x1) / w_a``, ``t = (cy_a - y1) / h_a``, ``r = (x2 - cx_a) / w_a``, ``b = (y2 - cy_a) / h_a``.

    ``normalize=False`` omits the division: distances in pixels, as in the paper. With it and cells one stride wide
    they are in strides, as in torchvision. The center may lie outside the box: negative distances are decoded as they
    are while the box is valid; otherwise its right (lower) side is moved onto its left (upper) one.
    """

    normalize: bool = True

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        boxes, priors = at_least_fp32(boxes), at_least_fp32(priors)
        xa, ya, wa, ha = _center_size(priors)
        x1, y1, x2, y2 = boxes.unbind(-1)
        sides = torch.stack([xa - x1, ya - y1, x2 - xa, y2 - ya], -1)
        return sides / torch.stack([wa, ha, wa, ha], -1) if self.normalize else sides

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        deltas, priors = at_least_fp32(deltas), at_least_fp32(priors)
        xa, ya, wa, ha = _center_size(priors)
        sides = deltas * torch.stack([wa, ha, wa, ha], -1) if self.normalize else deltas
        left, top, right, bottom = sides.unbind(-1)
        x1, y1, x2, y2 = xa - left, ya - top, xa + right, ya + bottom
        return torch.stack([x1, y1, torch.maximum(x2, x1), torch.maximum(y2, y1)], -1)


@dataclass(frozen=True)
class ImageRelative(Coder):
    """Center and sides as fractions of the prior, which is the whole image (DETR, section 3.1).

    ``dx = (cx - x1_a) / w_a``, ``dy = (cy - y1_a) / h_a``, ``dw = w / w_a``, ``dh = h / h_a``: 0 to 1 within the
    image, as the head predicts them.
    """

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        boxes, priors = at_least_fp32(boxes), at_least_fp32(priors)
        origin, side = priors[..., :2], (priors[..., 2:4] - priors[..., :2]).clamp(min=_EPS)
        center = (boxes[..., :2] + boxes[..., 2:]) / 2 - origin
        return torch.cat([center / side, (boxes[..., 2:] - boxes[..., :2]) / side], -1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        deltas, priors = at_least_fp32(deltas), at_least_fp32(priors)
        origin, side = priors[..., :2], (priors[..., 2:4] - priors[..., :2]).clamp(min=_EPS)
        center, half = deltas[..., :2] * side + origin, deltas[..., 2:].clamp(min=0) * side / 2
        return torch.cat([center - half, center + half], -1)


def at_least_fp32(t: Tensor) -> Tensor:
    """float32, unless it is float64 already."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


def finite_areas(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) with coordinates so limited that areas, and their sums, are finite: 2.3e18 pixels in float32."""
    boxes = at_least_fp32(boxes)
    far = math.sqrt(torch.finfo(boxes.dtype).max) / 8
    return boxes.clamp(-far, far)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Center x, center y, width, height with sides of at least ``_EPS``."""
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * w, boxes[..., 1] + 0.5 * h, w.clamp(min=_EPS), h.clamp(min=_EPS)


_EDGE = 1e-6  # of a cell: smallest distance of a center from its border, where the inverse logistic is infinite
_CLAMP = 16.0  # largest exponent of a side, e^16 = 9 million anchors; Darknet has none and overflows


@dataclass(frozen=True)
class GridCoder(Coder):
    """The center as a location in its cell, the sides as multiples of the anchor's or as fractions of the canvas.

    ``x = (column + f(tx)) cell``, ``y`` alike; ``f`` is the logistic function (since YOLOv2) or the identity (YOLOv1).
    Sides: "exp", ``w = w_a exp(tw)`` (since YOLOv2); "square", ``w = tw^2 canvas`` (YOLOv1); or "logistic",
    ``w = (2 f(tw))^2 w_a``, at most four anchors (Darknet's ``new_coords``, Scaled-YOLOv4). Only with :class:`Cells`,
    whose ``scale_xy`` s stretches ``f`` around the middle of the cell: ``s (f - 1/2) + 1/2``.
    """

    logistic: bool = True
    sides: Literal["exp", "square", "logistic"] = "exp"

    def __post_init__(self) -> None:
        if self.sides not in ("exp", "square", "logistic"):
            raise UsageError(f"GridCoder(sides={self.sides!r}): expected 'exp', 'square' or 'logistic'")

    @property
    def scales_priors(self) -> bool:
        return self.sides != "square"

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        boxes, priors = at_least_fp32(boxes), at_least_fp32(priors)
        middle, prior, cell, canvas = _grid(priors)
        center = ((boxes[..., :2] + boxes[..., 2:]) / 2 - middle) / cell + 0.5
        if self.logistic:
            center = torch.logit(center.clamp(_EDGE, 1 - _EDGE))
        side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_EDGE)
        if self.sides == "logistic":
            return torch.cat([center, torch.logit(((side / prior).sqrt() / 2).clamp(_EDGE, 1 - _EDGE))], -1)
        return torch.cat([center, (side / canvas).sqrt() if self.sides == "square" else (side / prior).log()], -1)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        deltas, priors = at_least_fp32(deltas), at_least_fp32(priors)
        middle, prior, cell, canvas = _grid(priors)
        offset, side = deltas[..., :2], deltas[..., 2:]
        center = middle + ((offset.sigmoid() if self.logistic else offset) - 0.5) * cell
        if self.sides == "logistic":
            half = 2 * side.sigmoid().square() * prior
        else:
            half = (side.square() * canvas if self.sides == "square" else side.clamp(max=_CLAMP).exp() * prior) / 2
        return torch.cat([center - half, center + half], -1)


def _grid(priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Middle, sides, cell times scale_xy and canvas of priors (..., 9), each (..., 2)."""
    if priors.shape[-1] != 9:
        raise UsageError("GridCoder needs the grid cells of its priors, which only Cells have")
    middle = (priors[..., :2] + priors[..., 2:4]) / 2
    return middle, priors[..., 2:4] - priors[..., :2], priors[..., 4:6] * priors[..., 8:], priors[..., 6:8]
