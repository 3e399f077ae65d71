"""How much each image adds to a score, or to the difference of two: the score without it, exact for every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...files.aliases import Floats, Ints
from .intervals import ScoredRun
from .resampling import leave_one_out


@dataclass(frozen=True, eq=False)
class Influence:
    """A score with all images less the score without each image; NaN where the class has no object without it."""

    numbers: Mapping[str, Floats]  # (I,)
    per_class: Mapping[str, Mapping[str, Floats]]  # (I,)

    def order(self, number: str) -> Ints:
        """The images (n,) by descending influence on a number, without those of none."""
        values = np.nan_to_num(self.numbers[number])
        order = np.argsort(-values, kind="stable")
        return np.asarray(order[values[order] != 0])


def influence_on(candidate: Sequence[ScoredRun], baseline: Sequence[ScoredRun] = ()) -> Influence:
    """On the mean score of the runs ``candidate``, or on its difference from that of ``baseline``."""
    numbers, per_class = _mean(candidate)
    if baseline:
        others = _mean(baseline)
        numbers, per_class = numbers - others[0], per_class - others[1]
    ranked = candidate[0].ranked
    return Influence(
        {column.name: numbers[:, k] for k, column in enumerate(ranked.rule.columns)},
        {
            name: {number: per_class[:, label, k] for k, number in enumerate(ranked.rule.class_names)}
            for label, name in enumerate(ranked.classes)
        },
    )


def _mean(runs: Sequence[ScoredRun]) -> tuple[Floats, Floats]:
    """The influence on the numbers (I, K) and on those of every class (I, C, k)."""
    without = [leave_one_out(run.ranked) for run in runs]
    numbers = np.mean([run.numbers - w.numbers for run, w in zip(runs, without, strict=True)], axis=0)
    per_class = np.mean([run.per_class - w.per_class for run, w in zip(runs, without, strict=True)], axis=0)
    return numbers, per_class
