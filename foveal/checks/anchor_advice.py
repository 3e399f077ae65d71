"""Anchors that would fit the objects of a set better: as many, from k-means over the sizes of the objects.

Sizes from k-means are dealt out to the levels. Where most objects are small, the coarse levels would get anchors that
are smaller than their cells; so the present sizes times a factor are tried too, and the best of all is the advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np

from ..assembly.detector import Spec
from ..data.doctor.detector_fit import Advice
from ..data.records.dataset import Dataset
from ..files.aliases import Floats
from ..parts.priors.anchors import Anchors, PyramidAnchors, at_strides
from ..parts.priors.base import PriorSet
from ..parts.priors.cells import Cells
from ..parts.priors.default_boxes import DefaultBoxes, PyramidBoxes, boxes_at
from .anchor_reach import Objects, Size, best_anchors
from .anchors import fit_anchors

FACTORS = tuple(2.0 ** (k / 4) for k in range(-12, 9))  # of the present sizes
SAMPLE = 20_000  # objects by which the candidates are compared
GAIN = 0.01  # of the mean IoU: less is no reason to change anything


def better_anchors(
    spec: Spec,
    dataset: Dataset,
    objects: Objects,
    maps: dict[Size, list[Size]],
    strides: Sequence[int],
    iou: Floats,
    positive: float,
) -> Advice | None:
    """Other anchors of the same number that fit better and reach no fewer objects; None where there are none."""
    rows = np.linspace(0, len(iou) - 1, min(len(iou), SAMPLE)).astype(np.int64)
    some, least, reached = objects.part(rows), iou[rows].mean() + GAIN, (iou[rows] >= positive).mean()
    best: tuple[float, str, PriorSet] | None = None
    for field in fields(cast(Any, spec)):
        for priors in _others(spec, dataset, field.name, strides, objects):
            found = best_anchors(priors, some, maps, strides)[0].max(1)
            mean, share = float(found.mean()), float((found >= positive).mean())
            if mean >= least and share >= reached and (best is None or mean + share > best[0]):
                best = mean + share, field.name, priors
    if best is None:
        return None
    _, name, priors = best
    fitted = best_anchors(priors, objects, maps, strides)[0].max(1)
    return Advice(f"{name}={_text(priors)}", float(fitted.mean()), int((fitted >= positive).sum()))


def _others(spec: Spec, dataset: Dataset, name: str, strides: Sequence[int], objects: Objects) -> list[PriorSet]:
    """Fitted anchors for one field of the spec; none where it holds no anchors."""
    value = getattr(spec, name)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    size, ratio = np.sqrt(sides.prod(1)), sides[:, 1] / sides[:, 0]
    if isinstance(value, Cells):
        count = sum(value.per_location)
        if len(np.unique(sides, axis=0)) < count:
            return []
        cells = fit_anchors(spec, dataset, largest=1).cells
        return [cells]
    out: list[PriorSet] = []
    if isinstance(value, Anchors | PyramidAnchors):
        anchors = at_strides(value, strides)
        sizes = _by_level(_centers(size, sum(map(len, anchors.sizes))), [len(s) for s in anchors.sizes])
        ratios = tuple(round(float(r), 2) for r in _centers(ratio, len(anchors.ratios)))
        scaled = [tuple(tuple(round(v * factor, 1) for v in level) for level in anchors.sizes) for factor in FACTORS]
        for some in (sizes, *scaled):
            if min(map(min, some)) >= 1:
                out += [replace(anchors, sizes=some), replace(anchors, sizes=some, ratios=ratios)]
    elif isinstance(value, DefaultBoxes | PyramidBoxes):
        boxes = boxes_at(value, strides)
        rows = [_centers(size, len(boxes.sizes)), *(np.array(boxes.sizes) * factor for factor in FACTORS)]
        out = [replace(boxes, sizes=tuple(row.round(1).tolist())) for row in rows if row.min() >= 1]
    return out


def _centers(values: Floats, k: int) -> Floats:
    """k centers of positive values by their ratios: k-means of the logarithms, from the quantiles on."""
    logs = np.log(np.maximum(values, 0.5))
    centers = np.quantile(logs, (np.arange(k) + 0.5) / k)
    for _ in range(100):
        owner = np.abs(logs[:, None] - centers).argmin(1)
        count, total = np.bincount(owner, minlength=k), np.bincount(owner, logs, k)
        moved = np.where(count > 0, total / np.maximum(count, 1), centers)
        if np.allclose(moved, centers):
            break
        centers = moved
    out: Floats = np.exp(np.sort(centers))
    return out


def _by_level(sizes: Floats, counts: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Sizes by rising order, dealt out to the levels, finest first."""
    values = iter(round(float(s), 1) for s in sizes)
    return tuple(tuple(next(values) for _ in range(n)) for n in counts)


def _text(priors: PriorSet) -> str:
    """A constructor call without the fields that have their defaults."""
    given = {f.name: getattr(priors, f.name) for f in fields(priors) if getattr(priors, f.name) != f.default}
    return f"{type(priors).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
