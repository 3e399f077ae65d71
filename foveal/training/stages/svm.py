"""R-CNN's class layer: one linear SVM per class with one pass of hard negative mining, as an ordinary linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FovealError
from ...recipe import SVM
from .feature_rows import FloatArray, ImageFeatures, LinearFit, mean_norm

UNTRAINED = -100.0  # the margin of a class that had nothing to learn from: its score is under 1e-43
MAX_PASSES = 20_000  # of liblinear over the vectors of a class; it needs hundreds


def fit_svms(settings: SVM, images: Iterable[ImageFeatures], classes: int) -> LinearFit:
    """The layer (C, d) whose outputs are the margins of the classes.

    ``images`` is read three times, always in one order; the objects and the hard negatives of each class stay in
    memory, in the float type of the features. Deterministic. A class without an object, or without a
    single negative, gets zero weights and a margin of :data:`UNTRAINED`, and is listed in ``without``.

    Raises :class:`FovealError` where scikit-learn is missing.
    """
    scale = settings.norm / mean_norm(images)
    learners = [_Learner(settings, positives, scale) for positives in _objects(images, classes)]
    for image in images:
        if not len(image):
            continue
        x = image.features.astype(np.float64)
        for label, learner in enumerate(learners):
            negative = (image.overlaps[:, label] < settings.negative) & (image.labels != label)
            learner.mine(image.features, x @ learner.weight + learner.bias, negative)
    for learner in learners:
        learner.finish()
    return LinearFit(
        np.stack([learner.weight for learner in learners]).astype(np.float32),
        np.array([learner.bias for learner in learners], np.float32),
        tuple(label for label, learner in enumerate(learners) if not learner.fitted),
    )


class _Learner:
    """The SVM of one class. ``weight`` and ``bias`` are for unscaled features."""

    def __init__(self, settings: SVM, positives: FloatArray, scale: float) -> None:
        self.settings, self.positives, self.scale = settings, positives, scale
        self.weight, self.bias = np.zeros(positives.shape[1]), UNTRAINED
        self.negatives: list[FloatArray] = []
        self.new, self.fitted = 0, False

    def mine(self, features: FloatArray, margins: FloatArray, negative: NDArray[np.bool_]) -> None:
        """Adds the hard negatives of an image; before the first fit, all negatives."""
        if not len(self.positives):
            return
        hard = features[negative & (margins > self.settings.hard) if self.fitted else negative]
        if len(hard):
            self.negatives.append(hard)
            self.new += len(hard)
        if self.new > (self.settings.retrain if self.fitted else 0):
            self._fit()

    def finish(self) -> None:
        """Fits once more, if negatives were added since the last fit."""
        if self.new:
            self._fit()

    def _fit(self) -> None:
        settings, negatives = self.settings, np.concatenate(self.negatives)
        x = np.concatenate([self.positives, negatives]).astype(np.float64) * self.scale
        svm = _linear_svc(settings).fit(x, np.arange(len(x)) < len(self.positives))
        self.weight, self.bias = svm.coef_[0] * self.scale, float(svm.intercept_[0])
        not_easy = x[len(self.positives) :] @ svm.coef_[0] + self.bias >= settings.easy
        self.negatives = [negatives[not_easy]]
        self.new, self.fitted = 0, True


def _linear_svc(settings: SVM) -> Any:
    """liblinear's L2-regularized hinge loss in its dual form (``-s 3``)."""
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
        max_iter=MAX_PASSES,
    )


def _objects(images: Iterable[ImageFeatures], classes: int) -> list[FloatArray]:
    """The vectors (n, d) of the objects of each class."""
    vectors: list[list[FloatArray]] = [[] for _ in range(classes)]
    width, dtype = 0, np.dtype(np.float32)
    for image in images:
        if len(image):
            width, dtype = image.features.shape[1], image.features.dtype
        for label in np.unique(image.labels[image.labels >= 0]).tolist():
            vectors[label].append(image.features[image.labels == label])
    return [np.concatenate([np.zeros((0, width), dtype), *each]) for each in vectors]
