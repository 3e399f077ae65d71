"""The features that closed-form stages are fitted to: the vectors of the windows of an image, with its objects.

Shapes: R windows of an image, d features per vector, C classes, G objects, N windows of an image in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...boxes import array_iou

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImageFeatures:
    """The windows of one image: its proposals and its objects. R may be 0."""

    features: FloatArray  # (R, d), any float type
    boxes: FloatArray  # (R, 4)
    labels: NDArray[np.int64]  # (R,) the class of a window that is an object; -1: a proposal
    overlaps: FloatArray  # (R, C) the greatest IoU with an object of each class; 0 where there is none
    truth: FloatArray  # (R, 4) the object, of any class, that the window overlaps most; its own box where there is none
    norms: FloatArray  # (N,) lengths of the vectors of all windows of the image, of which ``features`` may be a part

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear layer, for the features as they are: scaling, whitening and bias features are folded in."""

    weight: NDArray[np.float32]  # (outputs, d)
    bias: NDArray[np.float32]  # (outputs,)
    without: tuple[int, ...]  # classes that had nothing to learn from


def mean_norm(images: Iterable[ImageFeatures]) -> float:
    """The mean length of all vectors; 1 where there is none."""
    total, count = 0.0, 0
    for image in images:
        total += float(image.norms.astype(np.float64).sum())
        count += len(image.norms)
    return total / count if count and total else 1.0


def overlaps_of(
    boxes: FloatArray, objects: FloatArray, labels: NDArray[np.int64], classes: int
) -> tuple[FloatArray, FloatArray]:
    """Windows (R, 4), objects (G, 4), labels (G,) -> ``overlaps`` (R, C), ``truth`` (R, 4): see the class."""
    overlaps = np.zeros((len(boxes), classes))
    if not len(objects):
        return overlaps, boxes
    iou = array_iou(boxes, objects)  # (R, G)
    for label in np.unique(labels).tolist():
        overlaps[:, label] = iou[:, labels == label].max(1, initial=0.0)
    return overlaps, objects[iou.argmax(1)]
