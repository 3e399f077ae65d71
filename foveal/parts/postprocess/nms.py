"""Non-maximum suppression: removes duplicates among the candidates of each image, for a whole batch at once.

Shapes: S candidates an image; boxes (B, S, 4). Nothing here carries a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from ...errors import UsageError
from ...types import Boxes


@dataclass(frozen=True)
class Suppress(ABC):
    """``suppress(boxes (B, S, 4), scores (B, S), labels (B, S), level (S,), valid (B, S)) -> Boxes``."""

    top: int = field(default=100, kw_only=True)  # largest number of boxes of an image

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes: ...


@dataclass(frozen=True)
class NMS(Suppress):
    """Greedy non-maximum suppression: a box is removed if its IoU with a better one of its group is above ``iou``.

    The result is torchvision's ``batched_nms``, for a whole batch. On a CPU the groups go to the C++ kernel in the
    faster way for their number and size; on a GPU the batch takes one call where memory allows it. Overlaps of
    shifted boxes are computed in fp64, so that the shift causes no rounding.
    """

    iou: float = 0.5
    per: Literal["class", "level", "all"] = "class"  # what a group is; boxes do not suppress those of other groups

    def __post_init__(self) -> None:
        if self.per not in ("class", "level", "all"):
            raise UsageError(f"NMS: per is {self.per!r}, not one of class, level, all")

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The remaining boxes, padded to min(top, S), by falling score. The only device sync is NMS itself."""
        group = {"class": labels, "level": level.expand_as(labels), "all": torch.zeros_like(labels)}[self.per]
        top = min(self.top, boxes.shape[1])
        run = suppress_on_cpu if boxes.device.type == "cpu" else suppress_on_device
        return _gather(boxes, scores, labels, *run(boxes.float(), scores.float(), group, valid, self.iou, top))


@dataclass(frozen=True)
class NoNMS(Suppress):
    """Returns the best ``top`` boxes and removes no duplicates: for set prediction."""

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The best boxes, padded to min(top, S), by falling score. No device sync."""
        ranked = scores.masked_fill(~valid, -torch.inf)
        index = ranked.argsort(dim=1, descending=True, stable=True)[:, : self.top]
        return _gather(boxes, scores, labels, index, valid.gather(1, index))


def _gather(boxes: Tensor, scores: Tensor, labels: Tensor, index: Tensor, valid: Tensor) -> Boxes:
    """The boxes at ``index`` (B, N), zero where not ``valid`` (B, N)."""
    zero = scores.new_zeros(())
    selected = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Boxes(
        boxes=torch.where(valid[..., None], selected, zero.to(boxes.dtype)),
        scores=torch.where(valid, scores.gather(1, index), zero),
        labels=labels.gather(1, index) * valid,
        valid=valid,
    )


DEVICE_BOXES = 20_000  # boxes in one kernel call on a GPU: its bit matrix takes boxes^2 / 8 bytes, here 50 MB
# A call costs about as much as 300,000 pairs of boxes. One call on boxes shifted apart compares all n^2 pairs, one call
# a group only its own: with 80 classes they cost the same near 5,000 boxes.
PAIRS_PER_CALL = 300_000


def suppress_on_cpu(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """Greedy NMS of CPU tensors: ``boxes`` (B, S, 4) float32, ``scores``, ``group`` and ``valid`` (B, S).

    Returns the indices of the remaining boxes by falling score (B, top), and whether there is one (B, top) bool.
    """
    index = torch.zeros(len(boxes), top, dtype=torch.int64)
    remains = torch.zeros(len(boxes), top, dtype=torch.bool)
    for i, is_valid in enumerate(valid.numpy()):
        indices = torch.from_numpy(np.flatnonzero(is_valid))
        if len(indices) == len(is_valid) > 0:
            result = _nms_image(boxes[i], scores[i], group[i], iou)[:top]
        elif len(indices):
            result = indices[_nms_image(boxes[i, indices], scores[i, indices], group[i, indices], iou)[:top]]
        else:
            continue
        index[i, : len(result)], remains[i, : len(result)] = result, True
    return index, remains


def _nms_image(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """The indices of the remaining boxes of one image, by falling score: boxes (n, 4), scores and group (n,)."""
    pairs = len(boxes) ** 2
    if pairs <= PAIRS_PER_CALL:
        return _nms_shifted(boxes, scores, group, iou)
    number = group.numpy()
    order = np.argsort(number, kind="stable")
    bounds = [0, *(np.flatnonzero(np.diff(number[order])) + 1).tolist(), len(order)]
    if len(bounds) > 2 and pairs <= PAIRS_PER_CALL * (len(bounds) - 1):
        return _nms_shifted(boxes, scores, group, iou)
    at = torch.from_numpy(order)
    boxes, ranked = boxes[at], scores[at]
    parts = [nms(boxes[i:j], ranked[i:j], iou) + i for i, j in pairwise(bounds)]
    remaining = at[torch.cat(parts)].sort().values
    return remaining[scores[remaining].argsort(descending=True, stable=True)]


def _nms_shifted(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """:func:`_nms_image` in one call, on boxes of different groups shifted apart."""
    remaining: Tensor = nms(_shifted(boxes, group), scores.double(), iou)
    return remaining


def suppress_on_device(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """:func:`suppress_on_cpu` on any device, in one kernel call for as many images as :data:`DEVICE_BOXES` allows."""
    b, s = scores.shape
    boxes = torch.where(valid[..., None], boxes, boxes.new_zeros(()))  # an empty box suppresses nothing ...
    ranked = scores.masked_fill(~valid, -torch.inf)  # ... and comes last
    remains = torch.zeros(b, s, dtype=torch.bool, device=boxes.device)
    step = max(1, DEVICE_BOXES // max(1, s))
    for i in range(0, b if s else 0, step):
        part = boxes[i : i + step]
        image = torch.arange(len(part), device=boxes.device)[:, None]
        combined = image * (group[i : i + step].amax() + 1) + group[i : i + step]  # (image, group) as one number
        indices = nms(_shifted(part.flatten(0, 1), combined.flatten()), ranked[i : i + step].flatten().double(), iou)
        remains[i : i + step].view(-1).index_fill_(0, indices, True)
    remains &= valid
    index = ranked.masked_fill(~remains, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :top]
    return index, remains.gather(1, index)


def _shifted(boxes: Tensor, group: Tensor) -> Tensor:
    """Boxes (n, 4) in fp64, moved apart so that those of different groups do not overlap."""
    wide = boxes.double()
    return wide + (group.to(wide) * (wide.amax() - wide.amin() + 1))[:, None]
