"""Which object does each prior answer for? Matchers decide it for a whole batch and own no weights.

Shapes: boxes of objects (B, G, 4) padded, priors (A, 4) or (B, A, 4), results (B, A).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...types import Match, Priors, Targets

HOST_BUDGET = 1 << 18  # overlaps held at a time on a CPU: three buffers of 1 MiB stay in the second-level cache
HOST_CHUNK = 8192  # priors looked at together on a CPU: few enough that most objects do not touch them
DEVICE_BUDGET = 1 << 24  # on an accelerator: few launches matter more than caches (three buffers of 64 MiB)
DecodedOutputs = tuple[Tensor, Tensor]  # decoded boxes (B, A, 4), scores (B, A, C)

IGNORED_SHARE = 0.5  # a prior with this share of its area in an ignored region is left out of the loss


@dataclass(frozen=True)
class Matcher(ABC):
    """``matcher(priors, targets, outputs) -> Match``.

    ``outputs`` are the detached decoded boxes (B, A, 4) and scores (B, A, C), passed only where ``needs_outputs``.
    """

    needs_outputs: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Returns a :class:`Match` with (B, A) tensors on the device of the targets."""


def mask_invalid(priors: Priors, targets: Targets) -> tuple[Tensor, Tensor]:
    """Priors (A, 4) or (B, A, 4) and objects (B, G, 4), float32; what is not valid is empty, so it overlaps nothing."""
    boxes = priors.boxes.detach().float()
    if priors.valid is not None:
        boxes = torch.where(priors.valid[..., None], boxes, boxes.new_zeros(()))
    return boxes, torch.where(targets.valid[..., None], targets.boxes, targets.boxes.new_zeros(())).float()


def finalize_match(gt: Tensor, positive: Tensor, ignored: Tensor, priors: Priors, targets: Targets) -> Match:
    """The end of every matcher: ignored regions and priors that are not valid are ignored, whatever else they are."""
    if targets.any_ignore:
        ignored = ignored | ~positive & in_ignored_region(priors.boxes, targets)
    if priors.valid is not None:
        positive, ignored = positive & priors.valid, ignored | ~priors.valid
    return Match(gt, positive, ignored)


