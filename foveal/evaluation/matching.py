"""The match table: the overlapping pairs of detections and objects, with their IoU. Every protocol is based on it.

Nothing here loops over images, objects or detections. Three facts make that possible: only pairs of the same image
and class above an IoU floor can ever match, and these are few; greedy matching is independent between (image, class)
groups, so the k-th detection of all groups is matched in one step, for all IoU thresholds and area ranges at once;
stable sorts of small integers are cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.aliases import Bools, Floats, Ints
from ..masks.rle import ranges
from .masks import RUNS, MaskIntersection
from .tables import DetectionTable, GroundTruth

CHUNK = 1 << 17  # pairs processed at once: their arrays fit the cache, memory stays bounded


@dataclass(frozen=True, eq=False)
class MatchTable:
    """P pairs of the same image (and class) with IoU at or above ``floor``.

    The pairs of a detection are neighbors; detections come in the order of ``DetectionTable``, the objects of one
    detection in the order of (class, ``GroundTruth``).
    """

    detection: Ints  # (P,) row of DetectionTable
    object: Ints  # (P,) row of GroundTruth
    iou: Floats  # (P,) for a crowd, on request: intersection over the detection's area
    floor: float

    def __len__(self) -> int:
        return len(self.iou)


def match_table(
    truth: GroundTruth,
    detections: DetectionTable,
    *,
    floor: float = 0.5,
    by_class: bool = True,
    crowd: bool = True,
    plus_one: bool = False,
) -> MatchTable:
    """All pairs of boxes with an IoU of at least ``floor``.

    ``by_class=False`` pairs detections with objects of any class (proposals, diagnosis). ``crowd``: the intersection
    with a crowd is divided by the detection's area alone (COCO). ``plus_one``: a box that ends at x2 covers pixel x2,
    so width = x2 - x1 + 1 (the pixel convention of the VOC devkit on its own 1-based boxes).
    """
    order, rows, begin, count = _groups(truth, detections, by_class)
    pixel = 1.0 if plus_one else 0.0
    area_d = _area(detections.box, pixel) if plus_one else detections.pixels()
    area_g = _area(truth.box, pixel) if plus_one else truth.pixels()
    box_g, area_g, crowd_g = truth.box[order], area_g[order], truth.crowd[order] & crowd
    parts: list[tuple[Ints, Ints, Floats]] = []
    for part in chunks(count, CHUNK):
        n = count[part]
        d = np.repeat(rows[part], n)
        g = ranges(begin[part], n)
        a, b = detections.box[d], box_g[g]
        w = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + pixel
        h = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + pixel
        near = np.flatnonzero((w > 0) & (h > 0))
        d, g, intersection = d[near], g[near], w[near] * h[near]
        union = np.where(crowd_g[g], area_d[d], area_d[d] + area_g[g] - intersection)
        iou = intersection / union
        keep = iou >= floor
        parts.append((d[keep], order[g[keep]], iou[keep]))
    return _joined(parts, floor)


def mask_table(truth: GroundTruth, detections: DetectionTable, *, floor: float = 0.5) -> MatchTable:
    """All pairs of masks of one class with an IoU of at least ``floor``; crowds as in COCO. Both must have masks."""
    assert truth.masks is not None and detections.masks is not None
    order, rows, begin, count = _groups(truth, detections, by_class=True)
    intersection, area_d, area_g = MaskIntersection(truth.masks), detections.masks.area(), truth.masks.area()
    extent_d, extent_g = detections.masks.extent, truth.masks.extent
    runs = np.diff(detections.masks.starts)
    parts: list[tuple[Ints, Ints, Floats]] = []
    for part in chunks(count, CHUNK):
        n = count[part]
        d, g = np.repeat(rows[part], n), order[ranges(begin[part], n)]
        a, b = extent_d[d], extent_g[g]
        intersects = (np.minimum(a[:, 2:], b[:, 2:]) > np.maximum(a[:, :2], b[:, :2])).all(1)
        d, g = d[intersects], g[intersects]
        for piece in chunks(runs[d], RUNS):
            dp, gp = d[piece], g[piece]
            overlap = intersection(detections.masks, dp, gp)
            union = np.where(truth.crowd[gp], area_d[dp], area_d[dp] + area_g[gp] - overlap)
            iou = overlap / union
            keep = iou >= floor
            parts.append((dp[keep], gp[keep], iou[keep]))
    return _joined(parts, floor)


def _groups(truth: GroundTruth, detections: DetectionTable, by_class: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """The objects that each detection may match, as ranges of the objects sorted by image and class.

    Returns the sorted order of the objects (G,), the detections with any (R,), and for each of these the start of its
    range (R,) and its length (R,).
    """
    c = len(truth.classes)
    order = np.lexsort((truth.label, truth.image))
    key_g = truth.image[order] * c + truth.label[order] if by_class else truth.image[order]
    key_d = detections.image * c + detections.label if by_class else detections.image
    first = starts(key_g)
    if not len(first):
        none = np.zeros(0, np.int64)
        return order, none, none, none
    groups, size = key_g[first], np.diff(np.append(first, len(key_g)))
    slot = np.minimum(np.searchsorted(groups, key_d), len(groups) - 1)
    rows = np.flatnonzero(groups[slot] == key_d)
    return order, rows, first[slot[rows]], size[slot[rows]]


def _joined(parts: list[tuple[Ints, Ints, Floats]], floor: float) -> MatchTable:
    """The pairs of all chunks (detection, object, IoU) as one table."""
    none = np.zeros(0, np.int64)
    detection = np.concatenate([none, *(p[0] for p in parts)])
    objects = np.concatenate([none, *(p[1] for p in parts)])
    return MatchTable(detection, objects, np.concatenate([np.zeros(0), *(p[2] for p in parts)]), floor)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Detections by descending score."""

    order: Ints  # (N,) rows of DetectionTable by (class, descending score, tie)
    rank: Ints  # (N,) rank of each row of DetectionTable within its image and class, from 0
    group: Ints  # (N,) index of the image and class of each row


