"""Why detections are false and objects are not found: the six kinds of errors of TIDE.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (ECCV 2020), section 2.2. Of a
false detection, with the largest IoU with an object of its own class and with one of another, in this order:

    localization    own class: at least .1, but no hit
    class           another class: a hit
    duplicate       own class: a hit, but the object has a better detection
    background      at most .1 with any object
    both            what remains: another class, and badly placed

An object that is not found is charged to the class or localization error that points at it, the one with the highest
score where there are several; it is missed where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.aliases import Bools, Floats, Ints

BACKGROUND_IOU = 0.1
KINDS = ("class", "localization", "both", "duplicate", "background", "missed")
CLASS, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NO_ERROR = -1
OF_DETECTIONS, OF_OBJECTS = KINDS[:5], ("class", "localization", "missed")


@dataclass(frozen=True, eq=False)
class ErrorKinds:
    """The kind of every false detection and of every object that is not found."""

    classes: tuple[str, ...]
    iou: float  # of a hit
    rows: Ints  # (F,) the false detections, as rows of the ``DetectionTable``
    kind: NDArray[np.int8]  # (F,) index into ``KINDS``
    label: Ints  # (F,)
    object_rows: Ints  # (M,) the objects that are not found, as rows of the ``GroundTruth``
    object_kind: NDArray[np.int8]  # (M,)
    object_label: Ints  # (M,)

    def false_detections(self, label: int | None = None) -> dict[str, int]:
        """The number of each kind, of one class or of all; all false detections have one."""
        return _counts(self.kind if label is None else self.kind[self.label == label], OF_DETECTIONS)

    def not_found(self, label: int | None = None) -> dict[str, int]:
        """The number of objects of each kind, of one class or of all; all objects that are not found have one."""
        kinds = self.object_kind if label is None else self.object_kind[self.object_label == label]
        return _counts(kinds, OF_OBJECTS)

    def to_dict(self) -> dict[str, Any]:
        """The value of ``errors`` in ``results.json``."""
        return {
            "iou": self.iou,
            "background_iou": BACKGROUND_IOU,
            **self._both(None),
            "per_class": {name: self._both(label) for label, name in enumerate(self.classes)},
        }

    def _both(self, label: int | None) -> dict[str, dict[str, int]]:
        parts = {"false_detections": self.false_detections(label), "not_found": self.not_found(label)}
        return {name: counts | {"total": sum(counts.values())} for name, counts in parts.items()}

    def text(self) -> str:
        """A table of the kinds of all classes."""
        false, lost = self.false_detections(), self.not_found()
        lines = [f"{f'errors at IoU {self.iou:g}':<18}  false detections  objects not found"]
        rows = [(name, str(false.get(name, "-")), str(lost.get(name, "-"))) for name in KINDS]
        rows.append(("total", str(sum(false.values())), str(sum(lost.values()))))
        return "\n".join([*lines, *(f"{name:<18}  {a:>16}  {b:>17}" for name, a, b in rows)])


@dataclass(frozen=True, eq=False)
class Overlaps:
    """F false detections, G objects that count, and the P pairs of them with an IoU of at least .1, of any class."""

    label: Ints  # (F,)
    score: Floats  # (F,)
    object_label: Ints  # (G,)
    found: Bools  # (G,)
    detection: Ints  # (P,) index into the F
    object: Ints  # (P,) index into the G
    overlap: Floats  # (P,)


def classify_errors(pairs: Overlaps, iou: float, *, strict: bool) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """The kinds of the false detections (F,) and of the objects (G,), ``NO_ERROR`` for those found.

    A hit is at the ``iou`` or above it, if ``strict`` above it only.
    """
    own_class = pairs.label[pairs.detection] == pairs.object_label[pairs.object]
    own, own_object = _best(pairs, own_class)
    other, other_object = _best(pairs, ~own_class)
    own_hit, other_hit = (own > iou, other > iou) if strict else (own >= iou, other >= iou)
    kind = np.select(
        [(own >= BACKGROUND_IOU) & ~own_hit, other_hit, own_hit, np.maximum(own, other) <= BACKGROUND_IOU],
        [LOCALIZATION, CLASS, DUPLICATE, BACKGROUND],
        BOTH,
    ).astype(np.int8)

    objects = np.where(pairs.found, NO_ERROR, MISSED).astype(np.int8)
    target = np.select([kind == LOCALIZATION, kind == CLASS], [own_object, other_object], -1)
    pointing = np.flatnonzero(target >= 0)
    pointing = pointing[~pairs.found[target[pointing]]]
    pointing = pointing[np.argsort(-pairs.score[pointing], kind="stable")][::-1]  # the best one is written last
    objects[target[pointing]] = kind[pointing]
    return kind, objects


def _best(pairs: Overlaps, chosen: Bools) -> tuple[Floats, Ints]:
    """The largest IoU (F,) among the ``chosen`` pairs (P,), and its object (F,), the first of equals; 0 and -1."""
    detection, overlap, objects = pairs.detection[chosen], pairs.overlap[chosen], pairs.object[chosen]
    best = np.zeros(len(pairs.label))
    np.maximum.at(best, detection, overlap)
    largest = np.flatnonzero(overlap == best[detection])[::-1]
    first = np.full(len(pairs.label), -1, np.int64)
    first[detection[largest]] = objects[largest]
    return best, first


def _counts(kinds: NDArray[np.int8], names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(kinds, minlength=len(KINDS)).tolist()
    return {name: counts[KINDS.index(name)] for name in names}