# --------------------------------------------------------------------------------------- overlaps, in pieces
def match_on_device(priors: Tensor, objects: Tensor, ties: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Best overlap of every prior, without any host sync.

    ``priors`` (A, 4) or (B, A, 4); ``objects`` (B, G, 4), all zero where there is none. Returns IoU (B, A), object
    (B, A) and, if ``ties``, which priors are some object's best (B, A).
    """
    b, g = objects.shape[:2]
    count = priors.shape[-2]
    chunk = min(count, max(256, DEVICE_BUDGET // (b * g)))
    columns = (priors if priors.dim() == 3 else priors[None]).transpose(1, 2).contiguous()  # (B or 1, 4, A)
    area = _area(columns)
    wanted, wanted_area = _object_columns(objects)
    iou = objects.new_zeros(b, count)
    gt = torch.zeros(b, count, dtype=torch.int64, device=objects.device)
    top = objects.new_zeros(b, g)
    buffers = objects.new_empty(3, b * g * chunk)
    starts = range(0, count, chunk)
    for i in starts:
        part = _overlaps(wanted, columns[..., i : i + chunk], wanted_area, area[:, i : i + chunk], buffers)
        torch.max(part, 1, out=(iou[:, i : i + chunk], gt[:, i : i + chunk]))
        torch.maximum(top, part.amax(2), out=top)
    gt.mul_(iou > 0)  # which object is "best" at 0 must not depend on the pieces
    if not ties:
        return iou, gt, None
    best = torch.empty(b, count, dtype=torch.bool, device=objects.device)
    top = torch.where(top > 0, top, torch.full_like(top, 2.0))  # an object nobody touches equals nothing
    for i in starts:
        if len(starts) > 1:
            part = _overlaps(wanted, columns[..., i : i + chunk], wanted_area, area[:, i : i + chunk], buffers)
        torch.any(part == top[..., None], 1, out=best[:, i : i + chunk])
    return iou, gt, best


def match_on_host(priors: Tensor, objects: Tensor, ties: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """The result of :func:`match_on_device` for CPU tensors, 10 to 40 times faster than the dense form.

    Three things make it fast: buffers that stay in the cache; only the objects that touch a piece of the priors
    are compared with it (priors lie row by row, so most do not); ties are looked up only in the pieces that hold
    an object's best. These choices depend on the data, which costs nothing here and would be a sync elsewhere.
    """
    b, count = objects.shape[0], priors.shape[-2]
    iou, gt = objects.new_zeros(b, count), torch.zeros(b, count, dtype=torch.int64)
    best = torch.zeros(b, count, dtype=torch.bool) if ties else None
    rows = [np.flatnonzero(r) for r in objects.any(-1).numpy()]
    chunk = min(count, HOST_CHUNK, max(256, HOST_BUDGET // max(1, *(len(r) for r in rows))))
    buffers = objects.new_empty(3, chunk * max(1, HOST_BUDGET // chunk, *(len(r) for r in rows)))
    pieces: _Pieces | None = None
    for i, present in enumerate(rows):
        if pieces is None or priors.dim() == 3:
            pieces = _Pieces.cut(priors if priors.dim() == 2 else priors[i], chunk)
        if len(present):
            _match_image(pieces, objects[i], present, buffers, iou[i], gt[i], None if best is None else best[i])
    return iou, gt, best


@dataclass(frozen=True)
class _Pieces:
    """The priors of one image, cut into equal pieces (the last one filled up with empty boxes)."""

    columns: Tensor  # (4, pieces, chunk): x1, y1, x2, y2
    area: Tensor  # (pieces, chunk)
    extent: np.ndarray[Any, Any]  # (4, pieces): the box around each piece

    @classmethod
    def cut(cls, priors: Tensor, chunk: int) -> _Pieces:
        number = -(-priors.shape[0] // chunk)
        columns = priors.new_zeros(4, number * chunk)
        columns[:, : priors.shape[0]] = priors.t()
        columns = columns.view(4, number, chunk)
        extent = torch.cat([columns[:2].amin(2), columns[2:].amax(2)])
        return cls(columns, _area(columns[None])[0], extent.numpy())


def _match_image(
    pieces: _Pieces,
    objects: Tensor,  # (G, 4)
    present: np.ndarray[Any, Any],  # indices of the objects that are there
    buffers: Tensor,
    iou: Tensor,  # (A,), zero; filled here, as are gt and best
    gt: Tensor,
    best: Tensor | None,
) -> None:
    chunk, count = pieces.area.shape[1], iou.shape[0]
    number = torch.from_numpy(present)
    boxes = objects[number]
    wanted, wanted_area = _object_columns(boxes)  # (n, 1) each
    x1, y1, x2, y2 = pieces.extent[..., None]
    b = boxes.numpy()
    apart = (b[:, 0] >= x2) | (b[:, 1] >= y2) | (b[:, 2] <= x1) | (b[:, 3] <= y1)  # (pieces, n)
    top = boxes.new_zeros(len(present), len(apart))  # (n, pieces): the best overlap of the object in the piece
    for j, far in enumerate(apart):
        near = np.flatnonzero(~far)
        if not len(near):
            continue
        start, stop = j * chunk, min((j + 1) * chunk, count)
        k = stop - start
        every = len(near) == len(present)
        index = torch.from_numpy(near)
        columns, areas = (wanted, wanted_area) if every else ([c[index] for c in wanted], wanted_area[index])
        part = _overlaps(columns, pieces.columns[:, j, :k], areas, pieces.area[j, :k], buffers)
        if len(near) == 1:
            iou[start:stop] = part[0]
            gt[start:stop] = int(present[near[0]])
        else:
            _, at = torch.max(part, 0, out=(iou[start:stop], gt[start:stop]))
            torch.index_select(number if every else number[index], 0, at.clone(), out=gt[start:stop])
        top[index, j] = part.amax(1)
    gt.mul_(iou > 0)  # which object is "best" at 0 must not depend on the pieces
    if best is not None:
        _mark_ties(pieces, wanted, wanted_area, top.numpy(), buffers, best.numpy())


def _mark_ties(
    pieces: _Pieces,
    wanted: Sequence[Tensor],
    wanted_area: Tensor,
    top: np.ndarray[Any, Any],  # (n, pieces)
    buffers: Tensor,
    best: np.ndarray[Any, Any],  # (A,) bool, set here
) -> None:
    highest = top.max(1)
    objects, where = np.nonzero((top == highest[:, None]) & (highest[:, None] > 0))
    chunk = pieces.area.shape[1]
    step = max(1, buffers.shape[1] // chunk // 4)  # the coordinates of the pieces are copied here
    for i in range(0, len(objects), step):
        g, p = objects[i : i + step], where[i : i + step]
        gi, pi = torch.from_numpy(g), torch.from_numpy(p)
        part = _overlaps(
            [c[gi] for c in wanted], pieces.columns[:, pi], wanted_area[gi], pieces.area[pi], buffers, paired=True
        )
        pair, column = np.nonzero(part.numpy() == highest[g][:, None])
        best[p[pair] * chunk + column] = True


def _area(columns: Tensor) -> Tensor:
    """(N, 4, ...) columns -> (N, ...)."""
    return (columns[:, 2] - columns[:, 0]) * (columns[:, 3] - columns[:, 1])


def _object_columns(objects: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    """(..., G, 4) -> four columns (..., G, 1) and the areas (..., G, 1), 1 in place of 0 so that no union is 0."""
    columns = [c.unsqueeze(-1).contiguous() for c in objects.unbind(-1)]
    area = (columns[2] - columns[0]) * (columns[3] - columns[1])
    return columns, torch.where(area > 0, area, torch.ones_like(area))


def _overlaps(
    objects: Sequence[Tensor],  # 4 x (..., n, 1)
    priors: Tensor,  # (..., 4, k), or (4, n, k) where ``paired``
    object_area: Tensor,  # (..., n, 1)
    prior_area: Tensor,  # (..., k)
    buffers: Tensor,  # (3, at least all overlaps)
    *,
    paired: bool = False,
    share: bool = False,
) -> Tensor:
    """IoU (..., n, k) in the first buffer; with ``share`` the intersection over the prior's area instead.

    The order of the operations is torchvision's ``box_iou``, so the overlaps are equal to the last bit.
    """
    axis = 0 if paired else -2
    x1, y1, x2, y2 = (c if paired else c.unsqueeze(-2) for c in priors.unbind(axis))
    area = prior_area if paired else prior_area.unsqueeze(-2)
    shape = np.broadcast_shapes(objects[0].shape, x1.shape)
    size = math.prod(shape)
    width, height, other = [b[:size].view(shape) for b in buffers.unbind()]
    torch.minimum(objects[2], x2, out=width)
    torch.maximum(objects[0], x1, out=other)
    width.sub_(other).clamp_(min=0)
    torch.minimum(objects[3], y2, out=height)
    torch.maximum(objects[1], y1, out=other)
    height.sub_(other).clamp_(min=0)
    width.mul_(height)
    if share:
        width.div_(area.clamp(min=torch.finfo(area.dtype).tiny))
        return width
    torch.add(object_area, area, out=height)
    width.div_(height.sub_(width))
    return width


def in_ignored_region(priors: Tensor, targets: Targets) -> Tensor:
    """(B, A) bool: at least half of the prior lies in one region of ``targets.ignore``. No host sync."""
    regions = torch.where(targets.ignore[..., None], targets.boxes, targets.boxes.new_zeros(())).float()
    b, g = regions.shape[:2]
    count = priors.shape[-2]
    chunk = min(count, max(256, (HOST_BUDGET if priors.device.type == "cpu" else DEVICE_BUDGET) // (b * g)))
    columns = (priors if priors.dim() == 3 else priors[None]).transpose(1, 2).contiguous()
    area = _area(columns)
    wanted, wanted_area = _object_columns(regions)
    buffers = regions.new_empty(3, b * g * chunk)
    inside = torch.empty(b, count, dtype=torch.bool, device=priors.device)
    for i in range(0, count, chunk):
        part = _overlaps(wanted, columns[..., i : i + chunk], wanted_area, area[:, i : i + chunk], buffers, share=True)
        torch.ge(part.amax(1), IGNORED_SHARE, out=inside[:, i : i + chunk])
    return inside
