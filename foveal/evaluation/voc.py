"""PASCAL VOC average precision, 2007 (eleven points) and 2010 (area under the curve).

Source: VOCdevkit ``VOCevaldet.m``, ``VOCap.m``. A detection looks only at the object of its class and image that it
overlaps most, taken or not (no second choice). So the hit of an object is simply the first detection, by score, whose
best object it is, and no loop over detections is needed. Later ones are misses. A detection whose best object is
``difficult`` (or a crowd) is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..files.aliases import Floats, Ints
from .curves import HIT, MISS, NEITHER, Outcomes
from .matching import MatchTable, match_table, rank_detections, starts
from .tables import DetectionTable, GroundTruth

# the devkit's own thresholds; some lie above the decimal number (0.1 * 3 = 0.30000000000000004), and it matters
ELEVEN = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True)
class Voc:
    """How to score."""

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
    ap: Floats  # (C,) NaN without objects
    verdicts: Outcomes
    table: MatchTable


def score_voc(truth: GroundTruth, found: DetectionTable, protocol: Voc) -> VocNumbers:
    """AP of every class. Ties in the score go by the order of ``found``."""
    truth = truth.scored()
    table = match_table(truth, found, floor=protocol.iou, crowd=False, plus_one=protocol.plus_one)
    order = rank_detections(found, len(truth.classes)).order
    out = truth.difficult | truth.crowd

    rows, objects = _best(table, strict=protocol.strict)
    verdict = np.full(len(found), MISS, np.int8)
    verdict[rows[out[objects]]] = NEITHER
    place = np.empty(len(found), np.int64)
    place[order] = np.arange(len(found))
    counts = ~out[objects]
    rows, objects = rows[counts], objects[counts]
    by_score = np.argsort(place[rows])
    _, first = np.unique(objects[by_score], return_index=True)
    verdict[rows[by_score[first]]] = HIT

    positives = np.bincount(truth.label[~out], minlength=len(truth.classes))
    verdicts = Outcomes(order, found.label[order], found.score[order], verdict[order], positives, protocol.iou)
    ap = np.array([class_ap(verdicts, k, protocol.metric) for k in range(len(truth.classes))])
    return VocNumbers(ap, verdicts, table)


def class_ap(verdicts: Outcomes, label: int, metric: str) -> float:
    """AP of one class, NaN if it has no object that counts."""
    objects = int(verdicts.objects[label])
    if not objects:
        return float("nan")
    part = verdicts.verdict[verdicts.of_class(label)]
    hit = np.flatnonzero(part == HIT)
    so_far = np.cumsum(part != NEITHER)[hit]
    hits = np.arange(1, len(hit) + 1)
    # the running maximum from the right is reached at hits, so only those rows are looked at
    precision = np.append(np.maximum.accumulate((hits / so_far)[::-1])[::-1], 0.0)
    if metric == "area":
        return float((precision[:-1] / objects).sum())
    return float(precision[np.searchsorted(hits / objects, ELEVEN)].sum() / 11.0)


def _best(table: MatchTable, *, strict: bool) -> tuple[Ints, Ints]:
    """Of each detection in the table: its row and the object it overlaps most, the first of equals."""
    first = starts(table.detection)
    if not len(first):
        return table.detection, table.object
    count = np.diff(np.append(first, len(table)))
    best = np.maximum.reduceat(table.iou, first)
    place = np.where(table.iou == np.repeat(best, count), np.arange(len(table)), len(table))
    at = np.minimum.reduceat(place, first)
    hit = best > table.floor if strict else best >= table.floor
    return table.detection[first][hit], table.object[at[hit]]