def rank_detections(detections: DetectionTable, classes: int, image_rank: Ints | None = None) -> Ranking:
    """Ranks detections by descending score; ``classes`` is the number of classes.

    Ties are broken by ``image_rank`` (I,), where it is given (as in pycocotools), then by the order of ``detections``.
    """
    tie = np.zeros(0, np.int64) if image_rank is None else image_rank[detections.image]
    if (tie[1:] < tie[:-1]).any():
        base = np.argsort(tie, kind="stable")
        order = base[descending_order(detections.score[base])]
    else:
        order = descending_order(detections.score)
    order = order[np.argsort(_small(detections.label[order]), kind="stable")]
    grouped = order[np.argsort(_small(detections.image[order]), kind="stable")]  # by (image, class, descending score)
    group = detections.image * classes + detections.label
    rank = np.empty(len(detections), np.int64)
    rank[grouped] = rank_in_group(group[grouped])
    return Ranking(order, rank, group)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which of the U detections with any pair are matched, at T thresholds and in A area ranges."""

    rows: Ints  # (U,) rows of DetectionTable
    matched: Bools  # (U, T, A)
    ignored: Bools  # (U, T, A): matched, but to an object that does not count
    used: Bools  # (G, T, A): objects that are matched


def assign(table: MatchTable, ranking: Ranking, thresholds: Floats, ignored: Bools, crowd: Bools) -> Assignment:
    """COCO's greedy matching: by descending score each detection takes the unmatched object with the largest IoU, the
    last of equals; objects that count (``ignored`` (G, A) False) go first; a crowd (``crowd`` (G,)) matches any number.

    Source: cocoapi, ``COCOeval.evaluateImg``.
    """
    first = starts(table.detection)
    rows = table.detection[first]
    count = np.diff(np.append(first, len(table)))
    by_rank = np.lexsort((ranking.rank[rows], ranking.group[rows]))
    step = np.empty(len(rows), np.int64)
    step[by_rank] = rank_in_group(ranking.group[rows][by_rank])

    shape = len(thresholds), ignored.shape[1]
    used = np.zeros((len(ignored), *shape), bool)
    matched, out = np.zeros((len(rows), *shape), bool), np.zeros((len(rows), *shape), bool)
    by_step = np.argsort(step, kind="stable")
    bounds = np.searchsorted(step[by_step], np.arange(step.max(initial=-1) + 2))
    for k in range(len(bounds) - 1):  # the k-th detection of every group
        u = by_step[bounds[k] : bounds[k + 1]]
        single = count[u] == 1  # most detections overlap one object: no choice to make
        one, u = u[single], u[~single]
        g = table.object[first[one]]
        hit = _free(table.iou[first[one]], thresholds, used[g], crowd[g])
        used[g] |= hit
        matched[one] = hit
        out[one] = hit & ignored[g, None, :]
        if not len(u):
            continue
        n = count[u]
        pairs, begin = ranges(first[u], n), np.cumsum(n) - n
        g, iou = table.object[pairs], table.iou[pairs]
        priority = (iou[:, None] + 2.0 * ~ignored[g])[:, None, :]
        value = np.where(_free(iou, thresholds, used[g], crowd[g]), priority, -1.0)  # (pairs, T, A)
        best = np.maximum.reduceat(value, begin, axis=0)
        candidates = np.where(value == np.repeat(best, n, axis=0), np.arange(len(pairs))[:, None, None], -1)
        at = np.maximum.reduceat(candidates, begin, axis=0)
        ui, ti, ai = np.nonzero(best > 0)
        objects = g[at[ui, ti, ai]]
        used[objects, ti, ai] = True
        matched[u[ui], ti, ai] = True
        out[u[ui], ti, ai] = ignored[objects, ai]
    return Assignment(rows, matched, out, used)


def _free(iou: Floats, thresholds: Floats, used: Bools, crowd: Bools) -> Bools:
    """Whether each pair may match (n, T, A): its IoU (n,) reaches the threshold (T,) and its object is unmatched
    (``used`` (n, T, A) False) or a crowd (n,).
    """
    return (iou[:, None] >= thresholds)[:, :, None] & (~used | crowd[:, None, None])


# --------------------------------------------------------------------------------------------- array helpers
def descending_order(values: Floats) -> Ints:
    """The stable order (n,) of descending values (n,); half the time of NumPy's stable sort of floats."""
    order = np.argsort(-values)
    run = np.cumsum(np.append(False, values[order[1:]] != values[order[:-1]])[: len(order)]) * len(order)
    return np.asarray(np.sort(order + run) - run)  # equal values keep their order


