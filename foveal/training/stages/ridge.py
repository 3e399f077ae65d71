"""R-CNN's box layer: ridge regression of whitened box deltas for each class, folded into an ordinary linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from ...parts.coders import Coder
from ...recipe import Ridge
from .feature_rows import Floats, ImageFeatures, LinearFit, mean_norm

MEMORY = 2 << 30  # bytes: classes whose matrices do not fit in together take turns, a pass over the images each time
BLOCK = 1024  # rows added to a class' matrix at once


def fit_ridge(
    settings: Ridge, images: Iterable[ImageFeatures], classes: int, coder: Coder, memory: int = MEMORY
) -> LinearFit:
    """The layer (4 C, d) whose outputs are the deltas of ``coder``, class by class.

    ``images`` is gone through once for the scale and once for every so many classes as fit into ``memory``, always in
    one order. Deterministic. A class without a proposal to learn from keeps boxes as they are, and is listed in
    ``without``.
    """
    scale = settings.norm / mean_norm(images)
    width = max((rows.features.shape[1] for rows in images if len(rows)), default=0)
    weight, bias = np.zeros((classes, 4, width), np.float32), np.zeros((classes, 4), np.float32)
    together = max(1, memory // (8 * (width + 1) ** 2))
    without: list[int] = []
    for start in range(0, classes, together):
        group = range(start, min(classes, start + together))
        for label, sums in zip(group, _summed(settings, images, group, coder, width, scale), strict=True):
            if sums.count:
                weight[label], bias[label] = sums.solve(settings, scale)
            else:
                without.append(label)
    return LinearFit(weight.reshape(4 * classes, width), bias.reshape(-1), tuple(without))


class _Sums:
    """What the normal equations of one class need: X^T X and X^T Y, with the bias feature as X's last column."""

    def __init__(self, width: int) -> None:
        self.gram, self.cross = np.zeros((width + 1, width + 1)), np.zeros((width + 1, 4))
        self.targets: list[Floats] = []
        self.waiting: list[Floats] = []
        self.held = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.targets))

    def add(self, x: Floats, y: Floats) -> None:
        """ImageFeatures (n, d), scaled, and their deltas (n, 4)."""
        self.waiting.append(np.concatenate([x, np.ones((len(x), 1))], 1))
        self.targets.append(y)
        self.held += len(x)
        if self.held >= BLOCK:
            self.flush()

    def flush(self) -> None:
        if self.held:
            x, y = np.concatenate(self.waiting), np.concatenate(self.targets)[-self.held :]
            self.gram += x.T @ x
            self.cross += x.T @ y
            self.waiting, self.held = [], 0

    def solve(self, settings: Ridge, scale: float) -> tuple[Floats, Floats]:
        """Weights (4, d) and biases (4,). Y = (X beta) T^-1 + mean, with T = V diag(1 / sqrt(D + eps)) V^T."""
        self.flush()
        y = np.concatenate(self.targets)
        mean = y.mean(0)
        values, vectors = np.linalg.eigh((y - mean).T @ (y - mean) / len(y))
        spread = np.sqrt(values.clip(min=0) + settings.eps)
        whiten, back = (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
        cross = (self.cross - self.gram[:, -1:] * mean) @ whiten  # the Gram matrix' last column is X^T 1
        self.gram.flat[:: len(self.gram) + 1] += settings.alpha
        beta = cho_solve(cho_factor(self.gram, overwrite_a=True), cross) @ back
        return beta[:-1].T * scale, beta[-1] + mean


def _summed(
    settings: Ridge, images: Iterable[ImageFeatures], group: Sequence[int], coder: Coder, width: int, scale: float
) -> list[_Sums]:
    """One pass: the sums of these classes."""
    found = [_Sums(width) for _ in group]
    for rows in images:
        if not len(rows):
            continue
        best = np.where(rows.labels < 0, rows.overlaps.max(1), 0.0)
        nearest = rows.overlaps.argmax(1)
        for label, sums in zip(group, found, strict=True):
            chosen = (best > settings.iou) & (nearest == label)
            if chosen.any():
                boxes, truth = (torch.as_tensor(b[chosen], dtype=torch.float64) for b in (rows.boxes, rows.truth))
                sums.add(rows.features[chosen].astype(np.float64) * scale, coder.encode(truth, boxes).numpy())
    return found
