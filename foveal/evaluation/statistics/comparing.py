"""Whether one detector is better than another: differences of scores, with intervals, from the same images.

With one run a side the interval holds what the choice of images explains. With several a side, which differ in their
seed, the variance of the difference of means has two parts: the images', from resamples that are the same for all runs,
and the seeds', from the scores of the runs; the bound is Student's t with Welch's degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np

from ...files.aliases import Floats
from ...files.text import one_line
from .intervals import FEWEST_IMAGES, FLAT, LEVEL, ScoredRun, bootstrap_bounds, student, support
from .resampling import affordable, drawn, replicate

EQUAL = "the two are equal on these images"
MANY_CLASSES = 10  # of which one may look different by chance
MOST_SEEDS = 100
MOST_IMAGES = 10_000_000

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class ScoreDifference:
    """A score of the candidate less that of the baseline; means where there are several runs."""

    baseline: float | None
    candidate: float | None
    value: float | None
    low: float | None  # None where it is not judged
    high: float | None
    se_images: float | None  # standard error from the choice of images
    se_seeds: float | None  # from the seeds; None with one run a side
    verdict: Verdict  # of the candidate
    reason: str  # why it cannot be told, and what it would take; a sentence without its full stop
    images: int  # that hold an object which counts for this score
    images_needed: int | None = None  # to tell a difference of this size; None where they alone would not do
    seeds_needed: int | None = None  # a side

    def __str__(self) -> str:
        if self.value is None or self.low is None:
            return f"cannot tell: {self.reason}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.value:+.4f} ({self.low:+.4f} to {self.high:+.4f}) {self.verdict}{reason}"

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class PairComparison:
    """All scores of two detectors on the same images."""

    images: int
    runs: tuple[int, int]  # of the baseline, of the candidate
    resamples: int
    numbers: Mapping[str, ScoreDifference]
    per_class: Mapping[str, Mapping[str, ScoreDifference]]
    warnings: tuple[str, ...] = ()  # about the detections of a side, in sentences

    @property
    def notes(self) -> tuple[str, ...]:
        """What to bear in mind, in sentences."""
        found = list(self.warnings)
        if self.runs == (1, 1):
            found.append("One run a side: the intervals say nothing about another training run.")
        elif 1 in self.runs:
            found.append("One run on one side: its spread over seeds is taken to be that of the other side.")
        judged = sum(any(d.low is not None for d in row.values()) for row in self.per_class.values())
        if judged >= MANY_CLASSES:
            chance = round((1 - LEVEL) * judged)
            found.append(f"Of {judged} classes, about {max(chance, 1)} would look better or worse by chance alone.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "level": LEVEL,
            "images": self.images,
            "runs": list(self.runs),
            "resamples": self.resamples,
            "numbers": {name: d.to_dict() for name, d in self.numbers.items()},
            "per_class": {c: {name: d.to_dict() for name, d in row.items()} for c, row in self.per_class.items()},
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """A plain table: the two scores, their difference with its interval, and the verdict."""
        lines = [f"{self.images} images; candidate less baseline, {100 * LEVEL:.0f} % interval", ""]
        lines += [_line(name, d) for name, d in self.numbers.items()]
        lines.append("")
        width = max([5, *(len(one_line(name)) for name in self.per_class)])
        for name, row in self.per_class.items():
            lines += [f"{one_line(name):<{width}}  {_line(number, d)}" for number, d in row.items()]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)])


def compare_runs(
    baseline: Sequence[ScoredRun], candidate: Sequence[ScoredRun], resamples: int | None = None, seed: int = 0
) -> PairComparison:
    """``baseline`` and ``candidate``: the runs of each side, one for each seed, all scored on the same objects."""
    first = baseline[0].ranked
    rule, sides = first.rule, (baseline, candidate)
    images, class_images = support(first)
    resamples = min(affordable(r.ranked) for s in sides for r in s) if resamples is None else resamples
    draws = drawn(first.images, resamples, seed)
    repeated = [[replicate(run.ranked, draws) for run in side] for side in sides]
    shown = len(rule.class_names)

    def one(values: list[Floats], replicates: list[Floats], count: int) -> ScoreDifference:
        return score_difference(values[0], values[1], replicates[0], replicates[1], count, first.images)

    numbers = {
        column.name: one(
            [np.array([run.numbers[k] for run in side]) for side in sides],
            [np.stack([r.numbers[:, k] for r in side]) for side in repeated],
            int(images[k]),
        )
        for k, column in enumerate(rule.columns)
    }
    per_class = {
        name: {
            rule.class_names[k]: one(
                [np.array([run.per_class[label, k] for run in side]) for side in sides],
                [np.stack([r.per_class[:, label, k] for r in side]) for side in repeated],
                int(class_images[label, k]),
            )
            for k in range(shown)
        }
        for label, name in enumerate(first.classes)
    }
    return PairComparison(first.images, (len(baseline), len(candidate)), resamples, numbers, per_class)


def score_difference(
    baseline: Floats, candidate: Floats, resampled_baseline: Floats, resampled_candidate: Floats, images: int, all_: int
) -> ScoreDifference:
    """The difference of one score from the runs' scores (k,) and those of the same resamples of images (k, R).

    ``images``: those that hold an object of the score; ``all_``: those scored.
    """
    a, b = float(baseline.mean()), float(candidate.mean())
    known = _known(a), _known(b), _known(b - a)
    repeated = resampled_candidate.mean(0) - resampled_baseline.mean(0)
    bounds = bootstrap_bounds(b - a, repeated, images)
    if bounds is None:
        return ScoreDifference(*known, None, None, None, None, "cannot tell", _refusal(known[2], images), images)
    low, high, se = bounds
    if a == b and se < FLAT:
        return ScoreDifference(*known, None, None, None, None, "cannot tell", EQUAL, images)
    if len(baseline) == len(candidate) == 1:
        return _judged(a, b, low, high, se, None, _Parts(se**2, 0.0, np.inf), images, all_, 1)
    parts = _variances(baseline, candidate, resampled_baseline, resampled_candidate, se**2, images)
    bound = parts.bound()
    runs = max(len(baseline), len(candidate))
    return _judged(a, b, b - a - bound, b - a + bound, sqrt(parts.images), sqrt(parts.seeds), parts, images, all_, runs)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


@dataclass(frozen=True)
class _Parts:
    """The variance of a difference of means."""

    images: float
    seeds: float
    freedom: float  # of the seeds' part
    freedom_images: float = np.inf

    def bound(self, more_images: float = 1.0, more_seeds: float = 1.0) -> float:
        """Half the width of the interval, with so many times the images and the seeds."""
        images, seeds = self.images / more_images, self.seeds / more_seeds
        total = images + seeds
        if not total:
            return 0.0
        inverse = (images / total) ** 2 / self.freedom_images + (seeds / total) ** 2 / (self.freedom * more_seeds)
        return student(1 / inverse if inverse else np.inf) * sqrt(total)


def _variances(
    baseline: Floats,
    candidate: Floats,
    resampled_baseline: Floats,
    resampled_candidate: Floats,
    both: float,
    images: int,
) -> _Parts:
    """``both``: the variance over resamples of the difference of means. It holds the part of the images that differs
    from run to run, which the scores of the runs hold too: it is taken off."""
    sides = [(baseline, resampled_baseline), (candidate, resampled_candidate)]
    seeds, own, freedom = [], [], []
    for values, resampled in sides:
        k = len(values)
        seeds.append(float(values.var(ddof=1)) if k > 1 else np.nan)
        spread = resampled - resampled.mean(0)
        own.append(float(np.nanvar(spread, axis=1).sum() / (k - 1)) if k > 1 else np.nan)
        freedom.append(k - 1)
    known = 0 if freedom[0] else 1
    for side in (0, 1):  # one run: the other side's spread
        if not freedom[side]:
            seeds[side], own[side], freedom[side] = seeds[known], own[known], freedom[known]
    per = [v / len(values) for v, (values, _) in zip(seeds, sides, strict=True)]
    shared = both - sum(v / len(values) for v, (values, _) in zip(own, sides, strict=True))
    total = sum(per)
    inverse = sum(v**2 / f for v, f in zip(per, freedom, strict=True))
    return _Parts(max(shared, 0.0), total, total**2 / inverse if inverse else np.inf, max(images - 1, 1))


def _judged(
    a: float,
    b: float,
    low: float,
    high: float,
    se_images: float,
    se_seeds: float | None,
    parts: _Parts,
    images: int,
    all_: int,
    runs: int,
) -> ScoreDifference:
    value = b - a
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    needed: list[int | None] = [None, None]
    reason = ""
    if verdict == "cannot tell":
        if value == 0:
            reason = EQUAL
        else:
            needed = [
                _images_needed(abs(value), parts, all_),
                None if se_seeds is None else _seeds_needed(abs(value), parts, runs),
            ]
            reason = _wanted(needed, se_seeds is not None)
    return ScoreDifference(a, b, value, low, high, se_images, se_seeds, verdict, reason, images, needed[0], needed[1])


def _images_needed(size: float, parts: _Parts, images: int) -> int | None:
    """About how many images would tell a difference of this size, with as many seeds; ``None``: no number would."""
    low, high = 1.0, MOST_IMAGES / images
    if parts.bound(more_images=high) > size:
        return None
    while high / low > 1.01:
        middle = sqrt(low * high)
        low, high = (middle, high) if parts.bound(more_images=middle) > size else (low, middle)
    return max(_rounded(high * images), images + 1)


def _seeds_needed(size: float, parts: _Parts, runs: int) -> int | None:
    """About how many seeds a side would tell it on these images; ``None``: no number would."""
    low, high = runs, MOST_SEEDS
    if parts.bound(more_seeds=high / runs) > size:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parts.bound(more_seeds=middle / runs) > size else (low, middle)
    return high


def _rounded(number: float) -> int:
    """Up, to two digits."""
    unit: int = 10 ** max(len(str(int(number))) - 2, 0)
    return int(ceil(number / unit) * unit)


def _refusal(value: float | None, images: int) -> str:
    if value is None:
        return "the score is undefined"
    if images < FEWEST_IMAGES:
        return f"{images} images hold an object, and fewer than {FEWEST_IMAGES} say too little"
    return "too many resamples of the images hold no object"


def _wanted(needed: Sequence[int | None], seeds: bool) -> str:
    ways = []
    if needed[0] is not None:
        ways.append(f"about {needed[0]:,} images")
    if needed[1] is not None:
        ways.append(f"about {needed[1]:,} seeds a side")
    if ways:
        return f"a difference of this size takes {' or '.join(ways)}"
    return (
        "a difference of this size takes more images and more seeds"
        if seeds
        else "a difference of this size is too small for any set"
    )


def _line(name: str, d: ScoreDifference) -> str:
    scores = " ".join("     -" if v is None else f"{v:.4f}" for v in (d.baseline, d.candidate))
    return f"{name:<6} {scores}  {d}"