def starts(sorted_keys: Ints) -> Ints:
    """The index where each run of equal values starts: (n,) -> (groups,)."""
    if not len(sorted_keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1]))


def rank_in_group(sorted_keys: Ints) -> Ints:
    """0, 1, 2, ... within each run of equal values: (n,) -> (n,)."""
    first = starts(sorted_keys)
    return np.arange(len(sorted_keys)) - np.repeat(first, np.diff(np.append(first, len(sorted_keys))))


def chunks(count: Ints, limit: int) -> Iterator[slice]:
    """Slices of ``count`` that sum to about ``limit`` each, at least one entry in each."""
    total = np.cumsum(count)
    at = 0
    while at < len(count):
        done = int(total[at - 1]) if at else 0
        end = max(at + 1, int(np.searchsorted(total, done + limit, side="right")))
        yield slice(at, end)
        at = end


def running_max_from_right(values: Floats, segment: Ints) -> Floats:
    """The largest value from each index to the end of its segment: (n,), exact, in log2(longest segment) passes."""
    out = values.copy()
    longest = int(np.diff(np.append(starts(segment), len(segment))).max(initial=0))
    shift = 1
    while shift < longest:
        same = segment[shift:] == segment[:-shift]
        ahead = np.where(same, out[shift:], out[:-shift])
        out[:-shift] = np.maximum(out[:-shift], ahead)
        shift *= 2
    return out


def _small(values: Ints) -> NDArray[Any]:
    """NumPy sorts 16-bit integers stably by radix, ten times faster than wide ones."""
    return values.astype(np.uint16) if values.max(initial=0) < 1 << 16 else values


def _area(box: Floats, pixel: float) -> Floats:
    """Areas (n,) of boxes (n, 4) whose sides are longer by ``pixel``."""
    return np.asarray((box[:, 2] - box[:, 0] + pixel) * (box[:, 3] - box[:, 1] + pixel))
