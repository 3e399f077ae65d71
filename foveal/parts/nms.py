"""Greedy non-maximum suppression of a padded batch, by torchvision's kernel: the inside of ``suppress.NMS``.

Two forms with one result: on a CPU the data decides how the kernel is called; on an accelerator nothing but the
kernel itself makes the host wait. Both return (B, N) indices by falling score, the earlier row first where scores are
equal, and (B, N) bool: which of them are kept boxes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

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
