"""Outcomes of detections (hit, miss or neither) and their precision-recall curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.aliases import Floats, Ints

HIT, MISS, NEITHER = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Curve:
    """One point for every detection that counts, by descending score."""

    recall: Floats  # (n,) hits so far / objects
    precision: Floats  # (n,) hits so far / detections so far
    score: Floats  # (n,)
    objects: int


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Hit, miss or neither, for every detection that the protocol scores, at one IoU threshold."""

    rows: Ints  # (n,) rows of DetectionTable by (class, descending score)
    label: Ints  # (n,)
    score: Floats  # (n,)
    outcome: NDArray[np.int8]  # (n,) HIT, MISS, NEITHER
    objects: Ints  # (C,) objects that count
    iou: float

    def of_class(self, label: int) -> slice:
        """The rows of one class."""
        low, high = np.searchsorted(self.label, [label, label + 1])
        return slice(int(low), int(high))

    def curve(self, label: int) -> Curve:
        """The curve of one class; recall is NaN where the class has no object."""
        part = self.of_class(label)
        counts = self.outcome[part] != NEITHER
        hits = np.cumsum(self.outcome[part][counts] == HIT)
        objects = int(self.objects[label])
        recall = hits / objects if objects else np.full(len(hits), np.nan)
        return Curve(recall, hits / np.arange(1, len(hits) + 1), self.score[part][counts], objects)


class Curves(Mapping[str, Curve]):
    """The curve of each class by name, computed on demand."""

    def __init__(self, classes: tuple[str, ...], outcomes: Outcomes) -> None:
        self._label = {name: k for k, name in enumerate(classes)}
        self._outcomes = outcomes

    def __getitem__(self, name: str) -> Curve:
        return self._outcomes.curve(self._label[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._label)

    def __len__(self) -> int:
        return len(self._label)

    @property
    def iou(self) -> float:
        """The IoU from which a detection is a hit."""
        return self._outcomes.iou


def mean_defined(values: Any) -> float | None:
    """The mean of the numbers that are not NaN; ``None`` if there is none."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else None


def finite_or_none(value: float) -> float | None:
    """NaN -> ``None``."""
    return None if np.isnan(value) else float(value)
