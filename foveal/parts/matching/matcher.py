"""The role of a matcher, which assigns objects to priors, and the overlaps that matchers compute.

Shapes: boxes of objects (B, G, 4) padded, priors (A, 4) or (B, A, 4), results (B, A). Matchers assign a whole batch
at once and own no weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...types import Match, Priors, Targets, on_cpu
from ..coders import finite_areas

CPU_BUDGET = 1 << 18  # overlaps held at a time on a CPU: three buffers of 1 MiB stay in the second-level cache
CPU_CHUNK = 8192  # priors compared at a time on a CPU: few enough that most objects do not touch them
DEVICE_BUDGET = 1 << 24  # on a GPU: few launches matter more than caches (three buffers of 64 MiB)
DecodedOutputs = tuple[Tensor, Tensor]  # decoded boxes (B, A, 4), scores (B, A, C)

IGNORED_SHARE = 0.5  # a prior with this share of its area in an ignored region is ignored


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
    """Priors (A, 4) or (B, A, 4) and objects (B, G, 4), float32; invalid ones are empty, so they overlap nothing."""
    boxes = priors.boxes.detach().float()
    if priors.valid is not None:
        boxes = torch.where(priors.valid[..., None], boxes, boxes.new_zeros(()))
    return boxes, torch.where(targets.valid[..., None], targets.boxes, targets.boxes.new_zeros(())).float()


def finalize_match(gt: Tensor, positive: Tensor, ignored: Tensor, priors: Priors, targets: Targets) -> Match:
    """The last step of every matcher: (B, A) each -> the match, in which invalid priors are ignored, and so are
    priors in ignored regions that are not positive."""
    if targets.any_ignore:
        ignored = ignored | ~positive & in_ignored_region(priors.boxes, targets)
    if priors.valid is not None:
        positive, ignored = positive & priors.valid, ignored | ~priors.valid
    return Match(gt, positive, ignored)


def without_priors(targets: Targets) -> Match:
    """The match (B, 0) of no prior at all."""
    none = torch.zeros(len(targets.boxes), 0, dtype=torch.int64, device=targets.boxes.device)
    return Match(none, none.bool(), none.bool())


def prior_chunk(device: torch.device, objects: int, buffers: int = 1) -> int:
    """How many priors to compare with ``objects`` (of the whole batch) at a time, so that memory is bounded.

    ``buffers``: how many times as much memory as usual a pair takes; it counts on a GPU alone.
    """
    return max(256, (CPU_BUDGET if device.type == "cpu" else DEVICE_BUDGET // buffers) // max(1, objects))


# ------------------------------------------------------------------------------------ overlaps, chunk by chunk
def best_overlaps(priors: Tensor, objects: Tensor, ties: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """The object that each prior overlaps most, by the fastest form for the device.

    ``priors`` (A, 4) or (B, A, 4); ``objects`` (B, G, 4), all zero where there is none. Returns IoU (B, A), object
    (B, A) int64 and, if ``ties``, (B, A) bool: whether no prior overlaps some object more. All float32 but these.
    """
    return (match_on_cpu if on_cpu(priors) else match_on_device)(priors, objects, ties)


def match_on_device(priors: Tensor, objects: Tensor, ties: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`best_overlaps` on any device, without a device sync."""
    priors, objects = finite_areas(priors.float()), finite_areas(objects.float())
    b, g = objects.shape[:2]
    count = priors.shape[-2]
    chunk = max(1, min(count, max(256, DEVICE_BUDGET // max(1, b * g))))
    columns = (priors if priors.dim() == 3 else priors[None]).transpose(1, 2).contiguous()  # (B or 1, 4, A)
    area = _area(columns)
    object_corners = _object_corners(objects)
    iou = objects.new_zeros(b, count)
    gt = torch.zeros(b, count, dtype=torch.int64, device=objects.device)
    highest = objects.new_zeros(b, g)
    buffers = objects.new_empty(3, b * g * chunk)
    starts = range(0, count, chunk)
    for i in starts:
        part = _iou(object_corners, _prior_corners(columns[..., i : i + chunk], area[:, i : i + chunk]), buffers)
        torch.max(part, 1, out=(iou[:, i : i + chunk], gt[:, i : i + chunk]))
        torch.maximum(highest, part.amax(2), out=highest)
    gt.mul_(iou > 0)  # which object is "best" at 0 must not depend on the chunks
    if not ties:
        return iou, gt, None
    best = torch.empty(b, count, dtype=torch.bool, device=objects.device)
    highest = torch.where(highest > 0, highest, torch.full_like(highest, 2.0))  # untouched objects equal nothing
    for i in starts:
        if len(starts) > 1:
            part = _iou(object_corners, _prior_corners(columns[..., i : i + chunk], area[:, i : i + chunk]), buffers)
        torch.any(part == highest[..., None], 1, out=best[:, i : i + chunk])
    return iou, gt, best


def match_on_cpu(priors: Tensor, objects: Tensor, ties: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """The result of :func:`match_on_device` for CPU tensors, 10 to 40 times faster than the dense form.

    Three things make it fast: buffers that stay in the cache; only the objects that touch a chunk of the priors
    are compared with it (priors lie row by row, so most do not); ties are looked up only in the chunks that hold
    an object's best. These choices depend on the data, which costs nothing here and would be a sync elsewhere.
    """
    priors, objects = finite_areas(priors.float()), finite_areas(objects.float())
    b, count = objects.shape[0], priors.shape[-2]
    iou, gt = objects.new_zeros(b, count), torch.zeros(b, count, dtype=torch.int64)
    best = torch.zeros(b, count, dtype=torch.bool) if ties else None
    if not count:
        return iou, gt, best
    present = [np.flatnonzero(image) for image in objects.any(-1).numpy()]
    largest = max(1, *(len(indices) for indices in present))
    size = max(1, min(count, CPU_CHUNK, max(256, CPU_BUDGET // largest)))
    buffers = objects.new_empty(3, size * max(CPU_BUDGET // size, largest))
    chunks: _Chunks | None = None
    for i, indices in enumerate(present):
        if chunks is None or priors.dim() == 3:
            chunks = _Chunks.of(priors if priors.dim() == 2 else priors[i], size)
        if len(indices):
            _match_image(chunks, objects[i], indices, buffers, iou[i], gt[i], None if best is None else best[i])
    return iou, gt, best


class _Corners(NamedTuple):
    """Boxes as four columns and their areas, of one shape that broadcasts against that of other boxes."""

    x1: Tensor
    y1: Tensor
    x2: Tensor
    y2: Tensor
    area: Tensor

    def at(self, index: Tensor) -> _Corners:
        return _Corners(*(column[index] for column in self))


@dataclass(frozen=True)
class _Chunks:
    """The priors of one image in equal chunks (the last one filled up with empty boxes)."""

    columns: Tensor  # (4, chunks, size): x1, y1, x2, y2
    area: Tensor  # (chunks, size)
    extent: NDArray[np.float32]  # (4, chunks): the box around each chunk

    @classmethod
    def of(cls, priors: Tensor, size: int) -> _Chunks:
        """``priors`` (A, 4)."""
        number = -(-priors.shape[0] // size)
        columns = priors.new_zeros(4, number * size)
        columns[:, : priors.shape[0]] = priors.t()
        columns = columns.view(4, number, size)
        extent = torch.cat([columns[:2].amin(2), columns[2:].amax(2)])
        return cls(columns, _area(columns[None])[0], extent.numpy())

    def at(self, index: Tensor) -> _Corners:
        """The chunks of these indices (n,), copied: (n, size) each."""
        x1, y1, x2, y2 = self.columns[:, index].unbind()
        return _Corners(x1, y1, x2, y2, self.area[index])


def _match_image(
    chunks: _Chunks,
    objects: Tensor,
    present: NDArray[np.int64],
    buffers: Tensor,
    iou: Tensor,
    gt: Tensor,
    best: Tensor | None,
) -> None:
    """Matches the priors of one image with its objects, chunk by chunk, and writes the results in place.

    ``objects`` (G, 4), of which those at the indices ``present`` (n,) exist. Written are, of every prior, its largest
    ``iou`` (A,), zero on entry, the object ``gt`` (A,) that it belongs to, and unless None ``best`` (A,), whether no
    prior overlaps some object more. ``buffers`` (3, overlaps) are scratch memory.
    """
    size, count = chunks.area.shape[1], iou.shape[0]
    indices = torch.from_numpy(present)
    boxes = objects[indices]
    corners = _object_corners(boxes)  # (n, 1) each
    x1, y1, x2, y2 = chunks.extent[..., None]
    b = boxes.numpy()
    apart = (b[:, 0] >= x2) | (b[:, 1] >= y2) | (b[:, 2] <= x1) | (b[:, 3] <= y1)  # (chunks, n)
    highest = boxes.new_zeros(len(present), len(apart))  # (n, chunks): largest IoU of the object in the chunk
    for j, outside in enumerate(apart):
        touching = np.flatnonzero(~outside)
        if not len(touching):
            continue
        start, stop = j * size, min((j + 1) * size, count)
        some = None if len(touching) == len(present) else torch.from_numpy(touching)  # None: all of them
        priors = _prior_corners(chunks.columns[:, j, : stop - start], chunks.area[j, : stop - start])
        part = _iou(corners if some is None else corners.at(some), priors, buffers)  # (touching, stop - start)
        if len(touching) == 1:
            iou[start:stop] = part[0]
            gt[start:stop] = int(present[touching[0]])
        else:
            _, at = torch.max(part, 0, out=(iou[start:stop], gt[start:stop]))
            torch.index_select(indices if some is None else indices[some], 0, at.clone(), out=gt[start:stop])
        highest[torch.from_numpy(touching), j] = part.amax(1)
    gt.mul_(iou > 0)  # which object is "best" at 0 must not depend on the chunks
    if best is not None:
        _mark_best(chunks, corners, highest.numpy(), buffers, best.numpy())


def _mark_best(
    chunks: _Chunks, objects: _Corners, highest: NDArray[np.float32], buffers: Tensor, best: NDArray[np.bool_]
) -> None:
    """Sets ``best`` (A,) in place where a prior has the largest IoU of an object, ties included.

    ``objects`` (n, 1) each; ``highest`` (n, chunks): the largest IoU of each object with the priors of each chunk. Only
    the chunks in which an object reaches its largest are compared with it again.
    """
    top = highest.max(1)
    objects_at, chunks_at = np.nonzero((highest == top[:, None]) & (highest > 0))  # pairs of an object and a chunk
    size = chunks.area.shape[1]
    step = max(1, buffers.shape[1] // size // 4)  # the coordinates of the chunks are copied here
    for i in range(0, len(objects_at), step):
        g, c = objects_at[i : i + step], chunks_at[i : i + step]
        part = _iou(objects.at(torch.from_numpy(g)), chunks.at(torch.from_numpy(c)), buffers)  # (pairs, size)
        pair, column = np.nonzero(part.numpy() == top[g][:, None])
        best[c[pair] * size + column] = True


def _area(columns: Tensor) -> Tensor:
    """(N, 4, ...) columns -> (N, ...)."""
    return (columns[:, 2] - columns[:, 0]) * (columns[:, 3] - columns[:, 1])


def _object_corners(objects: Tensor) -> _Corners:
    """(..., G, 4) -> (..., G, 1) each; areas of 0 become 1, so that no union is 0."""
    x1, y1, x2, y2 = (column.unsqueeze(-1).contiguous() for column in objects.unbind(-1))
    area = (x2 - x1) * (y2 - y1)
    return _Corners(x1, y1, x2, y2, torch.where(area > 0, area, torch.ones_like(area)))


def _prior_corners(columns: Tensor, area: Tensor) -> _Corners:
    """Columns (..., 4, k) and areas (..., k) -> (..., 1, k) each."""
    x1, y1, x2, y2 = columns.unsqueeze(-3).unbind(-2)
    return _Corners(x1, y1, x2, y2, area.unsqueeze(-2))


def _iou(objects: _Corners, priors: _Corners, buffers: Tensor) -> Tensor:
    """IoU of boxes that broadcast, such as (..., n, 1) and (..., 1, k) -> (..., n, k), in the first buffer.

    The order of the operations is torchvision's ``box_iou``, so the overlaps are equal to the last bit.
    """
    shared, union = _intersection(objects, priors, buffers)
    torch.add(objects.area, priors.area, out=union)
    return shared.div_(union.sub_(shared))


def _covered_share(regions: _Corners, priors: _Corners, buffers: Tensor) -> Tensor:
    """As :func:`_iou`: the share of each prior's area that lies in each region."""
    shared, _ = _intersection(regions, priors, buffers)
    return shared.div_(priors.area.clamp(min=torch.finfo(priors.area.dtype).tiny))


def _intersection(a: _Corners, b: _Corners, buffers: Tensor) -> tuple[Tensor, Tensor]:
    """The shared areas of boxes that broadcast, in the first of the ``buffers`` (3, overlaps), and a spare buffer."""
    shape = np.broadcast_shapes(a.x1.shape, b.x1.shape)
    width, height, other = (buffer[: math.prod(shape)].view(shape) for buffer in buffers.unbind())
    torch.minimum(a.x2, b.x2, out=width)
    torch.maximum(a.x1, b.x1, out=other)
    width.sub_(other).clamp_(min=0)
    torch.minimum(a.y2, b.y2, out=height)
    torch.maximum(a.y1, b.y1, out=other)
    height.sub_(other).clamp_(min=0)
    return width.mul_(height), height


def in_ignored_region(priors: Tensor, targets: Targets) -> Tensor:
    """(B, A) bool: at least half of the prior lies in one region of ``targets.ignore``. No device sync."""
    regions = torch.where(targets.ignore[..., None], targets.boxes, targets.boxes.new_zeros(()))
    priors, regions = finite_areas(priors.float()), finite_areas(regions.float())
    b, g = regions.shape[:2]
    count = priors.shape[-2]
    chunk = max(1, min(count, prior_chunk(priors.device, b * g)))
    columns = (priors if priors.dim() == 3 else priors[None]).transpose(1, 2).contiguous()
    area = _area(columns)
    corners = _object_corners(regions)
    buffers = regions.new_empty(3, b * g * chunk)
    inside = torch.empty(b, count, dtype=torch.bool, device=priors.device)
    for i in range(0, count, chunk):
        part = _covered_share(corners, _prior_corners(columns[..., i : i + chunk], area[:, i : i + chunk]), buffers)
        torch.ge(part.amax(1), IGNORED_SHARE, out=inside[:, i : i + chunk])
    return inside
