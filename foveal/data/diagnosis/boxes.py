"""Recognizes the boxes of a whole set that are written in another convention than its format's.

There is no ground truth to compare with, so the evidence is what a set says about itself: polygons and areas stated
beside the boxes, and otherwise how many boxes lie in their images when the numbers are read one way or another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...files.aliases import Floats
from ..records.convention import Convention, Layout, Unit
from ..records.evidence import Evidence
from .square import judge_shape

SLACK, SLACK_PIXELS = 0.02, 2.0  # of a side, and pixels: a box that leaves the image by less is imprecise and no more
MOST_BAD = 0.02  # of the boxes: a convention with more that do not lie in their images does not explain a set
SURE, SURE_SHARE = 3, 0.1  # boxes outside their images, and their share of all, from which the verdict is an error
UNIT = 1.05  # fractions of an image, with boxes that stick out a little
PERCENT = 105.0
LARGE = 150.0  # pixels: percentages and pixels cannot be confused in images of this size
MOST = 20_000  # boxes that are looked at
CORNER, SMALL_CORNER, CORNER_BOXES = 0.6, 0.35, 20  # the part of the images that holds all of so many boxes
MIXED = 0.05  # of the boxes: fractions among pixels
UNSOUND, UNSOUND_BOXES = 0.3, 10  # of so many boxes: do not lie in their images, whatever they are
THOUSAND = 1000.0  # the frame of coordinates that language models write

OTHER_SIZE = "the boxes look like coordinates of images of another size"
_GIVE_SIZE = "Give the images that were annotated, or the size of those with --convention WIDTHxHEIGHT"


@dataclass(frozen=True)
class BoxVerdict:
    """What the boxes of a set look like, and how sure that is."""

    sure: bool
    looks: tuple[Convention, ...]  # the conventions that fit; none: what is wrong is ``claim``
    evidence: str  # "12 of 12 boxes then lie in their images, as read now 3 do"
    boxes: int
    bad: int  # boxes that do not lie in their images as they are read
    claim: str = ""  # "the boxes look like coordinates of images of another size"
    fix: str = ""


def judge_boxes(evidence: Sequence[Evidence]) -> BoxVerdict | None:
    """The verdict on boxes that were read by one convention; ``None`` where nothing speaks against it."""
    parts = [e.arrays() for e in evidence]
    numbers, sizes, areas, outlines = (np.concatenate([part[k] for part in parts]) for k in range(4))
    if not len(numbers):
        return None
    if len(numbers) > MOST:
        chosen = np.linspace(0, len(numbers) - 1, MOST).astype(np.int64)
        numbers, sizes, areas, outlines = numbers[chosen], sizes[chosen], areas[chosen], outlines[chosen]
    read_as = evidence[0].convention
    candidates = list(_candidates(read_as, numbers, sizes))
    if evidence[0].around:
        candidates = [c for c in candidates if c.layout == read_as.layout]
    stated = _by_outlines(read_as, candidates, numbers, sizes, outlines)
    if stated is None:
        stated = _by_areas(read_as, candidates, numbers, sizes, areas)
    if stated is not None:
        return stated if isinstance(stated, BoxVerdict) else None
    return (
        _by_unit(read_as, candidates, numbers, sizes)
        or _mixed(read_as, numbers, sizes)
        or _by_bounds(read_as, candidates, numbers, sizes)
        or _by_shape(read_as, numbers, sizes)
    )


def in_image(convention: Convention, numbers: Floats, sizes: Floats) -> NDArray[np.bool_]:
    """(N,) whether each box (N, 4), read so, has an extent and lies in its image of ``sizes`` (N, 2)."""
    boxes = convention.boxes(numbers, sizes)
    low, high = boxes[:, :2], boxes[:, 2:]
    slack = np.maximum(SLACK * sizes, SLACK_PIXELS)
    return np.asarray(((high > low) & (low >= -slack) & (high <= sizes + slack)).all(1))


def _candidates(read_as: Convention, numbers: Floats, sizes: Floats) -> Iterator[Convention]:
    """Other conventions that the magnitude of the numbers allows, the likeliest first."""
    units: list[Unit] = [read_as.unit]
    largest = float(np.quantile(np.abs(numbers), 0.99))
    if read_as.unit == "fractions":
        if largest > 2 * UNIT:
            units = ["percent", "pixels"] if largest <= PERCENT and np.median(sizes) > LARGE else ["pixels", "percent"]
    elif read_as.frame is None and np.abs(numbers).max() <= UNIT and sizes.min() > 8:
        units = ["fractions"]
    elif read_as.frame is None and np.abs(numbers).max() <= PERCENT and np.quantile(sizes, 0.05) > LARGE:
        units = ["percent", "pixels"]
    frames: list[tuple[Unit, tuple[float, float] | None]] = [
        (unit, read_as.frame if unit == read_as.unit else None) for unit in units
    ]
    if read_as.frame is None and 0.8 * THOUSAND <= np.abs(numbers).max() <= 1.02 * THOUSAND:
        frames.append(("pixels", (THOUSAND, THOUSAND)))
    every: tuple[Layout, ...] = ("corners", "top-left", "centers", "ranges")
    layouts = [read_as.layout, *(layout for layout in every if layout != read_as.layout)]
    for swapped in (read_as.swapped, not read_as.swapped):
        for unit, frame in frames:
            for layout in layouts:
                other = replace(read_as, unit=unit, frame=frame, layout=layout, swapped=swapped)
                if other != read_as:
                    yield other


# -------------------------------------------------------------------------------- what the set states beside the boxes
def _by_outlines(
    read_as: Convention, candidates: list[Convention], numbers: Floats, sizes: Floats, outlines: Floats
) -> BoxVerdict | bool | None:
    """By the polygons of the same objects; ``True`` where they confirm the boxes as read, ``None`` without polygons."""
    known = np.isfinite(outlines).all(1)
    if known.sum() < max(3, 0.3 * len(numbers)):
        return None
    numbers, sizes, outlines = numbers[known], sizes[known], outlines[known]

    def agree(convention: Convention) -> float:
        return float((_ious(convention.boxes(numbers, sizes), outlines) > 0.7).mean())

    as_read = agree(read_as)
    if as_read >= 0.5:
        return True
    best = max(candidates, key=agree, default=None)
    if best is None or agree(best) < max(0.8, as_read + 0.3):
        if as_read > 0.2 or len(numbers) < UNSOUND_BOXES:
            return None
        said = f"{as_read:.0%} of {len(numbers)} boxes are those around the polygons of their objects"
        fix = "Check whether the boxes or the polygons are right; masks outside their boxes are not learned"
        return BoxVerdict(False, (), said, len(numbers), 0, "boxes and polygons of the same objects differ", fix)
    said = f"{agree(best):.0%} of the boxes then agree with the polygons of their objects, as read now {as_read:.0%}"
    bad = len(numbers) - int(in_image(read_as, numbers, sizes).sum())
    return BoxVerdict(True, (best,), said, len(numbers), bad)


def _by_areas(
    read_as: Convention, candidates: list[Convention], numbers: Floats, sizes: Floats, areas: Floats
) -> BoxVerdict | bool | None:
    """By stated areas that are those of the boxes."""
    known = np.isfinite(areas) & (areas > 0)
    if known.sum() < max(3, 0.3 * len(numbers)):
        return None
    numbers, sizes, areas = numbers[known], sizes[known], areas[known]

    def agree(convention: Convention) -> float:
        boxes = convention.boxes(numbers, sizes)
        sides = boxes[:, 2:] - boxes[:, :2]
        return float(((sides > 0).all(1) & (np.abs(sides.prod(1) / areas - 1) < 0.02)).mean())

    as_read = agree(read_as)
    if as_read >= 0.5:  # centers and swapped axes have the same areas
        alike = [c for c in candidates if agree(c) >= 0.5]
        return None if alike else True
    best = max(candidates, key=agree, default=None)
    if best is None or as_read > 0.1 or agree(best) < 0.9:
        return None
    same = tuple(c for c in candidates if agree(c) == agree(best))
    fits = [int(in_image(c, numbers, sizes).sum()) for c in same]
    looks = tuple(c for c, fit in zip(same, fits, strict=True) if fit == max(fits) and c.swapped == same[0].swapped)
    said = f"{agree(best):.0%} of the boxes then have the area that is stated beside them, as read now {as_read:.0%}"
    bad = len(numbers) - int(in_image(read_as, numbers, sizes).sum())
    return BoxVerdict(True, looks, said, len(numbers), bad)


def _ious(a: Floats, b: Floats) -> Floats:
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    whole = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    return np.asarray(np.divide(both, whole, out=np.zeros_like(both), where=whole > 0))


# -------------------------------------------------------------------------------------------- the boxes alone
def _by_unit(read_as: Convention, candidates: list[Convention], numbers: Floats, sizes: Floats) -> BoxVerdict | None:
    """Fractions or percent where pixels are expected: no number is above 1, or none above 100 in large images."""
    if read_as.unit != "pixels":
        return None
    n, largest = len(numbers), float(np.abs(numbers).max())
    others = [c for c in candidates if c.unit != "pixels" and c.swapped == read_as.swapped]
    if not others or (others[0].unit == "percent" and (n < SURE or largest < 0.6 * PERCENT)):
        return None
    fits = [int(in_image(c, numbers, sizes).sum()) for c in others]
    looks = tuple(c for c, fit in zip(others, fits, strict=True) if fit == max(fits))
    if others[0].unit == "percent" and max(fits) < (1 - MOST_BAD) * n:
        return None
    bad = n - int(in_image(read_as, numbers, sizes).sum())
    said = f"no number is above {largest:.3g}, and {max(fits)} of {n} boxes then lie in their images"
    whole = others[0].unit == "fractions" and bool((numbers == np.round(numbers)).all())
    sure = n >= SURE * 3 or (others[0].unit == "fractions" and n >= SURE) or (not whole and others[0].unit != "percent")
    return BoxVerdict(sure, looks[:1] if read_as.layout == looks[0].layout else looks, said, n, bad)


def _by_bounds(read_as: Convention, candidates: list[Convention], numbers: Floats, sizes: Floats) -> BoxVerdict | None:
    """By how many boxes lie in their images."""
    n = len(numbers)
    bad = n - int(in_image(read_as, numbers, sizes).sum())
    if bad < 2:
        return _corner(read_as, numbers, sizes) if not bad else None
    sure = bad >= SURE and bad >= SURE_SHARE * n
    most = min(max(MOST_BAD * n, n >= UNSOUND_BOXES), bad / 5)
    fitting = [c for c in candidates if n - int(in_image(c, numbers, sizes).sum()) <= most]
    straight = [c for c in fitting if c.swapped == read_as.swapped] or fitting
    if straight and (sure or bad >= 8 or bad == n):
        looks = tuple(c for c in straight if (c.unit, c.frame) == (straight[0].unit, straight[0].frame))
        looks = _touching(looks, numbers, sizes)
        least = min(int(in_image(c, numbers, sizes).sum()) for c in looks)
        said = f"{least} of {n} boxes then lie in their images, as read now {n - bad} do"
        return BoxVerdict(sure, looks, said, n, bad)
    return _exchanged(read_as, numbers, sizes, bad) or _frame(read_as, numbers, sizes, bad) or _unsound(n, bad)


def _mixed(read_as: Convention, numbers: Floats, sizes: Floats) -> BoxVerdict | None:
    """Fractions in some boxes and pixels in others: the former are smaller than a pixel."""
    n = len(numbers)
    small = (np.abs(numbers) <= UNIT).all(1) & (sizes > 8).all(1)
    if read_as.unit == "fractions":
        small = ~small
    broken = (numbers != np.round(numbers)).any(1) if read_as.unit != "fractions" else (numbers > 2 * UNIT).any(1)
    few = int((small & broken).sum())
    if read_as.unit == "percent" or few < max(2, MIXED * n) or few == n:
        return None
    said, fix = f"{few} of {n} boxes have no number above 1", "Write all boxes in one unit"
    if read_as.unit == "fractions":
        said = f"{few} of {n} boxes have numbers far above 1"
    bad = n - int(in_image(read_as, numbers, sizes).sum())
    sure = few >= SURE and read_as.unit != "fractions"  # pixels among fractions are dropped, each with a warning
    return BoxVerdict(sure, (), said, n, bad, "some boxes are in fractions and the others in pixels", fix)


def _exchanged(read_as: Convention, numbers: Floats, sizes: Floats, bad: int) -> BoxVerdict | None:
    """Height before width."""
    n = len(numbers)
    other = n - int(in_image(read_as, numbers[:, [0, 1, 3, 2]], sizes).sum())
    if read_as.layout not in ("top-left", "centers") or bad < SURE or bad < SURE_SHARE * n or other > MOST_BAD * n:
        return None
    said = f"{n - other} of {n} boxes then lie in their images, as read now {n - bad} do"
    fix = "Exchange the last two numbers of each box"
    return BoxVerdict(True, (), said, n, bad, "the boxes look like height before width", fix)


def _by_shape(read_as: Convention, numbers: Floats, sizes: Floats) -> BoxVerdict | None:
    """Fractions of another shape than that of the image."""
    found = judge_shape(read_as.boxes(numbers, sizes), sizes) if read_as.unit != "pixels" else None
    return None if found is None else BoxVerdict(False, (), found.evidence, len(numbers), 0, found.claim, found.fix)


def _unsound(n: int, bad: int) -> BoxVerdict | None:
    """Many boxes that leave their images, for a reason that is not known."""
    if n < UNSOUND_BOXES or bad < UNSOUND * n:
        return None
    claim = "many boxes do not lie in their images, and no other reading of the numbers fits"
    fix = "Check that the boxes belong to these images, and the order and unit of their numbers"
    return BoxVerdict(False, (), f"{bad} of {n} boxes", n, bad, claim, fix)


def _touching(looks: tuple[Convention, ...], numbers: Floats, sizes: Floats) -> tuple[Convention, ...]:
    """Of several conventions that fit, the one by which many more boxes end exactly at the edge of their images."""
    if len(looks) < 2:
        return looks
    counts = []
    for convention in looks:
        boxes = convention.boxes(numbers, sizes)
        gaps = np.concatenate([np.abs(boxes[:, :2]), np.abs(boxes[:, 2:] - sizes)], 1)
        counts.append(int((gaps.min(1) < 0.75).sum()))
    best = max(counts)
    others = sorted(counts)[-2]
    return (looks[counts.index(best)],) if best >= 5 and best >= 4 * max(others, 1) else looks


def _frame(read_as: Convention, numbers: Floats, sizes: Floats, bad: int) -> BoxVerdict | None:
    """Pixels of larger images: boxes reach beyond both edges, and some lie outside."""
    boxes = read_as.boxes(numbers, sizes)
    over = np.quantile(boxes[:, 2:] / sizes, 0.99, axis=0)
    n = len(numbers)
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1).mean() > 0.98 and (boxes[:, :2] > -SLACK * sizes).all(1).mean() > 0.95
    if read_as.unit != "pixels" or not whole or over.min() < 1.15 or bad < max(SURE, 0.25 * n):
        return None
    outside = int((boxes[:, :2] >= sizes).any(1).sum())  # boxes of objects that are cut off by the edge never are
    if not outside or (over.max() > 1.4 * over.min() and outside < 0.3 * n):
        return None
    width, height = boxes[:, 2:].max(0)
    said = f"{bad} of {n} boxes reach beyond their images, up to {width:.0f} x {height:.0f}"
    return BoxVerdict(outside >= max(2, 0.1 * n), (), said, n, bad, OTHER_SIZE, _GIVE_SIZE)


def _corner(read_as: Convention, numbers: Floats, sizes: Floats) -> BoxVerdict | None:
    """Pixels of smaller images, or fractions of larger ones: all boxes lie in the upper left part of their images."""
    boxes = read_as.boxes(numbers, sizes)
    reach = (boxes[:, 2:] / sizes).max(0)
    balanced = reach.max() <= 1.3 * reach.min() or reach.max() <= SMALL_CORNER
    if len(boxes) < CORNER_BOXES or reach.max() > CORNER or not balanced:
        return None
    said = f"all {len(boxes)} boxes lie in the left {reach[0]:.0%} and the upper {reach[1]:.0%} of their images"
    return BoxVerdict(False, (), said, len(boxes), 0, OTHER_SIZE, _GIVE_SIZE)
