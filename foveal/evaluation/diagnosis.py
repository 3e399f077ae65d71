"""Diagnoses an AP that is zero or undefined: each check looks for one common mistake and describes it in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..files.aliases import Bools
from ..files.text import one_line
from .box_formats import UNIT, better_frame, overlapped_share
from .matching import match_table, rank_detections
from .tables import DetectionTable, GroundTruth

NEAR_ZERO = 0.005  # an AP below this is diagnosed
LOWEST_SCORE = 0.05  # detectors output scores down to .001 to .05; a file that stops above was thresholded
IMAGES, PER_IMAGE = 500, 20  # sample of the box and label checks: large enough to decide, fast on any dataset


def diagnose(truth: GroundTruth, detections: DetectionTable) -> list[str]:
    """Likely mistakes in these detections, one sentence each, the most likely first; empty if there is none."""
    truth = truth.scored()
    countable = truth[~(truth.crowd | truth.difficult)]
    out = list(_missing(truth, countable, detections))
    if len(countable) and len(detections):
        sample, best = _sample(countable, detections)
        boxes = list(_boxes(sample, best))
        labels = [] if boxes else list(_labels(sample, best))
        out += [*boxes, *labels, *_scores(truth, detections)]
        if not boxes and not labels:
            out += _no_overlap(sample, best)
    return [*out, *_classes(countable, detections), *thresholded(detections)]


def thresholded(detections: DetectionTable) -> Iterator[str]:
    """A note where low scores were dropped, which AP needs too."""
    if detections.min_score is None and len(detections) and (low := float(detections.score.min())) > 1.2 * LOWEST_SCORE:
        yield (
            f"The lowest score is {low:.3g}: the detections were thresholded, which lowers recall and AP; "
            f"include everything from a score of {LOWEST_SCORE:g} or less."
        )
    elif detections.min_score is not None and detections.min_score > LOWEST_SCORE:
        yield (
            f"The detector drops everything below a score of {detections.min_score:g}, which lowers recall and AP; "
            f"set its select.score to {LOWEST_SCORE:g} or less."
        )


def over_limit(truth: GroundTruth, detections: DetectionTable, limit: int) -> Iterator[str]:
    """A note where images have more objects of a class than detections count, and more detections than that."""
    countable = truth[~(truth.crowd | truth.difficult | truth.ignore)]
    c = len(truth.classes)
    pairs, objects = np.unique(countable.image * c + countable.label, return_counts=True)
    seen, detected = np.unique(detections.image * c + detections.label, return_counts=True)
    cut = np.isin(pairs, seen[detected > limit]) & (objects > limit)
    if not cut.any():
        return
    most = int(np.argmax(np.where(cut, objects, 0)))
    image, label = divmod(int(pairs[most]), c)
    images = len(np.unique(pairs[cut] // c))
    reach = np.minimum(objects, np.where(cut, limit, objects)).sum() / objects.sum()
    yield (
        f"Only the {limit} best detections of a class count in an image, and {images} "
        f"image{'s have' if images > 1 else ' has'} more objects of one ({objects[most]} of "
        f"{one_line(truth.classes[label])!r} in {one_line(str(truth.images[image]))}): "
        f"at most {reach:.1%} of all objects can be found. --max-dets {int(objects[most])} counts more, unlike COCO."
    )


def left_out(truth: GroundTruth) -> Iterator[str]:
    """A note on the objects whose boxes cannot be used."""
    if not truth.dropped:
        return
    one = truth.dropped == 1
    what = f"{truth.dropped} object{'' if one else 's'} of the data without area, outside the image or repeated"
    if truth.counts_dropped:
        yield f"{what} count{'s' if one else ''} too, as in pycocotools."
    else:
        yield f"{what} {'is' if one else 'are'} left out; pycocotools counts such objects, and so does --count-dropped."


def unmasked(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    """Notes on the masks that are not scored, for detections with masks."""
    if detections.masks is None:
        return
    if truth.masks is None or truth.drawn is None:
        yield "The data has no masks: the masks of the detections are not scored."
    elif missing := int((~truth.drawn & ~truth.ignore).sum()):
        yield f"{missing} objects have no mask in the data: they are left out of the masks' numbers."


# ------------------------------------------------------------------------------------------- the checks
def _missing(truth: GroundTruth, countable: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    if not len(truth):
        yield "The dataset has no object at all: every AP is undefined. Is it the right split?"
    elif not len(countable):
        yield "All objects are difficult or crowds, which no protocol counts: every AP is undefined."
    if not len(detections):
        yield "There are no detections at all: every score was below the threshold, or the file is empty."
        return
    if (top := float(detections.score.max())) < LOWEST_SCORE:
        yield f"The highest score is {top:.3g}: the detector is confident of nothing; it has hardly been trained."
    with_objects, with_detections = np.unique(countable.image), np.unique(detections.image)
    missed = np.setdiff1d(with_objects, with_detections)
    if len(missed) > 0.5 * len(with_objects):
        some = ", ".join(str(truth.images[i]) for i in missed[:3])
        yield (
            f"{len(missed)} of {len(with_objects)} images with objects have no detection (such as {some}): "
            "were they made on another split, or on a part of it?"
        )


def _boxes(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    current = overlapped_share(truth, detections)
    frame = better_frame(truth, detections)
    if frame:
        yield f"{frame}."
        return
    for step in (1, -1):
        image = detections.image + step
        inside = (image >= 0) & (image < len(truth.images))
        fit = overlapped_share(truth, replace(detections[inside], image=image[inside]))
        if fit > max(2 * current + 0.1, 0.3):
            yield (
                f"The detections fit the {'next' if step > 0 else 'previous'} image: the image ids are off by one "
                f"({fit:.0%} of the objects are overlapped there, {current:.0%} in their own image)."
            )
            return
    flat = (detections.box[:, 2] <= detections.box[:, 0]) | (detections.box[:, 3] <= detections.box[:, 1])
    if flat.mean() > 0.1:
        yield f"{flat.mean():.0%} of the detected boxes have no area (x2 <= x1 or y2 <= y1)."
        return
    if np.abs(detections.box).max() <= UNIT < np.abs(truth.box).max():
        yield "No detected coordinate is above 2: the boxes are normalized to 0..1, absolute pixels are expected."
        return
    yield from _offset(truth, detections)


def _offset(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    """Corners off by one pixel: 1-based boxes read as 0-based, or vice versa."""
    table = match_table(truth, detections, by_class=False, crowd=False)
    if len(table) < 5:
        return
    gap = detections.box[table.detection] - truth.box[table.object]
    median = np.median(gap, axis=0)
    error = 1.5 * np.median(np.abs(gap - median), axis=0) / np.sqrt(len(gap))
    if error.max() > 0.1:
        return
    for pixel, words in ((1.0, "one pixel too far right and down: 1-based corners"),
                         (-1.0, "one pixel too far left and up: corners that had 1 subtracted twice")):  # fmt: skip
        if (np.abs(median[:2] - pixel) < 0.3).all() and np.abs(median[2:] - pixel / 2).max() < 0.8:
            yield f"The boxes start {words}? (The median offset is {', '.join(f'{m:.2f}' for m in median)} pixels.)"


def _labels(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    """The boxes fit but the classes do not."""
    any_class, same_class = overlapped_share(truth, detections), overlapped_share(truth, detections, by_class=True)
    if any_class < 0.1 or same_class > 0.5 * any_class:
        return
    c = len(truth.classes)
    table = match_table(truth, detections, by_class=False, crowd=False)
    pairs = np.zeros((c, c), np.int64)  # object's class, detection's class
    np.add.at(pairs, (truth.label[table.object], detections.label[table.detection]), 1)
    start = f"{any_class:.0%} of the objects are overlapped by some box, {same_class:.0%} by one of their class"
    for step in (1, -1):
        if c > 1 and np.trace(np.roll(pairs, -step, axis=1)) > 0.5 * pairs.sum():
            sign = "one too high" if step > 0 else "one too low"
            yield f"The labels are shifted by one, {sign} (is background counted as a class?): {start}."
            return
    dominant = pairs.argmax(1)
    rows = np.flatnonzero(pairs.sum(1) > 0)
    if pairs[rows, dominant[rows]].sum() > 0.5 * pairs.sum():
        names = [f"{truth.classes[k]} -> {truth.classes[dominant[k]]}" for k in rows if dominant[k] != k]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        yield f"The classes are in another order: {start}; objects and what they are called: {shown}."
    else:
        yield f"The boxes fit but the labels do not: {start}."


def _scores(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    if len(detections) > 1 and float(np.ptp(detections.score)) == 0.0:
        yield f"All {len(detections)} scores are {float(detections.score[0]):.3g}: AP is about the order of the scores."
        return
    hit = np.zeros(len(detections), bool)
    hit[match_table(truth, detections, crowd=False).detection] = True
    if min(hit.sum(), (~hit).sum()) < 10:
        return
    order = _order(hit, detections)
    if order < 0.35:
        yield (
            f"The scores look inverted: a detection that hits an object beats one that does not in only {order:.0%} of "
            "the cases (a distance, or the score of background?)."
        )


def _order(hit: Bools, detections: DetectionTable) -> float:
    """How often a hit (``hit`` (N,)) scores above a miss; a tie counts half (Mann and Whitney)."""
    _, level, count = np.unique(detections.score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[level]
    n, m = int(hit.sum()), int((~hit).sum())
    return float((rank[hit].sum() - n * (n + 1) / 2) / (n * m))


def _no_overlap(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    """Where nothing else explains the score: the median of the best IoUs."""
    if overlapped_share(truth, detections) >= 0.1:
        return
    table = match_table(truth, detections, floor=0.0, by_class=False, crowd=False)
    best = np.zeros(len(truth))
    np.maximum.at(best, table.object, table.iou)
    yield (
        "Hardly any box overlaps an object by half, whatever its class: the best IoU of an object is "
        f"{np.median(best):.2f} in the median. The detector is hardly trained, or its boxes belong to other images."
    )


def _classes(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    c = len(truth.classes)
    object_counts, detection_counts = np.bincount(truth.label, minlength=c), np.bincount(detections.label, minlength=c)
    if len(truth):
        absent = [truth.classes[k] for k in np.flatnonzero(object_counts == 0)]
        if absent:
            yield f"No object counts in {_named(absent)}: its AP is undefined and left out of the mean."
    if len(detections):
        silent = [truth.classes[k] for k in np.flatnonzero((object_counts > 0) & (detection_counts == 0))]
        if silent:
            yield f"There is no detection of {_named(silent)}: its AP is 0."


# -------------------------------------------------------------------------------------------------- shared
def _sample(truth: GroundTruth, detections: DetectionTable) -> tuple[GroundTruth, DetectionTable]:
    """The best detections of some images that have objects, spread over the dataset."""
    images = np.unique(truth.image)
    images = images[np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(np.int64)]
    # with their neighbors, for image ids that are off by one
    near = np.unique(np.concatenate([images - 1, images, images + 1]))
    one_class = replace(detections, label=np.zeros_like(detections.label))
    best = (rank_detections(one_class, 1).rank < PER_IMAGE) & np.isin(detections.image, near)
    return truth[np.isin(truth.image, images)], detections[best]


def _named(names: Iterable[str]) -> str:
    shown = list(map(one_line, names))
    if len(shown) == 1:
        return f"class {shown[0]!r}"
    return f"{len(shown)} classes ({', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''})"
