"""What a file says of an object's mask: COCO's polygons and run lengths, checked, and made into masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from foveal.errors import FovealError
from foveal.polygons import rasterise
from foveal.rle import Masks, unsqueeze

from .dataset import Dataset, Segmentation

FAR = 2.0  # times the picture's side: nobody draws so far outside, and walking such an outline takes memory
SLACK = 1.0 + 1e-6  # pixels over the edge that are rounding, and are cut without a word
Problem = tuple[str, str, str]  # code of the finding, what is wrong and what became of it, what to do


def settle_mask(value: Any, width: int, height: int) -> tuple[Segmentation | None, list[Problem]]:
    """The mask to use, if there is one, and what is wrong with what the file says.

    ``None`` and ``[]`` say that there is no mask, and nothing is wrong with that.
    """
    if value is None or value == []:
        return None, []
    if isinstance(value, dict):
        problem = _bad_lengths(value, width, height)
        if problem is not None:
            code, message = problem
            return None, [(code, f"{message}; it has no mask", "Export it again")]
        return value, []
    if not isinstance(value, list) or not any(isinstance(p, list) for p in value):
        message = f"its segmentation is {_show(value)}, expected a list of polygons or run lengths; it has no mask"
        return None, [("mask-invalid", message, "Write [[x1, y1, x2, y2, ...], ...]")]
    good: list[list[float]] = []
    problems: list[Problem] = []
    for n, polygon in enumerate(value):
        found, code, message = _polygon(polygon, width, height)
        if found is not None:
            good.append(found)
        if code:
            what = "cut" if found is not None else "dropped"
            problems.append((code, f"polygon {n} of its mask {message}; {what}", "Correct or remove it"))
    if not good:
        problems.append(("mask-missing", "no polygon of its mask can be used; it has no mask", "Draw it again"))
    return good or None, problems


def _polygon(polygon: Any, width: int, height: int) -> tuple[list[float] | None, str, str]:
    """The polygon or None, and code and words for what is wrong with it."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        return None, "polygon-invalid", f"is {_show(polygon)}, expected a list of numbers"
    if len(polygon) < 6 or len(polygon) % 2:
        return None, "polygon-invalid", f"has {len(polygon)} numbers, expected x and y of at least three corners"
    try:
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number of hundreds of digits
        return None, "polygon-invalid", "has a number that is too large"
    if not np.isfinite(corners).all():
        return None, "polygon-invalid", "has a number that is not finite"
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    size = f"the image of {width} x {height}"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None, "mask-outside", f"lies outside {size}"
    over = max(-left, -top, right - width, bottom - height)
    if max(-left, right - width) > FAR * width or max(-top, bottom - height) > FAR * height:
        return None, "mask-outside", f"reaches {over:.6g} px over the edge of {size}"
    if over > SLACK:
        return polygon, "mask-over-edge", f"reaches {over:.6g} px over the edge of {size}"
    return polygon, "", ""


def _bad_lengths(value: dict[str, Any], width: int, height: int) -> tuple[str, str] | None:
    """Code and words for run lengths that do not fit the picture, or are none."""
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not set(map(type, size)) <= {int, float}:
        return "mask-invalid", f"its run lengths have the size {_show(size)}, expected [height, width]"
    if list(map(float, size)) != [height, width]:
        return "mask-size-mismatch", f"its mask is {size[1]} x {size[0]}, the image {width} x {height}"
    try:
        lengths = read_lengths(counts)
    except ValueError:
        return "mask-invalid", f"its run lengths {_show(counts)} cannot be read"
    total = int(lengths.sum())
    if (lengths < 0).any() or total != width * height:
        least = f", one of them {int(lengths.min())}" if (lengths < 0).any() else ""
        found = f"its run lengths sum to {total}{least}"
        return "mask-invalid", f"{found}, expected {height} x {width} = {width * height}"
    return None


def read_lengths(counts: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Run lengths from COCO's text or a list of whole numbers. Raises ``ValueError``."""
    if isinstance(counts, str):
        return unsqueeze(counts)
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise ValueError("run lengths are text or a list of whole numbers")
    try:
        return np.asarray(counts, np.int64)
    except OverflowError:
        raise ValueError("a run length is too large") from None


def masks_of(segmentations: Sequence[Segmentation | None], width: int, height: int) -> Masks:
    """One mask an object, empty where it has none; what :func:`settle_mask` let pass."""
    size = height, width
    drawn = rasterise([s if isinstance(s, list) else [] for s in segmentations], size)
    rows = [k for k, s in enumerate(segmentations) if isinstance(s, dict)]
    if not rows:
        return drawn
    coded = Masks.of_counts([read_lengths(s["counts"]) for s in segmentations if isinstance(s, dict)], size)
    owner = np.concatenate([drawn.owner, np.array(rows, np.int64)[coded.owner]])
    x, top, bottom = (np.concatenate([getattr(drawn, n), getattr(coded, n)]) for n in ("x", "top", "bottom"))
    return Masks.of_runs(size, len(segmentations), owner, x, top, bottom)


def check_masks(dataset: Dataset) -> str:
    """What to say of objects that have no mask, for a detector that learns masks; "" where all have one.

    Raises :class:`~foveal.errors.FovealError` where not one has: boxes are never taken for masks.
    """
    counted = [~(r.ignore | r.crowd) for r in dataset.records]
    flags = [
        [m is not None for m, c in zip(r.masks or [None] * len(r), learn.tolist(), strict=True) if c]
        for r, learn in zip(dataset.records, counted, strict=True)
    ]
    have, every = sum(chain.from_iterable(flags)), sum(map(len, flags))
    name = f"the split {dataset.split!r}" if dataset.split else "the data set"
    if every and not have:
        raise FovealError(
            f"{name} has {every} boxes and not one mask, and the detector learns masks (a box is not taken for one)",
            path=dataset.path,
            fix='Give COCO JSON with a "segmentation" for each object; boxes alone are enough for a Faster R-CNN',
        )
    if have == every:
        return ""
    return f"warning: {every - have} of {every} objects of {name} have no mask; they teach boxes and classes alone"


def _show(value: object) -> str:
    """A value for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
