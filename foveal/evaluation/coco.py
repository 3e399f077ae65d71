"""The twelve COCO metrics, equal to pycocotools'.

Letters: T thresholds, A area ranges, C classes, M detection limits, R recalls, N detections, G objects, U detections
that overlap an object, H hits.

Source: cocoapi, ``COCOeval``. One difference, on purpose: pycocotools takes an annotation with id 0 for "no match";
here an id is only a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError
from ..files.aliases import Bools, Floats, Ints
from .curves import HIT, MISS, NEITHER, Outcomes, mean_defined
from .matching import (
    Assignment,
    MatchTable,
    Ranking,
    assign,
    mask_table,
    match_table,
    rank_detections,
    rank_in_group,
    running_max_from_right,
)
from .statistics.ranked import Column, RankedDetections, Rule
from .tables import DetectionTable, GroundTruth

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.array([[0, 1e5**2], [0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e5**2]])  # all, small, medium, large
ALL, SMALL, MEDIUM, LARGE = range(4)
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Coco:
    """The COCO protocol. The metrics carry COCO's names whatever the limits are."""

    max_dets: tuple[int, ...] = (1, 10, 100)  # three or more: limits on the detections of an image and class

    def __post_init__(self) -> None:
        limits = self.max_dets
        if len(limits) < 3 or limits[0] < 1 or list(limits) != sorted(limits):
            raise UsageError(f"max_dets {limits} must be three or more, positive and ascending")

    @property
    def name(self) -> str:
        return "coco"

    def __str__(self) -> str:
        low, middle, high = self.max_dets[:3]
        return (
            f"COCO, AP averaged over IoU .50:.05:.95 and 101 recalls, at most {high} detections of an image and class "
            f"(AR1, AR10, AR100: {low}, {middle}, {high}), small < 32 x 32 <= medium < 96 x 96 <= large"
        )


@dataclass(frozen=True, eq=False)
class CocoNumbers:
    """Precision and recall by threshold, class and area range; the metrics are means of them."""

    precision: Floats  # (T, R, C, A) at the largest limit; NaN where a class has no object
    recall: Floats  # (T, C, A, M) NaN likewise
    outcomes: Outcomes  # at IoU .5, all areas
    table: MatchTable
    ranked: RankedDetections
    found: Bools  # (G,) objects matched at IoU .5, in the order of ``GroundTruth.scored``

    def twelve(self) -> dict[str, float | None]:
        """By name, in COCO's order; ``None`` where undefined."""
        p, r = self.precision, self.recall
        values = [p[..., ALL], p[0, ..., ALL], p[5, ..., ALL], p[..., SMALL], p[..., MEDIUM], p[..., LARGE]]
        values += [r[..., ALL, m] for m in range(3)] + [r[..., a, 2] for a in (SMALL, MEDIUM, LARGE)]
        return dict(zip(NUMBERS, map(mean_defined, values), strict=True))

    def class_ap(self, label: int) -> dict[str, float | None]:
        """AP and AP50 of one class."""
        p = self.precision[:, :, label, ALL]
        return {"AP": mean_defined(p), "AP50": mean_defined(p[0])}


