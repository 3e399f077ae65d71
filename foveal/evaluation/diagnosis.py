"""Why is AP zero, or undefined? Each check looks for one fault that people really make and says it in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..files.aliases import Bools
from .box_formats import UNIT, better_frame, held
from .matching import match_table, rank_detections
from .tables import DetectionTable, GroundTruth

NEAR_ZERO = 0.005  # an AP below this is taken for a fault
LOWEST_SCORE = 0.05  # detectors hand in scores down to .001 to .05; a set that stops above has been cut
IMAGES, PER_IMAGE = 500, 20  # what the box and label checks look at: enough to know, quick on any set


def diagnose(truth: GroundTruth, found: DetectionTable) -> list[str]:
    """What may be wrong with these detections, the likeliest first; empty if nothing is."""
    truth = truth.scored()
    countable = truth[~(truth.crowd | truth.difficult)]
    out = list(_nothing(truth, countable, found))
    if len(countable) and len(found):
        sample, best = _sample(countable, found)
        boxes = list(_boxes(sample, best))
        labels = [] if boxes else list(_labels(sample, best))
        out += [*boxes, *labels, *_scores(truth, found)]
        if not boxes and not labels:
            out += _far(sample, best)
    return [*out, *_classes(countable, found), *thresholded(found)]


def thresholded(found: DetectionTable) -> Iterator[str]:
    """AP needs the detections of low score too."""
    if found.cut is None and len(found) and (low := float(found.score.min())) > 1.2 * LOWEST_SCORE:
        yield (
            f"The lowest score is {low:.3g}: the detections were cut at a threshold, which lowers recall and AP; "
            f"hand in everything from a score of {LOWEST_SCORE:g} or less."
        )
    elif found.cut is not None and found.cut > LOWEST_SCORE:
        yield (
            f"The detector keeps nothing below a score of {found.cut:g}, which lowers recall and AP; "
            f"set its select.score to {LOWEST_SCORE:g} or less."
        )


# ------------------------------------------------------------------------------------------- the checks
def _nothing(truth: GroundTruth, countable: GroundTruth, found: DetectionTable) -> Iterator[str]:
    if not len(truth):
        yield "The data set has no object at all: every AP is undefined. Is it the right split?"
    elif not len(countable):
        yield "All objects are difficult or crowds, which no protocol counts: every AP is undefined."
    if not len(found):
        yield "There are no detections at all: every score was below the threshold, or the file is empty."
        return
    if (top := float(found.score.max())) < LOWEST_SCORE:
        yield f"The highest score is {top:.3g}: the detector is sure of nothing; it has hardly been trained."
    with_objects, with_detections = np.unique(countable.image), np.unique(found.image)
    missed = np.setdiff1d(with_objects, with_detections)
    if len(missed) > 0.5 * len(with_objects):
        some = ", ".join(str(truth.images[i]) for i in missed[:3])
        yield (
            f"{len(missed)} of {len(with_objects)} images with objects have no detection (such as {some}): "
            "were they made on another split, or on a part of it?"
        )


def _boxes(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    now = held(truth, found)
    frame = better_frame(truth, found)
    if frame:
        yield f"{frame}."
        return
    for step in (1, -1):
        image = found.image + step
        inside = (image >= 0) & (image < len(truth.images))
        fit = held(truth, replace(found[inside], image=image[inside]))
        if fit > max(2 * now + 0.1, 0.3):
            yield (
                f"The detections fit the {'next' if step > 0 else 'previous'} image: the image ids are off by one "
                f"({fit:.0%} of the objects are overlapped there, {now:.0%} in their own image)."
            )
            return
    flat = (found.box[:, 2] <= found.box[:, 0]) | (found.box[:, 3] <= found.box[:, 1])
    if flat.mean() > 0.1:
        yield f"{flat.mean():.0%} of the detected boxes have no area (x2 <= x1 or y2 <= y1)."
        return
    if np.abs(found.box).max() <= UNIT < np.abs(truth.box).max():
        yield "No detected coordinate is above 2: the boxes are normalized to 0..1, absolute pixels are expected."
        return
    yield from _offset(truth, found)


def _offset(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    """Corners off by one pixel: 1-based boxes read as 0-based, or the other way round."""
    table = match_table(truth, found, by_class=False, crowd=False)
    if len(table) < 5:
        return
    gap = found.box[table.detection] - truth.box[table.object]
    middle = np.median(gap, axis=0)
    error = 1.5 * np.median(np.abs(gap - middle), axis=0) / np.sqrt(len(gap))
    if error.max() > 0.1:
        return
    for pixel, words in ((1.0, "one pixel too far right and down: 1-based corners"),
                         (-1.0, "one pixel too far left and up: corners that had 1 subtracted twice")):  # fmt: skip
        if (np.abs(middle[:2] - pixel) < 0.3).all() and np.abs(middle[2:] - pixel / 2).max() < 0.8:
            yield f"The boxes start {words}? (The middle offset is {', '.join(f'{m:.2f}' for m in middle)} pixels.)"


def _labels(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    """Boxes fit, classes do not."""
    anywhere, own = held(truth, found), held(truth, found, by_class=True)
    if anywhere < 0.1 or own > 0.5 * anywhere:
        return
    c = len(truth.classes)
    table = match_table(truth, found, by_class=False, crowd=False)
    meets = np.zeros((c, c), np.int64)  # object's class, detection's class
    np.add.at(meets, (truth.label[table.object], found.label[table.detection]), 1)
    start = f"{anywhere:.0%} of the objects are overlapped by some box, {own:.0%} by one of their class"
    for step in (1, -1):
        if c > 1 and np.trace(np.roll(meets, -step, axis=1)) > 0.5 * meets.sum():
            sign = "one too high" if step > 0 else "one too low"
            yield f"The labels are shifted by one, {sign} (is background counted as a class?): {start}."
            return
    dominant = meets.argmax(1)
    rows = np.flatnonzero(meets.sum(1) > 0)
    if meets[rows, dominant[rows]].sum() > 0.5 * meets.sum():
        names = [f"{truth.classes[k]} -> {truth.classes[dominant[k]]}" for k in rows if dominant[k] != k]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        yield f"The classes are in another order: {start}; objects and what they are called: {shown}."
    else:
        yield f"The boxes fit but the labels do not: {start}."


def _scores(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    if len(found) > 1 and float(np.ptp(found.score)) == 0.0:
        yield f"All {len(found)} scores are {float(found.score[0]):.3g}: AP is about the order of the scores."
        return
    hit = np.zeros(len(found), bool)
    hit[match_table(truth, found, crowd=False).detection] = True
    if min(hit.sum(), (~hit).sum()) < 10:
        return
    order = _order(hit, found)
    if order < 0.35:
        yield (
            f"The scores look inverted: a detection that hits an object beats one that does not in only {order:.0%} of "
            "the cases (a distance, or the score of background?)."
        )


def _order(hit: Bools, found: DetectionTable) -> float:
    """How often a hit scores above a miss; a tie is half (Mann and Whitney)."""
    _, level, count = np.unique(found.score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[level]
    n, m = int(hit.sum()), int((~hit).sum())
    return float((rank[hit].sum() - n * (n + 1) / 2) / (n * m))


def _far(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    """Nothing else explains it: say how far off the boxes are."""
    if held(truth, found) >= 0.1:
        return
    table = match_table(truth, found, floor=0.0, by_class=False, crowd=False)
    best = np.zeros(len(truth))
    np.maximum.at(best, table.object, table.iou)
    yield (
        "Hardly any box overlaps an object by half, whatever its class: the best IoU of an object is "
        f"{np.median(best):.2f} in the middle. The detector has not learned yet, or its boxes belong to other images."
    )


def _classes(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    c = len(truth.classes)
    objects, detections = np.bincount(truth.label, minlength=c), np.bincount(found.label, minlength=c)
    if len(truth):
        absent = [truth.classes[k] for k in np.flatnonzero(objects == 0)]
        if absent:
            yield f"No object counts in {_named(absent)}: its AP is undefined and left out of the mean."
    if len(found):
        silent = [truth.classes[k] for k in np.flatnonzero((objects > 0) & (detections == 0))]
        if silent:
            yield f"There is no detection of {_named(silent)}: its AP is 0."


# -------------------------------------------------------------------------------------------------- shared
def _sample(truth: GroundTruth, found: DetectionTable) -> tuple[GroundTruth, DetectionTable]:
    """The best detections of some images that have objects, spread over the set."""
    images = np.unique(truth.image)
    images = images[np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(np.int64)]
    # neighbors stay, for detections that sit one image further
    near = np.unique(np.concatenate([images - 1, images, images + 1]))
    one_class = replace(found, label=np.zeros_like(found.label))
    best = (rank_detections(one_class, 1).rank < PER_IMAGE) & np.isin(found.image, near)
    return truth[np.isin(truth.image, images)], found[best]


def _named(names: Iterable[str]) -> str:
    shown = list(names)
    if len(shown) == 1:
        return f"class {shown[0]!r}"
    return f"{len(shown)} classes ({', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''})"
