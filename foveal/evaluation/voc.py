"""PASCAL VOC average precision, 2007 (eleven points) and 2010 (area under the curve).

Source: VOCdevkit ``VOCevaldet.m``, ``VOCap.m``. A detection is compared only with the object of its class and image
that it overlaps most, matched already or not (no second choice). So the hit of an object is simply the first detection,
by score, whose best object it is, and no loop over detections is needed. Later ones are misses. A detection whose best
object is ``difficult`` (or a crowd) is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..files.aliases import Bools, Floats, Ints
from .curves import HIT, MISS, NEITHER, Outcomes
from .matching import MatchTable, match_table, rank_detections, starts
from .statistics.ranked import Column, RankedDetections, Rule
from .tables import DetectionTable, GroundTruth

# the devkit's own thresholds; some lie above the decimal number (0.1 * 3 = 0.30000000000000004), which changes AP
ELEVEN = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True)
class Voc:
    """The PASCAL VOC protocol."""

    metric: Literal["11-point", "area"] = "11-point"
    iou: float = 0.5  # a hit at this IoU
    strict: bool = False  # only above it (py-faster-rcnn and its heirs)
    plus_one: bool = False  # width = x2 - x1 + 1: for boxes with 1-based or inclusive corners

    @property
    def name(self) -> str:
        return "voc07" if self.metric == "11-point" else "voc10"

    def __str__(self) -> str:
        form = "11-point AP" if self.metric == "11-point" else "area under the PR curve"
        sign = ">" if self.strict else ">="
        pixels = ", width = x2 - x1 + 1" if self.plus_one else ""
        return f"PASCAL VOC, {form}, hit at IoU {sign} {self.iou:g}{pixels}, difficult objects neither hit nor miss"


@dataclass(frozen=True, eq=False)
class VocNumbers:
    """AP of every class, and what it is computed from."""

    ap: Floats  # (C,) NaN without objects
    outcomes: Outcomes
    table: MatchTable
    ranked: RankedDetections
    found: Bools  # (G,) objects that are hit, in the order of ``GroundTruth.scored``


def score_voc(truth: GroundTruth, detections: DetectionTable, protocol: Voc) -> VocNumbers:
    """AP of every class. Ties in the score are broken by the order of ``detections``."""
    truth = truth.scored()
    table = match_table(truth, detections, floor=protocol.iou, crowd=False, plus_one=protocol.plus_one)
    order = rank_detections(detections, len(truth.classes)).order
    out = truth.difficult | truth.crowd

    rows, objects = _best(table, strict=protocol.strict)
    outcome = np.full(len(detections), MISS, np.int8)
    outcome[rows[out[objects]]] = NEITHER
    position = np.empty(len(detections), np.int64)
    position[order] = np.arange(len(detections))
    counts = ~out[objects]
    rows, objects = rows[counts], objects[counts]
    by_score = np.argsort(position[rows])
    _, first = np.unique(objects[by_score], return_index=True)
    outcome[rows[by_score[first]]] = HIT
    found = np.zeros(len(truth), bool)
    found[objects] = True

    positives = np.bincount(truth.label[~out], minlength=len(truth.classes))
    outcomes = Outcomes(
        order, detections.label[order], detections.score[order], outcome[order], positives, protocol.iou
    )
    ap = np.array([class_ap(outcomes, k, protocol.metric) for k in range(len(truth.classes))])
    return VocNumbers(ap, outcomes, table, _ranked(truth, detections, outcomes, protocol), found)


def _ranked(truth: GroundTruth, detections: DetectionTable, outcomes: Outcomes, protocol: Voc) -> RankedDetections:
    at = np.flatnonzero(outcomes.outcome != MISS)
    out = outcomes.outcome[at] == NEITHER
    return RankedDetections(
        rule=Rule((Column("mAP"),), ("AP",), ELEVEN if protocol.metric == "11-point" else None),
        classes=truth.classes,
        images=len(truth.images),
        image=detections.image[outcomes.rows],
        first=np.searchsorted(outcomes.label, np.arange(len(truth.classes) + 1)),
        inside=np.ones((1, len(outcomes.rows)), bool),
        at=at,
        rank=np.zeros(len(at), np.int64),
        matched=np.ones((1, 1, len(at)), bool),
        ignored=out[None, None],
        object_image=truth.image,
        object_label=truth.label,
        object_counts=~(truth.difficult | truth.crowd)[None],
    )


def class_ap(outcomes: Outcomes, label: int, metric: str) -> float:
    """AP of one class, NaN if it has no object that counts."""
    objects = int(outcomes.objects[label])
    if not objects:
        return float("nan")
    part = outcomes.outcome[outcomes.of_class(label)]
    hit = np.flatnonzero(part == HIT)
    so_far = np.cumsum(part != NEITHER)[hit]
    hits = np.arange(1, len(hit) + 1)
    # the running maximum from the right is reached at hits, so only those rows are needed
    precision = np.append(np.maximum.accumulate((hits / so_far)[::-1])[::-1], 0.0)
    if metric == "area":
        return float((precision[:-1] / objects).sum())
    return float(precision[np.searchsorted(hits / objects, ELEVEN)].sum() / 11.0)


def _best(table: MatchTable, *, strict: bool) -> tuple[Ints, Ints]:
    """The detections (R,) that reach the threshold, and the object (R,) each overlaps most, the first of equals."""
    first = starts(table.detection)
    if not len(first):
        return table.detection, table.object
    count = np.diff(np.append(first, len(table)))
    best = np.maximum.reduceat(table.iou, first)
    index = np.where(table.iou == np.repeat(best, count), np.arange(len(table)), len(table))
    at = np.minimum.reduceat(index, first)
    hit = best > table.floor if strict else best >= table.floor
    return table.detection[first][hit], table.object[at[hit]]
