"""Recognizes boxes in the wrong format or coordinate frame, for :mod:`.diagnosis`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..files.aliases import Floats, Ints
from ..masks.rle import ranges
from .matching import match_table
from .tables import DetectionTable, GroundTruth, width_height

UNIT = 2.0  # coordinates that stay below this are normalized ones, with room for boxes that stick out
SQUARES = (300, 320, 416, 512, 608, 640, 800, 1024)  # usual letterbox sides


def overlapped_share(truth: GroundTruth, detections: DetectionTable, *, by_class: bool = False) -> float:
    """Fraction of the objects that some detection overlaps with an IoU of at least 0.5."""
    if not len(truth):
        return 0.0
    return len(np.unique(match_table(truth, detections, by_class=by_class, crowd=False).object)) / len(truth)


def with_boxes(detections: DetectionTable, box: Floats) -> DetectionTable:
    """The detections with other boxes ``box`` (N, 4)."""
    return replace(detections, box=box, box_area=None)


def better_frame(truth: GroundTruth, detections: DetectionTable) -> str | None:
    """Describes the box format that fits the objects best, if it fits much better than the boxes as given."""
    current = overlapped_share(truth, detections)
    best, description = max(2 * current + 0.1, 0.3), None
    for box, what in _hypotheses(truth, detections):
        fit = overlapped_share(truth, with_boxes(detections, box))
        if fit > best:
            best, description = fit, f"{what} (then {fit:.0%} of the objects are overlapped, {current:.0%} as they are)"
    return description


def _hypotheses(truth: GroundTruth, detections: DetectionTable) -> Iterator[tuple[Floats, str]]:
    """The boxes (N, 4) xyxy as every other format would read them, and the description of the mistake."""
    b = detections.box
    size = b[:, 2:] - b[:, :2]
    yield _join(b[:, :2], b[:, :2] + b[:, 2:]), "The boxes look like x, y, width, height but are read as corners"
    yield _join(b[:, :2], size), "The boxes look like corners x1, y1, x2, y2 but are read as x, y, width, height"
    half = b[:, 2:] / 2
    center = "The boxes look like center x, center y, width, height but are read as"
    yield _join(b[:, :2] - half, b[:, :2] + half), f"{center} corners"
    yield b - np.tile(size / 2, 2), f"{center} x, y, width, height"
    yield b[:, [1, 0, 3, 2]], "x and y of the boxes are swapped (y1, x1, y2, x2)"
    if len(b) and np.abs(b).max() <= UNIT:
        if truth.sizes is not None:
            yield from _normalized(b, np.tile(truth.sizes[detections.image][:, ::-1], 2).astype(np.float64))
    else:
        yield from _scaled(truth, detections)


def _normalized(b: Floats, sides: Floats) -> Iterator[tuple[Floats, str]]:
    what = "The boxes are normalized to 0..1 and must be multiplied by the width and height of each image"
    yield b * sides, what
    yield _join(b[:, :2], b[:, :2] + b[:, 2:]) * sides, f"{what}; they are x, y, width, height read as corners"
    center = _join(b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    yield center * sides, f"{what}; they are center x, center y, width, height read as corners"
    yield (b - np.tile((b[:, 2:] - b[:, :2]) / 2, 2)) * sides, f"{what}; their x, y is the center"


def _scaled(truth: GroundTruth, detections: DetectionTable) -> Iterator[tuple[Floats, str]]:
    """Boxes in the pixels of a resized image: one factor, a fixed size, a fixed short or long side, a letterbox."""
    d, rx, ry = _like_pairs(truth, detections)
    other = "The boxes are in the frame of a resized image:"
    if len(d):
        sx, sy = _mode(rx), _mode(ry)
        yield detections.box / [sx, sy, sx, sy], f"{other} x times about {sx:.3g}, y times about {sy:.3g}"
    if truth.sizes is None:
        return
    h, w = truth.sizes[detections.image].astype(np.float64).T
    short, long = np.minimum(h, w), np.maximum(h, w)
    if len(d):
        side_x, side_y = _mode(rx * w[d]), _mode(ry * h[d])
        yield (
            detections.box / np.stack([side_x / w, side_y / h] * 2, 1),
            f"{other} about {side_x:.0f} x {side_y:.0f} pixels",
        )
        for side, name in ((short, "shorter"), (long, "longer")):
            pixels = _mode(np.sqrt(rx * ry) * side[d])
            yield detections.box * (side / pixels)[:, None], f"{other} its {name} side has about {pixels:.0f} pixels"
    for square in SQUARES:
        scale = square / long
        pad = np.stack([square - w * scale, square - h * scale] * 2, 1) / 2
        yield (
            (detections.box - pad) / scale[:, None],
            f"{other} a letterbox of {square} x {square} with centered padding",
        )


def _like_pairs(truth: GroundTruth, detections: DetectionTable) -> tuple[Ints, Floats, Floats]:
    """Pairs of an image where scaling the object gives about the detection: (P,) detection, factors in x and y."""
    order = np.argsort(truth.image, kind="stable")
    images = truth.image[order]
    low, high = np.searchsorted(images, detections.image), np.searchsorted(images, detections.image, side="right")
    d = np.repeat(np.arange(len(detections)), high - low)
    a, b = detections.box[d], truth.box[order][ranges(low, high - low)]
    (aw, ah), (bw, bh) = width_height(a), width_height(b)
    sound = (aw > 0) & (ah > 0) & (bw > 0) & (bh > 0)
    d, a, b, aw, ah = d[sound], a[sound], b[sound], aw[sound], ah[sound]
    rx, ry = aw / bw[sound], ah / bh[sound]
    like = (np.abs(a[:, 0] - rx * b[:, 0]) <= 0.1 * aw) & (np.abs(a[:, 1] - ry * b[:, 1]) <= 0.1 * ah)
    return d[like], rx[like], ry[like]


def _mode(values: Floats) -> float:
    """The median of the densest interval of width 0.1 (in the logarithm) of positive values (n,)."""
    logs = np.sort(np.log(values))
    ends = np.searchsorted(logs, logs + 0.1, side="right")
    at = int(np.argmax(ends - np.arange(len(logs))))
    return float(np.exp(np.median(logs[at : ends[at]])))


def _join(low: Floats, high: Floats) -> Floats:
    return np.concatenate([low, high], 1)
