"""Precision over recall with a band: the curve that AP is the area of, and the same of resampled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...files.aliases import Floats
from .intervals import FEWEST_IMAGES, LEVEL, ScoredRun
from .ranked import ClassPart, Weights, class_parts
from .resampling import drawn

POINTS = 101  # recalls
RESAMPLES = 200  # of a band: its edges are drawn, not read


@dataclass(frozen=True, eq=False)
class CurveBand:
    """The best precision at each recall or above it, at the lowest IoU of a hit; NaN where it is undefined."""

    recall: Floats  # (POINTS,)
    precision: Floats  # (POINTS,)
    low: Floats | None  # (POINTS,) 95 % band; None: too few images
    high: Floats | None


def curve_bands(runs: Sequence[ScoredRun], seed: int = 0) -> dict[str, CurveBand]:
    """The curve of each class with objects, and the mean of them under ``""``; means over the runs of a side."""
    first = runs[0].ranked
    draws = drawn(first.images, RESAMPLES, seed)
    weights = np.concatenate([np.ones((first.images, 1)), draws], 1)
    names, curves, counts = list(first.classes), [], []
    for parts in zip(*(class_parts(run.ranked) for run in runs), strict=True):
        curves.append(np.mean([_precision(part, weights[part.images]) for part in parts], 0))
        counts.append(int((parts[0].objects[0] > 0).sum()))
    shown = {
        name: _band(curve, count)
        for name, curve, count in zip(names, curves, counts, strict=True)
        if not np.isnan(curve[:, 0]).all()
    }
    if not shown:
        return {}
    all_curves = np.stack([c for c in curves if not np.isnan(c[:, 0]).all()])
    with np.errstate(invalid="ignore"):
        defined = (~np.isnan(all_curves)).sum(0)
        mean = np.where(defined > 0, np.nansum(all_curves, 0) / np.maximum(defined, 1), np.nan)
    images = len(np.unique(first.object_image[first.object_counts[0]]))
    return {"": _band(mean, images), **shown}


def _band(curve: Floats, images: int) -> CurveBand:
    """``curve`` (POINTS, 1 + R): the whole set's first, then that of each resample."""
    recall = np.linspace(0, 1, POINTS)
    value, resampled = curve[:, 0], curve[:, 1:]
    resampled = resampled[:, ~np.isnan(resampled[0])]
    if images < FEWEST_IMAGES or resampled.shape[1] < RESAMPLES / 2:
        return CurveBand(recall, value, None, None)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return CurveBand(recall, value, np.minimum(low, value), np.maximum(high, value))


def _precision(part: ClassPart, weights: Weights) -> Floats:
    """(POINTS, R) of a class whose images have ``weights`` (J, R); NaN where they hold no object."""
    counts, hit = part.inside[0].astype(np.float64), np.zeros(len(part.image))
    counts[part.at] += part.change[0, 0]
    hit[part.at] = part.hit[0, 0]
    total = part.objects[0] @ weights  # (R,)
    out = np.zeros((POINTS, weights.shape[1]))
    rows = np.flatnonzero(hit)
    if len(rows):
        last = rows[-1] + 1
        each = weights[part.image[:last]]
        hits = np.cumsum(each * hit[:last, None], 0)[rows]
        counted = np.cumsum(each * counts[:last, None], 0)[rows]
        best = np.maximum.accumulate((hits / np.maximum(counted, 1))[::-1], axis=0)[::-1]
        recalls = np.linspace(0, 1, POINTS)
        for r in range(weights.shape[1]):
            at = np.searchsorted(hits[:, r] / max(total[r], 1), recalls)
            inside = at < len(rows)
            out[inside, r] = best[at[inside], r]
    out[:, total == 0] = np.nan
    return out
