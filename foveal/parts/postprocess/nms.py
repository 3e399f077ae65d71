"""From the scores of every prior to the few boxes worth keeping: candidates first, then suppression.

Shapes: scores (B, A, C); S candidates an image; boxes (B, S, 4). Nothing here carries a gradient.
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


# ------------------------------------------------------------------------------------------------- suppression
@dataclass(frozen=True)
class Suppress(ABC):
    """``suppress(boxes (B, S, 4), scores (B, S), labels (B, S), level (S,), valid (B, S)) -> Boxes``."""

    top: int = field(default=100, kw_only=True)  # boxes kept of each image

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes: ...


@dataclass(frozen=True)
class NMS(Suppress):
    """Greedy non-maximum suppression: a box falls if it overlaps a better one of its group by more than ``iou``.

    The result is torchvision's ``batched_nms``, for a whole batch. On a CPU the groups go to the C++ kernel the
    faster way for their number and size; on an accelerator the batch takes one call where memory allows it. Overlaps of
    shifted boxes are computed in fp64, so that the shift rounds nothing.
    """

    iou: float = 0.5
    per: Literal["class", "level", "all"] = "class"  # what a group is; boxes of different groups never meet

    def __post_init__(self) -> None:
        if self.per not in ("class", "level", "all"):
            raise UsageError(f"NMS: per is {self.per!r}, not one of class, level, all")

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The kept boxes, padded to min(top, S), by falling score. The only host sync is NMS itself."""
        group = {"class": labels, "level": level.expand_as(labels), "all": torch.zeros_like(labels)}[self.per]
        top = min(self.top, boxes.shape[1])
        run = suppress_on_host if boxes.device.type == "cpu" else suppress_on_device
        return _gather(boxes, scores, labels, *run(boxes.float(), scores.float(), group, valid, self.iou, top))


@dataclass(frozen=True)
class NoNMS(Suppress):
    """Keeps the best ``top`` and removes no duplicates: for set predictions."""

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The best boxes, padded to min(top, S), by falling score. No host sync."""
        ranked = scores.masked_fill(~valid, -torch.inf)
        index = ranked.argsort(dim=1, descending=True, stable=True)[:, : self.top]
        return _gather(boxes, scores, labels, index, valid.gather(1, index))


def _gather(boxes: Tensor, scores: Tensor, labels: Tensor, index: Tensor, kept: Tensor) -> Boxes:
    """Rows (B, N) of every tensor; zero where nothing was kept."""
    zero = scores.new_zeros(())
    picked = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Boxes(
        boxes=torch.where(kept[..., None], picked, zero.to(boxes.dtype)),
        scores=torch.where(kept, scores.gather(1, index), zero),
        labels=labels.gather(1, index) * kept,
        valid=kept,
    )


DEVICE_ROWS = 20_000  # boxes in one kernel call on an accelerator: its bit matrix takes rows^2 / 8 bytes, here 50 MB
# A call costs about as much as 300,000 pairs of boxes. One call on boxes shifted apart looks at all n^2 pairs, one call
# a group at its own alone: with 80 classes they meet near 5,000 boxes.
PAIRS_PER_CALL = 300_000


def suppress_on_host(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """``boxes`` (B, S, 4) float32 on the CPU, ``scores``, ``group`` and ``valid`` (B, S)."""
    index = torch.zeros(len(boxes), top, dtype=torch.int64)
    kept = torch.zeros(len(boxes), top, dtype=torch.bool)
    for i, present in enumerate(valid.numpy()):
        rows = torch.from_numpy(np.flatnonzero(present))
        if len(rows) == len(present) > 0:
            found = _keep(boxes[i], scores[i], group[i], iou)[:top]
        elif len(rows):
            found = rows[_keep(boxes[i, rows], scores[i, rows], group[i, rows], iou)[:top]]
        else:
            continue
        index[i, : len(found)], kept[i, : len(found)] = found, True
    return index, kept


def _keep(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Kept rows of one image by falling score."""
    pairs = len(boxes) ** 2
    if pairs <= PAIRS_PER_CALL:
        return _keep_shifted(boxes, scores, group, iou)
    number = group.numpy()
    order = np.argsort(number, kind="stable")
    bounds = [0, *(np.flatnonzero(np.diff(number[order])) + 1).tolist(), len(order)]
    if len(bounds) > 2 and pairs <= PAIRS_PER_CALL * (len(bounds) - 1):
        return _keep_shifted(boxes, scores, group, iou)
    at = torch.from_numpy(order)
    boxes, ranked = boxes[at], scores[at]
    parts = [nms(boxes[i:j], ranked[i:j], iou) + i for i, j in pairwise(bounds)]
    kept = at[torch.cat(parts)].sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def _keep_shifted(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    kept: Tensor = nms(_shifted(boxes, group), scores.double(), iou)
    return kept


def suppress_on_device(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """The same on any device, with a kernel call for as many images at once as :data:`DEVICE_ROWS` allows."""
    b, s = scores.shape
    boxes = torch.where(valid[..., None], boxes, boxes.new_zeros(()))  # an empty box suppresses nothing ...
    ranked = scores.masked_fill(~valid, -torch.inf)  # ... and comes last
    kept = torch.zeros(b, s, dtype=torch.bool, device=boxes.device)
    step = max(1, DEVICE_ROWS // max(1, s))
    for i in range(0, b if s else 0, step):
        part = boxes[i : i + step]
        image = torch.arange(len(part), device=boxes.device)[:, None]
        which = image * (group[i : i + step].amax() + 1) + group[i : i + step]  # (image, group) as one number
        rows = nms(_shifted(part.flatten(0, 1), which.flatten()), ranked[i : i + step].flatten().double(), iou)
        kept[i : i + step].view(-1).index_fill_(0, rows, True)
    kept &= valid
    index = ranked.masked_fill(~kept, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :top]
    return index, kept.gather(1, index)


def _shifted(boxes: Tensor, group: Tensor) -> Tensor:
    """Boxes (n, 4) in fp64, moved apart so that those of different groups cannot meet."""
    wide = boxes.double()
    return wide + (group.to(wide) * (wide.amax() - wide.amin() + 1))[:, None]
