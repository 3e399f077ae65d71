"""Scores of resampled images: the bootstrap, in which an image counts as often as it is drawn, and leaving one out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...files.aliases import Floats
from .ranked import ClassPart, RankedDetections, Weights, class_parts, weighted_scores

RESAMPLES = 1000
FEWEST = 200
WORK = 3e9  # resamples x (detections + matches) that take about ten seconds
BLOCK = 2_000_000  # matches x resamples at once: arrays of 8 MB

Draws = NDArray[np.uint8]  # (I, R) how often each image counts in each resample


@dataclass(frozen=True, eq=False)
class Replicates:
    """The numbers of R resamples; NaN where a resample has no object."""

    numbers: Floats  # (R, K) means over the classes with objects in that resample
    per_class: Floats  # (R, C, k) the numbers that are shown for every class


def affordable(ranked: RankedDetections) -> int:
    """The number of resamples: ``RESAMPLES``, fewer on sets of millions of detections."""
    size = len(ranked.image) + ranked.matched.size
    return int(np.clip(WORK / max(size, 1), FEWEST, RESAMPLES))


def drawn(images: int, resamples: int, seed: int = 0) -> Draws:
    """Draws ``images`` with replacement, ``resamples`` times. The same for every run on the same images."""
    rng = np.random.default_rng(seed)
    out = np.empty((images, resamples), np.uint8)
    for begin in range(0, resamples, 100):
        n = min(100, resamples - begin)
        index = rng.integers(0, images, (images, n)) * n + np.arange(n)
        out[:, begin : begin + n] = np.bincount(index.reshape(-1), minlength=images * n).reshape(images, n)
    return out


def replicate(ranked: RankedDetections, draws: Draws, *, exact: bool = False) -> Replicates:
    """The numbers of each resample of ``draws`` (I, R). ``exact``: in double precision, which takes twice the time."""
    sums = _Sums(ranked, draws.shape[1])
    kind = np.float64 if exact else np.float32
    for label, part in enumerate(class_parts(ranked)):
        for block in _blocks(part, draws.shape[1]):
            weights = draws[part.images, block].astype(kind)
            sums.add(label, block, weighted_scores(part, ranked.rule, weights))
    return sums.replicates()


def leave_one_out(ranked: RankedDetections) -> Replicates:
    """The numbers without each image (R = I), in double precision."""
    sums = _Sums(ranked, ranked.images)
    for label, part in enumerate(class_parts(ranked)):
        whole = weighted_scores(part, ranked.rule, np.ones((len(part.images), 1)))
        values = np.repeat(whole, ranked.images, 1)  # an image without the class changes nothing
        for block in _blocks(part, len(part.images)):
            left_out = np.arange(len(part.images))[block]
            weights = np.ones((len(part.images), len(left_out)))
            weights[left_out, np.arange(len(left_out))] = 0
            values[:, part.images[block]] = weighted_scores(part, ranked.rule, weights)
        sums.add(label, slice(None), values)
    return sums.replicates()


class _Sums:
    """Adds up the means over classes, one class at a time."""

    def __init__(self, ranked: RankedDetections, resamples: int) -> None:
        self.shown = len(ranked.rule.class_names)
        self.total = np.zeros((len(ranked.rule.columns), resamples))
        self.count = np.zeros_like(self.total)
        self.per_class = np.empty((resamples, len(ranked.classes), self.shown))

    def add(self, label: int, block: slice, values: Weights) -> None:
        """The numbers (K, R) of a class in a block of resamples."""
        defined = ~np.isnan(values)
        self.total[:, block] += np.where(defined, values, 0)
        self.count[:, block] += defined
        self.per_class[block, label] = values[: self.shown].T

    def replicates(self) -> Replicates:
        with np.errstate(invalid="ignore"):
            return Replicates((self.total / self.count).T, self.per_class)


def _blocks(part: ClassPart, resamples: int) -> list[slice]:
    step = int(np.clip(BLOCK // max(len(part.at), 1), 64, 1024))
    return [slice(begin, begin + step) for begin in range(0, resamples, step)]
