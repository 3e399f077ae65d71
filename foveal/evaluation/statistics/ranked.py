"""What a protocol decided about every detection, and the scores that follow from it where images have weights.

A weight says how often an image counts: 1 for each gives the scores of the evaluation itself, 0 leaves an image out, a
resample of a bootstrap has whole numbers. Detections are matched within an image, so weights change no match, only the
counts of hits, of detections and of objects; all resamples are scored at once.

Letters: I images, C classes, J images of a class, n detections by descending score, U of them with a match, T
thresholds, A area ranges, R vectors of weights, K numbers, H hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.aliases import Bools, Floats, Ints

GAP = 256  # detections summed at once
EXACT = 8000  # objects of a class up to which single precision decides every recall as double precision does

Weights = NDArray[Any]  # (J, R) float32 or float64


@dataclass(frozen=True)
class Column:
    """A number of a protocol: average precision, or with a ``limit`` recall (the mean over thresholds)."""

    name: str
    area: int = 0
    threshold: int | None = None  # None: the mean over all
    limit: int | None = None  # detections of an image and class


@dataclass(frozen=True, eq=False)
class Rule:
    """How a protocol makes its numbers from hits."""

    columns: tuple[Column, ...]  # K; those named first are also shown for every class
    class_names: tuple[str, ...]  # their names there
    recalls: Floats | None  # precision is averaged at these; None: area under the curve


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """The decisions of a protocol on detections by (class, descending score)."""

    rule: Rule
    classes: tuple[str, ...]
    images: int
    image: Ints  # (n,)
    first: Ints  # (C + 1,) where the detections of each class begin, and n
    inside: Bools  # (A, n) counts where it is not matched
    at: Ints  # (U,) ascending index into the n of those that may be matched
    rank: Ints  # (U,) within its image and class
    matched: Bools  # (T, A, U)
    ignored: Bools  # (T, A, U) matched, but to an object that does not count
    object_image: Ints  # (G,)
    object_label: Ints  # (G,)
    object_counts: Bools  # (A, G)


@dataclass(frozen=True, eq=False)
class ClassPart:
    """The detections and objects of one class; images are counted within the ``images`` that hold any."""

    images: Ints  # (J,)
    image: Ints  # (n,) index into ``images``
    inside: Bools  # (A, n)
    at: Ints  # (U,)
    hit: Bools  # (T, A, U)
    change: NDArray[np.int8]  # (T, A, U) what the match adds to the count of detections: 1, 0 or -1
    objects: Floats  # (A, J)
    hits: Floats  # (K, J) hits over all thresholds, for the columns of recall


def class_parts(ranked: RankedDetections) -> Iterator[ClassPart]:
    """The parts of all classes, in order."""
    by_label = np.argsort(ranked.object_label, kind="stable")
    bounds = np.searchsorted(ranked.object_label[by_label], np.arange(len(ranked.classes) + 1))
    for label in range(len(ranked.classes)):
        low, high = ranked.first[label : label + 2]
        u = slice(*np.searchsorted(ranked.at, [low, high]))
        objects = by_label[bounds[label] : bounds[label + 1]]
        image, owner = ranked.image[low:high], ranked.object_image[objects]
        images = np.unique(np.concatenate([image, owner]))
        at = ranked.at[u] - low
        image, owner = np.searchsorted(images, image), np.searchsorted(images, owner)
        matched, inside = ranked.matched[:, :, u], ranked.inside[:, low:high]
        hit = matched & ~ranked.ignored[:, :, u]
        counts = [np.bincount(owner[c], minlength=len(images)) for c in ranked.object_counts[:, objects]]
        yield ClassPart(
            images,
            image,
            inside,
            at,
            hit,
            hit.view(np.int8) - (matched & inside[:, at]).view(np.int8),
            np.stack(counts).astype(np.float64),
            np.stack([_hits(hit, image[at], ranked.rank[u], column, len(images)) for column in ranked.rule.columns]),
        )


def _hits(hit: Bools, image: Ints, rank: Ints, column: Column, images: int) -> Floats:
    """(J,) hits of a column of recall; zeros for one of precision."""
    if column.limit is None:
        return np.zeros(images)
    counted = hit[:, column.area] & (rank < column.limit)
    return np.bincount(image, weights=counted.sum(0), minlength=images).astype(np.float64)


def weighted_scores(part: ClassPart, rule: Rule, weights: Weights) -> Weights:
    """The numbers (K, R) of a class whose images have ``weights`` (J, R), of whole numbers; NaN without objects.

    In single precision where the weights are, and the class has few enough objects for exact counts.
    """
    if part.objects.sum(1).max() > EXACT:
        weights = weights.astype(np.float64)
    total = part.objects.astype(weights.dtype) @ weights  # (A, R)
    ap: dict[int, Weights] = {}
    out = np.empty((len(rule.columns), weights.shape[1]), weights.dtype)
    for k, column in enumerate(rule.columns):
        objects = total[column.area]
        if column.limit is None:
            if column.area not in ap:
                ap[column.area] = _average_precision(part, column.area, objects, weights, rule.recalls)
            values = ap[column.area]
            out[k] = values.mean(0) if column.threshold is None else values[column.threshold]
        else:
            out[k] = part.hits[k].astype(weights.dtype) @ weights / (np.maximum(objects, 1) * len(part.hit))
        out[k, objects == 0] = np.nan
    return out


def _average_precision(
    part: ClassPart, area: int, objects: Weights, weights: Weights, recalls: Floats | None
) -> Weights:
    """AP (T, R) of a class in one area range; ``objects`` (R,) of weighted objects."""
    hit = part.hit[:, area]
    used = np.flatnonzero(hit.any(0))
    out = np.zeros((len(hit), weights.shape[1]), weights.dtype)
    if not len(used):
        return out
    image = part.image[part.at]
    counted = _counted(part.image, part.inside[area], part.at[used], weights)
    for t, hit_t in enumerate(hit):
        rows = np.flatnonzero(hit_t[used])
        if not len(rows):
            continue
        hits = running_sum(weights[image[used[rows]]])  # (H, R)
        precision = counted[rows]
        changed = np.flatnonzero(part.change[t, area])
        if len(changed):
            change = running_sum(weights[image[changed]] * part.change[t, area, changed, None].astype(weights.dtype))
            before = np.searchsorted(changed, used[rows], side="right")
            late = before > 0
            precision[late] += change[before[late] - 1]
        np.divide(hits, np.maximum(precision, 1, out=precision), out=precision)
        gain = _gain(hits, objects, recalls)
        out[t] = np.einsum("hr,hr->r", running_max_backwards(precision), gain)
    return out if recalls is None else out / len(recalls)


def _counted(image: Ints, inside: Bools, at: Ints, weights: Weights) -> Weights:
    """(H, R) the weighted number of detections ``inside`` (n,) from the first to each of ``at`` (H,)."""
    rows = np.flatnonzero(inside)
    image = image[rows]
    out = np.empty((len(at), weights.shape[1]), weights.dtype)
    so_far, begin = np.zeros(weights.shape[1], weights.dtype), 0
    for k, end in enumerate(np.searchsorted(rows, at, side="right").tolist()):
        while begin < end:
            stop = min(end, begin + GAP)
            so_far += weights[image[begin]] if stop == begin + 1 else weights[image[begin:stop]].sum(0)
            begin = stop
        out[k] = so_far
    return out


def _gain(hits: Weights, objects: Weights, recalls: Floats | None) -> Weights:
    """(H, R) what each hit adds: the number of recalls that it is the first to reach, or the recall itself.

    The first hit reaches recall 0. ``hits`` (H, R) so far, of ``objects`` (R,); overwritten.
    """
    if recalls is None:
        level = np.divide(hits, np.maximum(objects, 1), out=hits)
        level[1:] -= level[:-1].copy()
        return level
    steps = len(recalls) - 1
    level = hits * (steps / np.maximum(objects, 1)).astype(hits.dtype)
    level += 1e-9 if hits.dtype == np.float64 else 3e-5
    np.floor(level, out=level)
    # where hits / objects is a recall exactly, the protocol's own float of it may lie above
    late = recalls > np.arange(steps + 1) / steps
    numbers = np.flatnonzero(late)
    exact = np.flatnonzero((objects.astype(np.int64)[:, None] * numbers % steps == 0).any(1))
    if len(exact):
        reached = level[:, exact]
        level[:, exact] -= late[reached.astype(np.int64)] & (hits[:, exact] * steps == reached * objects[exact])
    level[1:] -= level[:-1].copy()
    level[0] += 1
    return np.asarray(level)


# --------------------------------------------------------------------------------------------- array helpers
def running_sum(values: Weights) -> Weights:
    """The sums down the columns (n, R), in place. A loop over rows is several times faster than ``np.cumsum``."""
    if values.shape[1] < 64:
        return np.cumsum(values, axis=0, out=values)
    rows = list(values)
    for above, row in pairwise(rows):
        np.add(row, above, out=row)
    return values


def running_max_backwards(values: Weights) -> Weights:
    """The largest value from each row (n, R) to the last, in place."""
    if values.shape[1] < 64:
        return np.maximum.accumulate(values[::-1], axis=0)[::-1]
    rows = list(values[::-1])
    for below, row in pairwise(rows):
        np.maximum(row, below, out=row)
    return values