def score_coco(truth: GroundTruth, detections: DetectionTable, protocol: Coco, *, masks: bool = False) -> CocoNumbers:
    """Precision and recall of every class, threshold and area range.

    ``masks``: score the masks instead of the boxes. A detection's area is then that of its mask, and objects without
    a mask in the file are left out. ``difficult`` objects are ignored like objects outside an area range: a detection
    may match one, once, and counts neither way.
    """
    truth = truth.scored()
    if masks:
        assert truth.drawn is not None and detections.masks is not None
        truth = truth[truth.drawn]
        detections = replace(detections, area=detections.masks.area().astype(np.float64))
        table = mask_table(truth, detections, floor=float(THRESHOLDS[0]))
    else:
        table = match_table(truth, detections, floor=float(THRESHOLDS[0]))
    ranking = rank_detections(detections, len(truth.classes), truth.image_rank())
    within_limit = ranking.rank < protocol.max_dets[-1]
    matched_in_limit = within_limit[table.detection]
    limited = MatchTable(
        table.detection[matched_in_limit], table.object[matched_in_limit], table.iou[matched_in_limit], table.floor
    )

    outside = (truth.area[:, None] < AREAS[:, 0]) | (truth.area[:, None] > AREAS[:, 1])
    ignored = outside | (truth.crowd | truth.difficult)[:, None]  # (G, A)
    c = len(truth.classes)
    objects = np.stack([np.bincount(truth.label[~ignored[:, a]], minlength=c) for a in range(len(AREAS))])  # (A, C)
    assignment = assign(limited, ranking, THRESHOLDS, ignored, truth.crowd)
    order = ranking.order[within_limit[ranking.order]]
    ranked = _ranked(truth, detections, order, ranking, assignment, ignored, protocol)
    hits = _hits(ranked)
    return CocoNumbers(
        _precision(hits, objects),
        _recall(hits, objects, protocol.max_dets),
        _outcomes(detections, order, assignment, objects[ALL]),
        table,
        ranked,
        assignment.used[:, 0, ALL],
    )


def _ranked(
    truth: GroundTruth,
    detections: DetectionTable,
    order: Ints,
    ranking: Ranking,
    assignment: Assignment,
    ignored: Bools,
    protocol: Coco,
) -> RankedDetections:
    """``order`` (n,): detections by (class, descending score)."""
    area = detections.range_area()[order]
    position = np.empty(len(detections), np.int64)
    position[order] = np.arange(len(order))
    at = position[assignment.rows]
    by_position = np.argsort(at)
    rows = assignment.rows[by_position]
    matched, out = (
        np.ascontiguousarray(x[by_position].transpose(1, 2, 0)) for x in (assignment.matched, assignment.ignored)
    )
    return RankedDetections(
        rule=_rule(protocol.max_dets),
        classes=truth.classes,
        images=len(truth.images),
        image=detections.image[order],
        first=np.searchsorted(detections.label[order], np.arange(len(truth.classes) + 1)),
        inside=~((area < AREAS[:, :1]) | (area > AREAS[:, 1:])),
        at=at[by_position],
        rank=ranking.rank[rows],
        matched=matched,
        ignored=out,
        object_image=truth.image,
        object_label=truth.label,
        object_counts=~ignored.T,
    )


def _rule(max_dets: tuple[int, ...]) -> Rule:
    """The columns of the twelve numbers, in their order."""
    precision: list[tuple[int, int | None]] = [
        (ALL, None),
        (ALL, 0),
        (ALL, 5),
        (SMALL, None),
        (MEDIUM, None),
        (LARGE, None),
    ]
    recall = [*((ALL, m) for m in max_dets[:3]), *((a, max_dets[2]) for a in (SMALL, MEDIUM, LARGE))]
    columns = [Column(name, area, threshold) for name, (area, threshold) in zip(NUMBERS, precision, strict=False)]
    columns += [Column(name, area, limit=limit) for name, (area, limit) in zip(NUMBERS[6:], recall, strict=True)]
    return Rule(tuple(columns), ("AP", "AP50"), RECALLS)


@dataclass(frozen=True, eq=False)
class _Hits:
    """All hits at all thresholds and in all area ranges, by (threshold, area, class, descending score)."""

    segment: Ints  # (H,) (t * A + a) * C + class
    rank: Ints  # (H,) within image and class
    number: Ints  # (H,) hits of the segment so far, from 1
    counted: Ints  # (H,) detections of the segment so far that count


