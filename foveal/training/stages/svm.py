"""R-CNN's class layer: one linear SVM a class with one pass of hard negatives, folded into an ordinary linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FovealError
from ...recipe import SVM
from .feature_rows import Floats, ImageFeatures, LinearFit, mean_norm

NOTHING = -100.0  # the margin of a class that had nothing to learn from: its score is under 1e-43
MOST_PASSES = 20_000  # of liblinear over the rows of a class; it needs hundreds


def fit_svms(settings: SVM, images: Iterable[ImageFeatures], classes: int) -> LinearFit:
    """The layer (C, d) whose outputs are the margins of the classes.

    ``images`` is gone through three times, always in one order, and what is kept of it are the objects and the hard
    negatives of each class, in the float type it comes in. Deterministic. A class without an object, or without a
    single negative, gets zero weights and a margin of :data:`NOTHING`, and is listed in ``without``.

    Raises :class:`FovealError` where scikit-learn is missing.
    """
    scale = settings.norm / mean_norm(images)
    known = _objects(images, classes)
    learners = [_Learner(settings, found, scale) for found in known]
    for rows in images:
        if not len(rows):
            continue
        x = rows.features.astype(np.float64)
        for label, learner in enumerate(learners):
            negative = (rows.overlaps[:, label] < settings.negative) & (rows.labels != label)
            learner.look(rows.features, x @ learner.weight + learner.bias, negative)
    for learner in learners:
        learner.settle()
    return LinearFit(
        np.stack([learner.weight for learner in learners]).astype(np.float32),
        np.array([learner.bias for learner in learners], np.float32),
        tuple(label for label, learner in enumerate(learners) if not learner.fitted),
    )


class _Learner:
    """One class. ``weight`` and ``bias`` are for the features as they are."""

    def __init__(self, settings: SVM, positives: Floats, scale: float) -> None:
        self.settings, self.positives, self.scale = settings, positives, scale
        self.weight, self.bias = np.zeros(positives.shape[1]), NOTHING
        self.negatives: list[Floats] = []
        self.fresh, self.fitted = 0, False

    def look(self, features: Floats, margins: Floats, negative: NDArray[np.bool_]) -> None:
        """Takes the hard negatives of an image; of the first that has any, all."""
        if not len(self.positives):
            return
        new = features[negative & (margins > self.settings.hard) if self.fitted else negative]
        if len(new):
            self.negatives.append(new)
            self.fresh += len(new)
        if self.fresh > (self.settings.retrain if self.fitted else 0):
            self._solve()

    def settle(self) -> None:
        """The last solution, where negatives came after the one before."""
        if self.fresh:
            self._solve()

    def _solve(self) -> None:
        settings, negatives = self.settings, np.concatenate(self.negatives)
        x = np.concatenate([self.positives, negatives]).astype(np.float64) * self.scale
        svm = _linear_svc(settings).fit(x, np.arange(len(x)) < len(self.positives))
        self.weight, self.bias = svm.coef_[0] * self.scale, float(svm.intercept_[0])
        keep = x[len(self.positives) :] @ svm.coef_[0] + self.bias >= settings.easy
        self.negatives = [negatives[keep]]
        self.fresh, self.fitted = 0, True


def _linear_svc(settings: SVM) -> Any:
    """liblinear's L2-regularised hinge loss in its dual form (``-s 3``)."""
    try:
        from sklearn.svm import LinearSVC
    except ImportError:
        raise FovealError("SVM needs scikit-learn", fix="Run pip install foveal[rcnn]") from None
    return LinearSVC(
        loss="hinge",
        dual=True,
        C=settings.c,
        class_weight={True: settings.positive_weight},
        intercept_scaling=settings.bias_feature,
        random_state=0,
        max_iter=MOST_PASSES,
    )


def _objects(images: Iterable[ImageFeatures], classes: int) -> list[Floats]:
    """The vectors (n, d) of the objects of each class."""
    found: list[list[Floats]] = [[] for _ in range(classes)]
    width, kind = 0, np.dtype(np.float32)
    for rows in images:
        if len(rows):
            width, kind = rows.features.shape[1], rows.features.dtype
        for label in np.unique(rows.labels[rows.labels >= 0]).tolist():
            found[label].append(rows.features[rows.labels == label])
    return [np.concatenate([np.zeros((0, width), kind), *each]) for each in found]
