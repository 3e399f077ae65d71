"""Simulated runs of a detector on simulated images, where hard images are hard for every run.

Used by the tests of intervals and by ``benchmarks/intervals.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveal.evaluation import DetectionTable, GroundTruth
from foveal.files.aliases import Floats


@dataclass(frozen=True)
class Objects:
    """Objects of I images, and how easy each image is for every detector."""

    table: GroundTruth
    easy: Floats  # (I,) 0..1


def make_objects(rng: np.random.Generator, images: int, classes: int = 3) -> Objects:
    """One to four objects an image, of 30 to 90 pixels."""
    image = np.repeat(np.arange(images), rng.integers(1, 5, images))
    corner, side = rng.uniform(0, [300, 200], (len(image), 2)), rng.uniform(30, 90, (len(image), 2))
    box = np.concatenate([corner, corner + side], 1)
    label = rng.integers(0, classes, len(image))
    table = GroundTruth.build(range(images), [f"class {k}" for k in range(classes)], image, label, box)
    return Objects(table, rng.beta(2, 2, images))


def make_run(rng: np.random.Generator, objects: Objects, quality: float = 0.7) -> DetectionTable:
    """The detections of one run: each object with a probability of about ``quality``, and two false ones an image."""
    truth, easy = objects.table, objects.easy
    hit = rng.random(len(truth)) < quality * (0.6 + 0.8 * easy[truth.image])
    side = truth.box[hit, 2:] - truth.box[hit, :2]
    shift = rng.normal(size=(len(side), 4)) * (0.06 * (1.3 - easy[truth.image[hit]]))[:, None]
    corner = truth.box[hit, :2] + shift[:, :2] * side
    near = np.concatenate([corner, corner + side * (1 + shift[:, 2:])], 1)
    image = np.repeat(np.arange(len(truth.images)), rng.poisson(2, len(truth.images)))
    false_corner, false_side = rng.uniform(0, [300, 200], (len(image), 2)), rng.uniform(30, 90, (len(image), 2))
    false = np.concatenate([false_corner, false_corner + false_side], 1)
    return DetectionTable.build(
        np.concatenate([truth.image[hit], image]),
        np.concatenate([truth.label[hit], rng.integers(0, len(truth.classes), len(image))]),
        np.concatenate([near, false]),
        np.concatenate([rng.beta(4, 2, len(near)), rng.beta(2, 3, len(image))]),
    )
