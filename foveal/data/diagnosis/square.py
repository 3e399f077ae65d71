"""Recognizes boxes that were written for another shape of the image: of a padded square, of one side, or turned.

Such boxes lie in their images however they are read, so the evidence is where they end, over a whole set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...files.aliases import Floats

BOXES = 15  # fewer boxes say nothing about where boxes end
NARROW = 0.9  # of the long side: images that are nearly square cannot be judged
NEAR = 0.012  # of a side: how exactly the boxes of a set end at the edge of another frame
SLOPE, DOUBT = 1.6, 3.0  # of swapped axes 2, of right ones 0; and standard errors from 1, that of boxes of the whole


class Claim(NamedTuple):
    """What boxes look like: the claim, its evidence, and what to do."""

    claim: str
    evidence: str
    fix: str


def judge_shape(boxes: Floats, sizes: Floats) -> Claim | None:
    """The claim on boxes xyxy (N, 4) in pixels of images of ``sizes`` (N, 2); ``None`` where nothing speaks for one."""
    boxes, sizes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)], sizes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    return _of_square(boxes, sizes) or _turned(boxes, sizes)


def _of_square(boxes: Floats, sizes: Floats) -> Claim | None:
    """Coordinates of the image padded to a square, or both divided by its longer side."""
    axis = np.argmin(sizes, 1)
    narrow = sizes.min(1) < NARROW * sizes.max(1)
    if narrow.sum() < BOXES:
        return None
    rows = np.flatnonzero(narrow)
    short, long = sizes.min(1)[rows], sizes.max(1)[rows]
    low = boxes[rows, axis[rows]] / short * long  # in pixels, if they are fractions of the longer side
    high = boxes[rows, axis[rows] + 2] / short * long
    pad = (long - short) / 2
    for what, shift in (("the image padded to a square", pad), ("the longer side of the image", 0 * pad)):
        first, last = ((low - shift) / short).min(), ((high - shift) / short).max()
        if abs(first) < NEAR and abs(last - 1) < NEAR:
            said = f"along the shorter side all {len(rows)} boxes end exactly where those of such a frame do"
            fix = "Write fractions of the width and of the height of the image itself"
            return Claim(f"the boxes look like fractions of {what}", said, fix)
    return None


def _turned(boxes: Floats, sizes: Floats) -> Claim | None:
    """x and y exchanged: the wider an image, the wider its boxes, by the square of its proportions."""
    if len(boxes) < BOXES:
        return None
    x = np.log(sizes[:, 0] / sizes[:, 1])
    y = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    x, y = x - x.mean(), y - y.mean()
    spread = float((x * x).sum())
    if spread / len(x) < 0.01:
        return None
    slope = float((x * y).sum()) / spread
    error = float(np.sqrt(((y - slope * x) ** 2).sum() / (len(x) - 2) / spread))
    if slope < SLOPE or slope - DOUBT * error < 1:
        return None
    said = "the wider an image, the wider its boxes, more than if each filled its image"
    fix = "Look at some images; if x and y are exchanged, read them with --convention yx"
    return Claim("the boxes look as if y stood before x", said, fix)
