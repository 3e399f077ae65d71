"""Confidence intervals of scores, from resampled images.

The interval is the percentile interval of the bootstrap, moved so that the mean of the resamples lies at the score
(copies of an image raise AP a little, so that the resamples lie too high) and widened by Student's t for the number of
images. ``benchmarks/intervals.py`` measures how often it holds the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ...files.aliases import Floats, Ints
from .ranked import RankedDetections, class_parts
from .resampling import affordable, drawn, replicate

LEVEL = 0.95
FEWEST_IMAGES = 20
FLAT = 1e-6  # a standard error below is that of single precision
MOST_UNDEFINED = 0.1  # resamples without the class; above, there is no interval
NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a score; ``None`` where too few images hold its objects, or all resamples are equal."""

    low: float | None
    high: float | None
    se: float | None  # standard error
    images: int  # that hold an object which counts for this score

    def __str__(self) -> str:
        return "-" if self.low is None else f"{self.low:.4f} to {self.high:.4f}"

    def to_dict(self) -> dict[str, float | int | None]:
        """As in ``results.json``."""
        return {"low": self.low, "high": self.high, "se": self.se, "images": self.images}


@dataclass(frozen=True)
class Intervals:
    """The intervals of all numbers of an evaluation. They say how much the scores depend on the choice of images, and
    nothing about another training of the same detector."""

    images: int
    resamples: int
    numbers: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, Interval]]

    @property
    def refused(self) -> bool:
        """Whether no score has an interval."""
        return all(i.low is None for i in self.numbers.values())

    @property
    def note(self) -> str:
        """What the intervals are, or why there are none, in a sentence."""
        most = max((i.images for i in self.numbers.values()), default=0)
        if most < FEWEST_IMAGES:
            return f"No intervals: {most} images hold an object; fewer than {FEWEST_IMAGES} say too little."
        if self.refused:
            return "No intervals: every resample of the images has the same scores."
        return (
            f"Intervals of {100 * LEVEL:.0f} % from {self.resamples:,} resamples of the images: "
            "they say nothing about another training run."
        )

    def to_dict(self) -> dict[str, Any]:
        """The value of ``intervals`` in ``results.json``."""
        return {
            "level": LEVEL,
            "resamples": self.resamples,
            **{name: i.to_dict() for name, i in self.numbers.items()},
            "per_class": {c: {name: i.to_dict() for name, i in row.items()} for c, row in self.per_class.items()},
        }


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """The numbers of an evaluation and what they follow from."""

    ranked: RankedDetections
    numbers: Floats  # (K,) NaN: undefined
    per_class: Floats  # (C, k)


def intervals_of(run: ScoredRun, resamples: int | None = None, seed: int = 0) -> Intervals:
    """``resamples``: 1,000 by default, fewer for very large sets."""
    ranked, rule = run.ranked, run.ranked.rule
    images, class_images = support(ranked)
    resamples = affordable(ranked) if resamples is None else resamples
    if images.max(initial=0) < FEWEST_IMAGES:
        drawn_numbers = np.full((1, len(run.numbers)), np.nan)
        drawn_classes = np.full((1, *run.per_class.shape), np.nan)
    else:
        replicates = replicate(ranked, drawn(ranked.images, resamples, seed))
        drawn_numbers, drawn_classes = replicates.numbers, replicates.per_class
    numbers = {
        column.name: _interval(run.numbers[k], drawn_numbers[:, k], int(images[k]))
        for k, column in enumerate(rule.columns)
    }
    per_class = {
        name: {
            number: _interval(run.per_class[label, k], drawn_classes[:, label, k], int(class_images[label, k]))
            for k, number in enumerate(rule.class_names)
        }
        for label, name in enumerate(ranked.classes)
    }
    return Intervals(ranked.images, resamples, numbers, per_class)


def _interval(value: float, replicates: Floats, images: int) -> Interval:
    bounds = bootstrap_bounds(value, replicates, images)
    if bounds is None or bounds[2] < FLAT:  # all right, or all wrong: resamples show no error that has not occurred
        return Interval(None, None, None, images)
    low, high, se = bounds
    return Interval(max(low, 0.0), min(high, 1.0), se, images)


def bootstrap_bounds(
    value: float, replicates: Floats, images: int, fewest: int = FEWEST_IMAGES
) -> tuple[float, float, float] | None:
    """Low, high and standard error of a score or a difference from its ``replicates`` (R,); ``None`` where fewer than
    ``fewest`` images (or whatever was resampled) hold an object of it."""
    undefined = np.isnan(replicates)
    if images < fewest or np.isnan(value) or undefined.mean() > MOST_UNDEFINED:
        return None
    defined = replicates[~undefined].astype(np.float64)
    deviation = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - defined.mean()
    wider = np.sqrt(images / (images - 1))
    low, high = value + deviation * (wider * student(images - 1) / NORMAL)
    return float(low), float(high), float(defined.std(ddof=1) * wider)


def support(ranked: RankedDetections) -> tuple[Ints, Ints]:
    """The images that hold an object which counts: for every number (K,), and for every class (C, k)."""
    columns = ranked.rule.columns
    holds = np.zeros((len(columns), ranked.images), bool)
    shown = len(ranked.rule.class_names)
    per_class = np.zeros((len(ranked.classes), shown), np.int64)
    for label, part in enumerate(class_parts(ranked)):
        has = part.objects > 0  # (A, J)
        for k, column in enumerate(columns):
            holds[k, part.images] |= has[column.area]
            if k < shown:
                per_class[label, k] = has[column.area].sum()
    return holds.sum(1), per_class


def student(freedom: float) -> float:
    """The two-sided 95 % point of Student's t; ``freedom``: its degrees, not only whole ones."""
    from scipy.special import stdtrit

    return NORMAL if np.isinf(freedom) else float(stdtrit(freedom, (1 + LEVEL) / 2))
