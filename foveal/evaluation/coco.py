"""The twelve COCO numbers, equal to pycocotools'. Letters: T thresholds, A area ranges, M detection limits, R recalls.

Source: cocoapi, ``COCOeval``. One difference, on purpose: pycocotools takes an annotation with id 0 for "no match";
here an id is only a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError
from ..files.aliases import Floats, Ints
from .curves import HIT, MISS, NEITHER, Outcomes, mean_defined
from .matching import (
    Assignment,
    MatchTable,
    assign,
    mask_table,
    match_table,
    place_in_group,
    rank_detections,
    running_max_from_right,
)
from .tables import DetectionTable, GroundTruth

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.array([[0, 1e5**2], [0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e5**2]])  # all, small, medium, large
ALL, SMALL, MEDIUM, LARGE = range(4)
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Coco:
    """How to score. The numbers carry COCO's names whatever the limits are."""

    max_dets: tuple[int, ...] = (1, 10, 100)  # three or more: detections of an image and class that are looked at

    def __post_init__(self) -> None:
        limits = self.max_dets
        if len(limits) < 3 or limits[0] < 1 or list(limits) != sorted(limits):
            raise UsageError(f"max_dets {limits} must be three or more, positive and rising")

    @property
    def name(self) -> str:
        return "coco"

    def __str__(self) -> str:
        few, some, most = self.max_dets[:3]
        return (
            f"COCO, AP averaged over IoU .50:.05:.95 and 101 recalls, at most {most} detections of an image and class "
            f"(AR1, AR10, AR100: {few}, {some}, {most}), small < 32 x 32 <= medium < 96 x 96 <= large"
        )


@dataclass(frozen=True, eq=False)
class CocoNumbers:
    precision: Floats  # (T, R, C, A) at the largest limit; NaN where a class has no object
    recall: Floats  # (T, C, A, M) NaN likewise
    verdicts: Outcomes  # at IoU .5, all areas
    table: MatchTable

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


def score_coco(truth: GroundTruth, found: DetectionTable, protocol: Coco, *, masks: bool = False) -> CocoNumbers:
    """Precision and recall of every class, threshold and area range; of ``masks`` in place of boxes where asked for.

    A detection's area is then that of its mask, and objects without one in the file are left out.
    ``difficult`` objects are ignored the way objects outside an area range are: a detection may take one, once, and
    counts neither way.
    """
    truth = truth.scored()
    if masks:
        assert truth.drawn is not None and found.masks is not None
        truth = truth[truth.drawn]
        found = replace(found, box_area=found.masks.area().astype(np.float64))
        table = mask_table(truth, found, floor=float(THRESHOLDS[0]))
    else:
        table = match_table(truth, found, floor=float(THRESHOLDS[0]))
    ranking = rank_detections(found, len(truth.classes), truth.image_rank())
    looked_at = ranking.rank < protocol.max_dets[-1]
    kept = looked_at[table.detection]
    few = MatchTable(table.detection[kept], table.object[kept], table.iou[kept], table.floor)

    outside = (truth.area[:, None] < AREAS[:, 0]) | (truth.area[:, None] > AREAS[:, 1])
    ignored = outside | (truth.crowd | truth.difficult)[:, None]  # (G, A)
    c = len(truth.classes)
    objects = np.stack([np.bincount(truth.label[~ignored[:, a]], minlength=c) for a in range(len(AREAS))])  # (A, C)
    assignment = assign(few, ranking, THRESHOLDS, ignored, truth.crowd)
    order = ranking.order[looked_at[ranking.order]]
    hits = _hits(found, order, assignment, c)
    return CocoNumbers(
        _precision(hits, objects),
        _recall(hits, ranking.rank[hits.row], objects, protocol.max_dets),
        _verdicts(found, order, assignment, objects[ALL]),
        table,
    )


@dataclass(frozen=True, eq=False)
class _Hits:
    """All hits at all thresholds and in all area ranges, by (threshold, area, class, falling score)."""

    segment: Ints  # (H,) (t * A + a) * C + class
    row: Ints  # (H,) row of DetectionTable
    number: Ints  # (H,) hits of the segment so far, from 1
    counted: Ints  # (H,) detections of the segment so far that count


