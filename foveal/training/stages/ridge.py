"""R-CNN's box layer: ridge regression of whitened box deltas for each class, as an ordinary linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from ...parts.coders import Coder
from ...recipe import Ridge
from .feature_rows import FloatArray, ImageFeatures, LinearFit, mean_norm

MEMORY = 2 << 30  # bytes of matrices: more classes than fit into it take several passes over the images
BLOCK = 1024  # vectors added to a class' matrix at once


def fit_ridge(
    settings: Ridge, images: Iterable[ImageFeatures], classes: int, coder: Coder, memory: int = MEMORY
) -> LinearFit:
    """The layer (4 C, d) whose outputs are the deltas of ``coder``, class by class.

    ``images`` is read once for the scale and once for every group of classes that fits into ``memory`` (bytes), always
    in one order. Deterministic. A class without a proposal to learn from gets zeros, which leave boxes as proposed, and
    is listed in ``without``.
    """
    scale = settings.norm / mean_norm(images)
    width = max((image.features.shape[1] for image in images if len(image)), default=0)
    weight, bias = np.zeros((classes, 4, width), np.float32), np.zeros((classes, 4), np.float32)
    group_size = max(1, memory // (8 * (width + 1) ** 2))
    without: list[int] = []
    for start in range(0, classes, group_size):
        group = range(start, min(classes, start + group_size))
        for label, sums in zip(group, _summed(settings, images, group, coder, width, scale), strict=True):
            if sums.count:
                weight[label], bias[label] = sums.solve(settings, scale)
            else:
                without.append(label)
    return LinearFit(weight.reshape(4 * classes, width), bias.reshape(-1), tuple(without))


class _Sums:
    """The terms of one class' normal equations: X^T X and X^T Y, with the bias feature as the last column of X."""

    def __init__(self, width: int) -> None:
        self.gram, self.cross = np.zeros((width + 1, width + 1)), np.zeros((width + 1, 4))
        self.targets: list[FloatArray] = []
        self.block: list[FloatArray] = []
        self.block_length = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.targets))

    def add(self, x: FloatArray, y: FloatArray) -> None:
        """Adds vectors (n, d), scaled, and their deltas (n, 4)."""
        self.block.append(np.concatenate([x, np.ones((len(x), 1))], 1))
        self.targets.append(y)
        self.block_length += len(x)
        if self.block_length >= BLOCK:
            self.flush()

    def flush(self) -> None:
        if self.block_length:
            x, y = np.concatenate(self.block), np.concatenate(self.targets)[-self.block_length :]
            self.gram += x.T @ x
            self.cross += x.T @ y
            self.block, self.block_length = [], 0

    def solve(self, settings: Ridge, scale: float) -> tuple[FloatArray, FloatArray]:
        """Weights (4, d) and biases (4,). Y = (X beta) T^-1 + mean, with T = V diag(1 / sqrt(D + eps)) V^T."""
        self.flush()
        y = np.concatenate(self.targets)
        mean = y.mean(0)
        values, vectors = np.linalg.eigh((y - mean).T @ (y - mean) / len(y))
        deviation = np.sqrt(values.clip(min=0) + settings.eps)
        whiten, unwhiten = (vectors / deviation) @ vectors.T, (vectors * deviation) @ vectors.T
        cross = (self.cross - self.gram[:, -1:] * mean) @ whiten  # the Gram matrix' last column is X^T 1
        self.gram.flat[:: len(self.gram) + 1] += settings.alpha
        beta = cho_solve(cho_factor(self.gram, overwrite_a=True), cross) @ unwhiten
        return beta[:-1].T * scale, beta[-1] + mean


def _summed(
    settings: Ridge, images: Iterable[ImageFeatures], group: Sequence[int], coder: Coder, width: int, scale: float
) -> list[_Sums]:
    """The sums of the classes of a group, from one pass."""
    all_sums = [_Sums(width) for _ in group]
    for image in images:
        if not len(image):
            continue
        best = np.where(image.labels < 0, image.overlaps.max(1), 0.0)
        nearest = image.overlaps.argmax(1)
        for label, sums in zip(group, all_sums, strict=True):
            chosen = (best > settings.iou) & (nearest == label)
            if chosen.any():
                boxes, truth = (torch.as_tensor(b[chosen], dtype=torch.float64) for b in (image.boxes, image.truth))
                sums.add(image.features[chosen].astype(np.float64) * scale, coder.encode(truth, boxes).numpy())
    return all_sums