def _hits(ranked: RankedDetections) -> _Hits:
    """The hits (H,) of all thresholds and area ranges.

    The running maximum of precision changes only at hits, so nothing else is stored.
    """
    inside, at, matched = ranked.inside, ranked.at, ranked.matched
    base = np.zeros((len(AREAS), inside.shape[1] + 1), np.int32)
    np.cumsum(inside, axis=1, out=base[:, 1:])
    hit = matched & ~ranked.ignored  # (T, A, U)
    # a detection outside the area range counts if it matched an object inside, and vice versa
    change = np.zeros((*hit.shape[:2], len(at) + 1), np.int32)
    np.cumsum(hit.view(np.int8) - (matched & inside[:, at]).view(np.int8), axis=2, out=change[:, :, 1:])

    t, a, u = np.nonzero(hit)
    label = np.searchsorted(ranked.first, at, side="right") - 1
    first = np.searchsorted(at, ranked.first)[label[u]]
    before = ranked.first[label[u]]
    counted = base[a, at[u] + 1] - base[a, before] + change[t, a, u + 1] - change[t, a, first]
    segment = (t * len(AREAS) + a) * len(ranked.classes) + label[u]
    return _Hits(segment, ranked.rank[u], rank_in_group(segment) + 1, counted)


def _precision(hits: _Hits, objects: Ints) -> Floats:
    """Precision (T, R, C, A) at each recall; NaN for classes without objects. ``objects`` (A, C): their counts."""
    shape = len(THRESHOLDS), *objects.shape
    begin = np.searchsorted(hits.segment, np.arange(np.prod(shape) + 1)).reshape(-1)
    length = np.diff(begin).reshape(shape)[..., None]
    precision = running_max_from_right(hits.number / (hits.counted + np.spacing(1)), hits.segment)
    need = np.maximum(_hits_needed(objects), 1)  # (A, C, R)
    reached = need <= length  # (T, A, C, R)
    index = np.where(reached, begin[:-1].reshape(shape)[..., None] + need - 1, 0)
    values = np.where(reached, np.append(precision, 0.0)[index], 0.0)
    values[:, objects == 0] = np.nan
    return values.transpose(0, 3, 2, 1)


def _hits_needed(objects: Ints) -> Ints:
    """The smallest number of hits (A, C, R) that reaches each recall, of ``objects`` (A, C).

    It is the smallest n with n / objects >= recall in floating point, as a search over n / objects finds it.
    """
    total = np.maximum(objects, 1)[..., None]
    n = np.ceil(RECALLS * total).astype(np.int64)
    n = np.where((n > 0) & ((n - 1) / total >= RECALLS), n - 1, n)
    return np.where(n / total < RECALLS, n + 1, n)


def _recall(hits: _Hits, objects: Ints, max_dets: tuple[int, ...]) -> Floats:
    """Recall (T, C, A, M); ``objects`` (A, C)."""
    shape = len(THRESHOLDS), *objects.shape
    size = int(np.prod(shape))
    hit_counts = np.stack([np.bincount(hits.segment[hits.rank < m], minlength=size) for m in max_dets], -1).reshape(
        *shape, -1
    )
    recall = hit_counts / np.where(objects == 0, np.nan, objects)[..., None]
    return np.asarray(recall.transpose(0, 2, 1, 3))


def _outcomes(detections: DetectionTable, order: Ints, assignment: Assignment, objects: Ints) -> Outcomes:
    """The outcome of the scored detections ``order`` (n,) at IoU .5 over all areas. ``objects`` (C,)."""
    area = detections.range_area()
    outcome = np.where((area < AREAS[ALL, 0]) | (area > AREAS[ALL, 1]), NEITHER, MISS).astype(np.int8)
    hit, out = assignment.matched[:, 0, ALL], assignment.ignored[:, 0, ALL]
    outcome[assignment.rows[hit]] = np.where(out[hit], NEITHER, HIT)
    return Outcomes(
        order, detections.label[order], detections.score[order], outcome[order], objects, float(THRESHOLDS[0])
    )
