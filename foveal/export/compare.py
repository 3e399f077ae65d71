"""Compares the detections of two runs of one detector on the same images, and says in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..boxes import array_iou

PIXELS, FAR_PIXELS, SCORE = 0.01, 0.1, 1e-5  # largest differences: of images up to LARGE pixels, beyond, of scores
LARGE = 1000
_NEAR = 1e-4  # of two scores that may change places, at a threshold or among equals


@dataclass(frozen=True)
class Flat:
    """The detections of one image as arrays: boxes (N, 4), scores and labels (N,), by falling score."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]
    side: int = 0  # the longer side of the image, pixels


@dataclass
class Differences:
    """What was found over all images."""

    images: int = 0
    boxes: int = 0  # of the first side
    matched: int = 0
    pixels: float = 0.0  # the largest difference of matched boxes, on images up to LARGE
    far_pixels: float = 0.0  # on larger ones
    score: float = 0.0
    missing: list[tuple[float, float]] = field(default_factory=list)  # of the first side alone: score, IoU
    added: list[tuple[float, float]] = field(default_factory=list)  # of the second alone
    lowest: list[float] = field(default_factory=lambda: [1.0, 1.0])  # score of either side
    other_class: int = 0  # the same box and score under another label

    @property
    def equal(self) -> bool:
        within = self.pixels <= PIXELS and self.far_pixels <= FAR_PIXELS and self.score <= SCORE
        return within and not self.missing and not self.added and not self.other_class

    def add(self, first: Flat, second: Flat, threshold: float) -> None:
        """One image. Of a box at the threshold, or the last of a full list, either side may have it alone."""
        self.images += 1
        self.boxes += len(first.scores)
        pairs = _pairs(first, second)
        at = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        moved = np.abs(first.boxes[at[:, 0]] - second.boxes[at[:, 1]]).max(initial=0.0)
        if first.side > LARGE:
            self.far_pixels = max(self.far_pixels, float(moved))
        else:
            self.pixels = max(self.pixels, float(moved))
        self.score = max(self.score, float(np.abs(first.scores[at[:, 0]] - second.scores[at[:, 1]]).max(initial=0.0)))
        same = first.labels[at[:, 0]] == second.labels[at[:, 1]]
        self.other_class += int((~same).sum())
        self.matched += int(same.sum())
        self.lowest = [
            min(low, float(s.scores.min(initial=1.0))) for low, s in zip(self.lowest, (first, second), strict=True)
        ]
        for side, other, taken, out in ((first, second, at[:, 0], self.missing), (second, first, at[:, 1], self.added)):
            longer = len(other.scores) >= len(side.scores)  # then its last ones may have displaced some of this side
            last = max(threshold, float(other.scores.min(initial=1.0)) if longer else 0.0)
            for i in np.setdiff1d(np.arange(len(side.scores)), taken):
                if side.scores[i] > last + _NEAR:
                    out.append((float(side.scores[i]), _overlap(side, int(i))))

    def causes(self, threshold: float) -> list[str]:
        """In what the two differ, in sentences."""
        found = []
        if self.other_class > 0.2 * self.boxes:
            found.append(f"the classes are in another order: {self.other_class} boxes have another label")
        sides = ((self.missing, "torch", self.lowest[1]), (self.added, "the file", self.lowest[0]))
        for alone, name, lowest in sides:
            if not alone:
                continue
            top, overlap = max(score for score, _ in alone), float(np.median([overlap for _, overlap in alone]))
            what = f"{len(alone)} boxes of {name} alone, scores up to {top:.4f}"
            if top <= lowest:
                found.append(f"{what}: another score threshold than {threshold:g}")
            elif self.matched > 0.5 * self.boxes and overlap > 0.3:
                found.append(f"{what}: NMS at another IoU, most overlap a better box of their class by {overlap:.2f}")
            else:
                found.append(f"{what}: other predictions")
        if max(self.pixels / PIXELS, self.far_pixels / FAR_PIXELS) > 1:
            found.append(f"boxes differ by up to {max(self.pixels, self.far_pixels):.3g} px")
        if self.score > SCORE:
            found.append(f"scores differ by up to {self.score:.2g}")
        return found


def _pairs(first: Flat, second: Flat) -> list[tuple[int, int]]:
    """Each box of the first with the box of the second that has the same label and place; else the same place alone."""
    if not len(first.scores) or not len(second.scores):
        return []
    far = np.abs(first.boxes[:, None] - second.boxes[None]).max(2)
    off = np.abs(first.scores[:, None] - second.scores[None])
    size = np.maximum(1.0, (first.boxes[:, 2:] - first.boxes[:, :2]).max(1))[:, None]
    same = first.labels[:, None] == second.labels[None]
    cost = far / size + off
    pairs: list[tuple[int, int]] = []
    free, left = np.ones(len(second.scores), bool), np.ones(len(first.scores), bool)
    for allowed in ((cost < 1e-3) & same, (cost < 1e-3) & ~same, (cost < 0.05) & same):
        if len(pairs) > len(left) / 2 and (cost[allowed] > 1e-3).any():
            break  # most are the same: the rest were selected otherwise
        for i in np.flatnonzero(left):
            row = np.where(allowed[i] & free, cost[i], np.inf)
            j = int(row.argmin())
            if np.isfinite(row[j]):
                pairs.append((int(i), j))
                free[j] = left[i] = False
    return pairs


def _overlap(side: Flat, i: int) -> float:
    """The largest IoU of a box with a better one of its class."""
    better = (side.labels == side.labels[i]) & (np.arange(len(side.scores)) < i)
    return float(array_iou(side.boxes[i : i + 1], side.boxes[better]).max(initial=0.0))


def as_flat(found: Sequence[Any], sides: Sequence[int]) -> list[Flat]:
    """Detections of torch or of the runner as arrays."""
    return [
        Flat(np.asarray(d.boxes, np.float64), np.asarray(d.scores, np.float64), np.asarray(d.labels), side)
        for d, side in zip(found, sides, strict=True)
    ]
