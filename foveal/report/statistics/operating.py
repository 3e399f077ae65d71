"""How a detector does at one score threshold: the best F1, how far scores are probabilities, false alarms.

All classes together, at the lowest IoU of a hit. These follow from the images themselves, so that a threshold chosen
here is chosen on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...evaluation.curves import Curves
from ...evaluation.tables import DetectionTable, GroundTruth
from ...files.aliases import Bools, Floats

BINS = 10  # of scores


@dataclass(frozen=True, eq=False)
class PooledDetections:
    """The detections of all classes that count, by descending score."""

    score: Floats  # (n,)
    hit: Bools  # (n,)
    objects: int


@dataclass(frozen=True)
class WorkingPoint:
    """Precision and recall of the detections from a score on."""

    score: float
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, float]:
        """The fields by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Calibration:
    """The share of hits among detections of about the same score; a calibrated score is that share."""

    score: tuple[float, ...]  # mean score of each bin that holds detections
    precision: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def error(self) -> float | None:
        """The expected calibration error: the mean distance of score and share of hits, over detections."""
        total = sum(self.count)
        rows = zip(self.score, self.precision, self.count, strict=True)
        return sum(abs(s - p) * n for s, p, n in rows) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "error": self.error,
            "score": list(self.score),
            "precision": list(self.precision),
            "count": list(self.count),
        }


def pooled(curves: Curves) -> PooledDetections:
    """The detections of all classes together."""
    scores, hits, objects = [np.zeros(0)], [np.zeros(0, bool)], 0
    for curve in curves.values():
        so_far = np.round(curve.precision * np.arange(1, len(curve.precision) + 1))
        scores.append(curve.score)
        hits.append(np.diff(so_far, prepend=0) > 0)
        objects += curve.objects
    score, hit = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-score, kind="stable")
    return PooledDetections(score[order], hit[order], objects)


def best_f1(detections: PooledDetections) -> WorkingPoint | None:
    """The score threshold of the largest F1, the highest such; ``None`` where nothing is hit."""
    if not detections.hit.any():
        return None
    hits, count = np.cumsum(detections.hit), np.arange(1, len(detections.hit) + 1)
    last = np.append(detections.score[1:] != detections.score[:-1], True)  # equal scores go together
    f1 = np.where(last, 2 * hits / (count + detections.objects), 0)
    best = int(f1.argmax())
    recall = float(hits[best] / detections.objects) if detections.objects else 0.0
    return WorkingPoint(float(detections.score[best]), float(hits[best] / count[best]), recall, float(f1[best]))


def calibration(detections: PooledDetections) -> Calibration:
    """In ``BINS`` bins of equal width; scores above 1 are in the last."""
    index = np.clip((detections.score * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(index, minlength=BINS)
    score = np.bincount(index, weights=detections.score, minlength=BINS)
    hits = np.bincount(index, weights=detections.hit, minlength=BINS)
    used = np.flatnonzero(count)
    return Calibration(
        tuple((score[used] / count[used]).tolist()),
        tuple((hits[used] / count[used]).tolist()),
        tuple(count[used].tolist()),
    )


def empty_images(truth: GroundTruth) -> Bools:
    """(I,) the images without an object of a known class, crowds and ignored regions included."""
    empty = np.ones(len(truth.images), bool)
    empty[truth.image] = False
    return empty


def false_alarms(truth: GroundTruth, table: DetectionTable, score: float) -> float | None:
    """Detections from ``score`` on for each image without an object of a known class; ``None``: there is none."""
    empty = empty_images(truth)
    return float((empty[table.image] & (table.score >= score)).sum() / empty.sum()) if empty.any() else None
