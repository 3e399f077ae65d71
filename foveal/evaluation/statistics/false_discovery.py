"""Which of many differences remain when they are judged together: the false discovery rate.

Source: Benjamini and Hochberg, Controlling the False Discovery Rate (1995), the step-up procedure of section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

from .comparing import ScoreDifference
from .intervals import LEVEL, NORMAL

RATE = 1 - LEVEL  # of false ones among the differences called real


def chance_of(difference: ScoreDifference) -> float | None:
    """The chance of a difference at least this far from 0 if there were none, from its interval; ``None``: not judged.

    Below ``RATE`` exactly where the interval leaves 0 out.
    """
    d = difference
    if d.value is None or d.low is None or d.high is None:
        return None
    half = d.value - d.low if d.value > 0 else d.high - d.value
    if half <= 0:
        return 0.0 if d.value else 1.0
    return 2 * (1 - NormalDist().cdf(abs(d.value) / half * NORMAL))


def discoveries(chances: Sequence[float], rate: float = RATE) -> list[bool]:
    """Which of the differences with these chances are real, with a share of at most ``rate`` false ones expected."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    last = max((k for k, i in enumerate(order, 1) if chances[i] <= rate * k / len(chances)), default=0)
    kept = set(order[:last])
    return [i in kept for i in range(len(chances))]


def class_discoveries(per_class: Mapping[str, Mapping[str, ScoreDifference]], number: str) -> dict[str, bool]:
    """Class -> whether its difference in ``number`` remains among all that are judged; the others are left out."""
    found = {name: chance_of(row[number]) for name, row in per_class.items()}
    judged = {name: chance for name, chance in found.items() if chance is not None}
    return dict(zip(judged, discoveries(list(judged.values())), strict=True))
