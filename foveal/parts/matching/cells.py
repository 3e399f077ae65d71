"""Who answers for an object in YOLO: one box of the cell that its center lies in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ... import boxes as box_ops
from ...errors import UsageError
from ...types import Match, Priors, Targets
from .matcher import DEVICE_BUDGET, HOST_BUDGET, DecodedOutputs, Matcher, finalize_match


@dataclass(frozen=True)
class ShapeMatcher(Matcher):
    """An object belongs to the one prior whose shape is nearest, in the cell of its center (YOLOv2, YOLOv3).

    Nearest means the largest IoU of the two boxes laid on one center, over the shapes of all levels. Of two objects
    with the same prior the later one wins, as in Darknet, where it overwrites the first; losses with one
    sigmoid a class still learn the class of the first (``Match.extra_objects``). Every other prior is background; which
    of them the objectness loss ignores is its own business. Needs the priors :class:`~.cells.Cells`.
    """

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: priors are looked at in chunks. No host sync."""
        sides = (targets.boxes[..., 2:] - targets.boxes[..., :2]).float()[:, :, None]  # (B, G, 1, 2)
        area = sides.prod(-1)

        def likeness(start: int, stop: int) -> Tensor:
            shape = priors.boxes[start:stop, 2:] - priors.boxes[start:stop, :2]  # (a, 2)
            shared = torch.minimum(sides, shape).prod(-1)
            return shared / (area + shape.prod(-1) - shared)

        return _assign(priors, targets, targets.valid, likeness)


@dataclass(frozen=True)
class Responsible(Matcher):
    """An object belongs to the predicted box of its cell that fits it best *now* (YOLOv1, section 2.2).

    Best is the largest IoU; where no box of the cell touches the object, the smallest root mean square error of
    center and sides as parts of the picture. A cell answers for one object, its first. Objects with a side under
    ``smallest`` of the picture's are left out.
    """

    smallest: float = 0.005  # of the picture's side

    needs_outputs: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: priors are looked at in chunks. No host sync."""
        if outputs is None:
            raise UsageError("Responsible needs the predicted boxes")
        found, wanted = outputs[0], targets.boxes.float()[:, :, None]  # (B, A, 4), (B, G, 1, 4)
        canvas = _grid(priors)[0, 2:4].repeat(2)
        large = ((targets.boxes[..., 2:] - targets.boxes[..., :2]) >= self.smallest * canvas[:2]).all(-1)

        def fit(start: int, stop: int) -> Tensor:
            boxes = found[:, None, start:stop]  # (B, 1, a, 4)
            iou = box_ops.iou(boxes, wanted)
            error = ((_center_size(boxes) - _center_size(wanted)) / canvas).square().sum(-1).sqrt()
            return torch.where(iou > 0, iou, -error)

        return _assign(priors, targets, targets.valid & large, fit, one_a_cell=True)


def _assign(
    priors: Priors,
    targets: Targets,
    valid: Tensor,  # (B, G) the objects to assign
    fit: Callable[[int, int], Tensor],  # first and last prior -> (B, G, a), larger is better
    *,
    one_a_cell: bool = False,  # only the first object of a cell
) -> Match:
    """The best prior of each object among those of the cells (of all levels) that its center lies in."""
    b, g = valid.shape
    count = priors.boxes.shape[-2]
    chunk = max(256, (HOST_BUDGET if valid.device.type == "cpu" else DEVICE_BUDGET) // (b * g))
    grid = _grid(priors)
    middle = (targets.boxes[..., :2] + targets.boxes[..., 2:]).float()[:, :, None] / 2  # (B, G, 1, 2)
    middle = torch.minimum(middle, grid[0, 2:4] * (1 - 1e-6)).clamp(min=0)  # the last border belongs to the last cell
    best = middle.new_full((b, g), -math.inf)
    prior = torch.zeros(b, g, dtype=torch.int64, device=valid.device)
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        cell = grid[start:stop, :2]
        at = ((priors.boxes[start:stop, :2] + priors.boxes[start:stop, 2:]) / 2 / cell).floor()  # column, row
        inside = ((middle / cell).floor() == at).all(-1) & valid[..., None]  # (B, G, a)
        if one_a_cell:
            inside &= inside.cumsum(1) == 1
        value, place = fit(start, stop).masked_fill(~inside, -math.inf).max(-1)
        prior = torch.where(value > best, place + start, prior)
        best = torch.maximum(best, value)
    number = torch.arange(1, g + 1, device=valid.device)
    owner = torch.zeros(b, count, dtype=torch.int64, device=valid.device)
    has_prior = best > -math.inf
    owner.scatter_reduce_(1, prior, torch.where(has_prior, number, 0), "amax")  # the last object wins
    positive = owner > 0
    match = finalize_match((owner - 1).clamp(min=0), positive, torch.zeros_like(positive), priors, targets)
    return replace(match, extra_objects=(prior, has_prior & (owner.gather(1, prior) != number)))


def _grid(priors: Priors) -> Tensor:
    if priors.grid is None:
        raise UsageError("this matcher assigns objects to cells, which only the priors Cells have")
    return priors.grid


def _center_size(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
