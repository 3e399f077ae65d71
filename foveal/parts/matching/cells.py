"""YOLO's matchers: an object is assigned to one prior of the grid cell that contains its center."""

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
from .matcher import DecodedOutputs, Matcher, finalize_match, prior_chunk, without_priors


@dataclass(frozen=True)
class ShapeMatcher(Matcher):
    """An object is assigned to the anchor with the most similar shape, in the cell of its center (YOLOv2, YOLOv3).

    Most similar means the largest IoU of the two boxes laid on one center, over the anchors of all levels. Of two
    objects with the same prior the later one wins, as in Darknet, where it overwrites the first; losses with one
    sigmoid a class still learn the class of the first (``Match.extra_objects``). Every other prior is background; the
    objectness loss decides which of them it ignores. Needs the priors of :class:`foveal.parts.priors.cells.Cells`.

    With ``also`` (Darknet's ``iou_thresh``) an object is assigned to every other anchor of its cells too whose shape
    has a larger IoU with its own, unless another object fits that anchor best.
    """

    also: float | None = None  # IoU of shapes above which an object is assigned to more anchors than the most similar

    def __post_init__(self) -> None:
        if self.also is not None and not 0 <= self.also < 1:
            raise UsageError(f"ShapeMatcher(also={self.also}): expected an IoU from 0 to below 1, or None")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: priors are compared in chunks. No device sync."""
        if not priors.boxes.shape[-2]:
            return without_priors(targets)
        sides = (targets.boxes[..., 2:] - targets.boxes[..., :2]).float()[:, :, None]  # (B, G, 1, 2)
        area = sides.prod(-1)

        def shape_iou(start: int, stop: int) -> Tensor:
            anchor = priors.boxes[start:stop, 2:] - priors.boxes[start:stop, :2]  # (a, 2)
            shared = torch.minimum(sides, anchor).prod(-1)
            return shared / (area + anchor.prod(-1) - shared)

        return _assign(priors, targets, targets.valid, shape_iou, also=self.also)


@dataclass(frozen=True)
class Responsible(Matcher):
    """An object is assigned to the box of its cell whose current prediction fits it best (YOLOv1, section 2.2).

    Best is the largest IoU; where no box of the cell touches the object, the smallest root mean square error of
    center and sides as fractions of the image. A cell is assigned one object, its first. Objects with a side under
    ``smallest`` of the image's are not assigned.
    """

    smallest: float = 0.005  # smallest side of an object, as a fraction of the image's

    needs_outputs: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded: priors are compared in chunks. No device sync."""
        if outputs is None:
            raise UsageError("Responsible needs the predicted boxes")
        if not priors.boxes.shape[-2]:
            return without_priors(targets)
        predicted, objects = outputs[0], targets.boxes.float()[:, :, None]  # (B, A, 4), (B, G, 1, 4)
        canvas = _grid(priors)[0, 2:4].repeat(2)
        large = ((targets.boxes[..., 2:] - targets.boxes[..., :2]) >= self.smallest * canvas[:2]).all(-1)

        def fit(start: int, stop: int) -> Tensor:
            boxes = predicted[:, None, start:stop]  # (B, 1, a, 4)
            iou = box_ops.iou(boxes, objects)
            error = ((_center_size(boxes) - _center_size(objects)) / canvas).square().sum(-1).sqrt()
            return torch.where(iou > 0, iou, -error)

        return _assign(priors, targets, targets.valid & large, fit, one_a_cell=True)


def _assign(
    priors: Priors,
    targets: Targets,
    valid: Tensor,  # (B, G) the objects to assign
    fit: Callable[[int, int], Tensor],  # first and last prior -> (B, G, a), larger is better
    *,
    one_a_cell: bool = False,  # only the first object of a cell
    also: float | None = None,  # fit above which an object is assigned to more priors than its best
) -> Match:
    """The match of each object with its best prior among those of the cells (of all levels) that contain its center."""
    b, g = valid.shape
    count = priors.boxes.shape[-2]
    chunk = prior_chunk(valid.device, b * g)
    grid = _grid(priors)
    center = (targets.boxes[..., :2] + targets.boxes[..., 2:]).float()[:, :, None] / 2  # (B, G, 1, 2)
    center = torch.minimum(center, grid[0, 2:4] * (1 - 1e-6)).clamp(min=0)  # the last border belongs to the last cell
    best = center.new_full((b, g), -math.inf)
    prior = torch.zeros(b, g, dtype=torch.int64, device=valid.device)
    number = torch.arange(1, g + 1, device=valid.device)
    more = torch.zeros(b, count, dtype=torch.int64, device=valid.device)  # 1 + the last object that also fits; 0: none
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        cell = grid[start:stop, :2]
        at = ((priors.boxes[start:stop, :2] + priors.boxes[start:stop, 2:]) / 2 / cell).floor()  # column, row
        inside = ((center / cell).floor() == at).all(-1) & valid[..., None]  # (B, G, a)
        if one_a_cell:
            inside &= inside.cumsum(1) == 1
        fits = fit(start, stop).masked_fill(~inside, -math.inf)
        if also is not None:
            more[:, start:stop] = torch.where(fits > also, number[:, None], 0).amax(1)
        value, index = fits.max(-1)
        prior = torch.where(value > best, index + start, prior)
        best = torch.maximum(best, value)
    assigned = torch.zeros(b, count, dtype=torch.int64, device=valid.device)  # 1 + the object of each prior; 0: none
    has_prior = best > -math.inf
    assigned.scatter_reduce_(1, prior, torch.where(has_prior, number, 0), "amax")  # the last object wins
    everything = torch.where(assigned > 0, assigned, more)
    positive = everything > 0
    match = finalize_match((everything - 1).clamp(min=0), positive, torch.zeros_like(positive), priors, targets)
    return replace(match, extra_objects=(prior, has_prior & (assigned.gather(1, prior) != number)))


def _grid(priors: Priors) -> Tensor:
    if priors.grid is None:
        raise UsageError("this matcher assigns objects to grid cells, which only the priors Cells have")
    return priors.grid


def _center_size(boxes: Tensor) -> Tensor:
    """(..., 4) ``xyxy`` -> (..., 4) center x, center y, width, height."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