def _hits(found: DetectionTable, order: Ints, assignment: Assignment, classes: int) -> _Hits:
    """Precision changes its running maximum only at hits, so nothing else is kept. ``order``: by class and score."""
    label = found.label[order]
    cut = np.searchsorted(label, np.arange(classes + 1))
    area = found.pixels()[order]
    inside = ~((area < AREAS[:, :1]) | (area > AREAS[:, 1:]))  # (A, n)
    base = np.zeros((len(AREAS), len(order) + 1), np.int32)
    np.cumsum(inside, axis=1, out=base[:, 1:])

    place = np.empty(len(found), np.int64)
    place[order] = np.arange(len(order))
    at = place[assignment.rows]
    by_place = np.argsort(at)
    at, rows = at[by_place], assignment.rows[by_place]
    matched, ignored = (
        np.ascontiguousarray(x[by_place].transpose(1, 2, 0)) for x in (assignment.matched, assignment.ignored)
    )
    hit = matched & ~ignored  # (T, A, U)
    # a detection outside the area range counts if it matched an object inside, and the other way round
    change = np.zeros((*hit.shape[:2], len(rows) + 1), np.int32)
    np.cumsum(hit.view(np.int8) - (matched & inside[:, at]).view(np.int8), axis=2, out=change[:, :, 1:])

    t, a, u = np.nonzero(hit)
    own = label[at]
    first, before = np.searchsorted(own, np.arange(classes + 1))[own[u]], cut[own[u]]
    counted = base[a, at[u] + 1] - base[a, before] + change[t, a, u + 1] - change[t, a, first]
    segment = (t * len(AREAS) + a) * classes + own[u]
    return _Hits(segment, rows[u], place_in_group(segment) + 1, counted)


def _precision(hits: _Hits, objects: Ints) -> Floats:
    """(T, R, C, A) from ``objects`` (A, C)."""
    shape = len(THRESHOLDS), *objects.shape
    begin = np.searchsorted(hits.segment, np.arange(np.prod(shape) + 1)).reshape(-1)
    length = np.diff(begin).reshape(shape)[..., None]
    precision = running_max_from_right(hits.number / (hits.counted + np.spacing(1)), hits.segment)
    need = np.maximum(_hits_needed(objects), 1)  # (A, C, R)
    reached = need <= length  # (T, A, C, R)
    place = np.where(reached, begin[:-1].reshape(shape)[..., None] + need - 1, 0)
    values = np.where(reached, np.append(precision, 0.0)[place], 0.0)
    values[:, objects == 0] = np.nan
    return values.transpose(0, 3, 2, 1)


def _hits_needed(objects: Ints) -> Ints:
    """The least number n with n / objects >= each recall, in floating point as a search over n / objects finds it."""
    total = np.maximum(objects, 1)[..., None]
    n = np.ceil(RECALLS * total).astype(np.int64)
    n = np.where((n > 0) & ((n - 1) / total >= RECALLS), n - 1, n)
    return np.where(n / total < RECALLS, n + 1, n)


def _recall(hits: _Hits, rank: Ints, objects: Ints, max_dets: tuple[int, ...]) -> Floats:
    """(T, C, A, M)."""
    shape = len(THRESHOLDS), *objects.shape
    size = int(np.prod(shape))
    found = np.stack([np.bincount(hits.segment[rank < m], minlength=size) for m in max_dets], -1).reshape(*shape, -1)
    recall = found / np.where(objects == 0, np.nan, objects)[..., None]
    return np.asarray(recall.transpose(0, 2, 1, 3))


def _verdicts(found: DetectionTable, order: Ints, assignment: Assignment, objects: Ints) -> Outcomes:
    """At IoU .5 over all areas."""
    area = found.pixels()
    verdict = np.where((area < AREAS[ALL, 0]) | (area > AREAS[ALL, 1]), NEITHER, MISS).astype(np.int8)
    hit, out = assignment.matched[:, 0, ALL], assignment.ignored[:, 0, ALL]
    verdict[assignment.rows[hit]] = np.where(out[hit], NEITHER, HIT)
    return Outcomes(order, found.label[order], found.score[order], verdict[order], objects, float(THRESHOLDS[0]))
