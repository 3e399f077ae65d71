"""Class losses. A loss is pluggable because it owns what depends on it: how many logits it wants, how they become
scores, the bias the head starts with, and what the sum of its rows is divided by.

Every loss of the sigmoid family is written twice: ``formula`` is the documented form, in the paper's words, and
``curve`` its parameters for the fast one (:mod:`foveal.parts.losses.sigmoid_kernel`). Tests hold them together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ...types import Match
from ..coders import at_least_fp32
from .normalizers import Normalizer, PerImage, Positives, Sampled
from .sigmoid_kernel import SigmoidLossParams, sigmoid_rows


class ClassLoss(ABC):
    """Subclasses are frozen dataclasses; each has the two fields named here."""

    normalizer: Normalizer
    weight: float

    @property
    @abstractmethod
    def monotone(self) -> bool:
        """Whether a score rises with its own logit alone, so that candidates may be chosen on logits."""

    @abstractmethod
    def channels(self, classes: int) -> int:
        """How many logits K a prior needs for C classes."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        """logits (B, A, K), labels (B, A) int64, positive (B, A) bool -> loss of every row (B, A) float32.

        Rows that are not positive are background, whatever their label. Neither normalized nor weighted.
        """

    def row_weight(self, positive: Tensor) -> Tensor | None:
        """How often each row counts, (B, A), in the sum and in what it is divided by; None: once."""
        return None

    def extra_class_loss(self, logits: Tensor, labels: Tensor, match: Match) -> Tensor | None:
        """What ``match.extra_objects``'s objects, of these labels (B, G), add to their priors' rows: (B, A).

        None where a row knows one class alone.
        """
        return None

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """logits (..., K) -> probabilities (..., C) float32."""

    @abstractmethod
    def bias(self, classes: int) -> float | None:
        """What the bias of the head's last layer starts with; None: zero."""


@dataclass(frozen=True)
class CrossEntropy(ClassLoss):
    """Softmax cross entropy: -ln of the probability of the right class.

    With ``background`` the last of C + 1 columns stands for it. Without, there is none: rows that are not positive
    have no loss, and something else (an objectness) must say where objects are.
    """

    background: bool = True
    normalizer: Normalizer = Sampled()
    weight: float = 1.0
    background_weight: float = 1.0  # how often a row of background counts (DETR: 0.1); :class:`Sampled` counts it so

    def __post_init__(self) -> None:
        if not self.background_weight > 0:
            raise UsageError(f"CrossEntropy(background_weight={self.background_weight}): expected more than zero")

    @property
    def monotone(self) -> bool:
        return False

    def row_weight(self, positive: Tensor) -> Tensor | None:
        return None if self.background_weight == 1 else torch.where(positive, 1.0, self.background_weight)

    def channels(self, classes: int) -> int:
        return classes + self.background

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        target = torch.where(positive, labels, logits.shape[-1] - 1 if self.background else 0)
        rows = at_least_fp32(logits).flatten(0, -2)
        loss = F.cross_entropy(rows, target.flatten(), reduction="none").view(positive.shape)
        return loss if self.background else torch.where(positive, loss, 0.0)

    def scores(self, logits: Tensor) -> Tensor:
        probabilities = logits.float().softmax(-1)
        return probabilities[..., :-1] if self.background else probabilities

    def bias(self, classes: int) -> float | None:
        return None


class SigmoidLoss(ClassLoss):
    """One yes-or-no question for each class; background is "no" to all. A row's loss is the sum over its classes."""

    @property
    @abstractmethod
    def curve(self) -> SigmoidLossParams:
        """The loss in the fast form's parameters."""

    @abstractmethod
    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        """The documented form: logits x and answers y (0 or 1) of one shape -> loss of every entry."""

    @property
    def monotone(self) -> bool:
        return True

    def channels(self, classes: int) -> int:
        return classes

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        return sigmoid_rows(logits, labels, positive, self.curve)

    def extra_class_loss(self, logits: Tensor, labels: Tensor, match: Match) -> Tensor | None:
        """Their classes are answered with yes too, each once (Darknet's ``yolo`` layer)."""
        if match.extra_objects is None:
            return None
        prior, counts = match.extra_objects  # (B, G)
        entry = prior * logits.shape[-1] + labels
        first = ~((entry[:, :, None] == entry[:, None]) & counts[:, None]).tril(-1).any(-1)
        known = labels.gather(1, match.gt.gather(1, prior)) == labels  # the class that the row answers anyway
        x = at_least_fp32(logits.flatten(1).gather(1, entry))
        more = self.formula(x, torch.ones_like(x)) - self.formula(x, torch.zeros_like(x))
        rows = torch.zeros(match.gt.shape, dtype=x.dtype, device=x.device)
        return rows.scatter_add(1, prior, torch.where(counts & first & ~known, more, 0.0))

    def plain(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        """What ``__call__`` computes, by one-hot answers and :meth:`formula`: slow, and many times its memory."""
        x = at_least_fp32(logits)
        y = F.one_hot(torch.where(positive, labels, 0), logits.shape[-1]) * positive[..., None]
        return self.formula(x, y.to(x.dtype)).sum(-1)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()


@dataclass(frozen=True)
class BinaryCrossEntropy(SigmoidLoss):
    """-ln p_t, with p_t = p for the object's class and 1 - p for the others; p = sigmoid(x)."""

    prior: float | None = None  # probability of an object the head starts with; None: one half
    normalizer: Normalizer = Sampled()
    weight: float = 1.0
    background: bool = True  # False: rows without an object have no loss (YOLOv3), an objectness says where objects are

    def __post_init__(self) -> None:
        _check(self, prior=self.prior)

    @property
    def curve(self) -> SigmoidLossParams:
        return SigmoidLossParams()

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        loss = super().__call__(logits, labels, positive)
        return loss if self.background else torch.where(positive, loss, 0.0)

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, y, reduction="none")

    def bias(self, classes: int) -> float | None:
        return prior_bias(self.prior)


@dataclass(frozen=True)
class BalancedCrossEntropy(SigmoidLoss):
    """-alpha_t ln p_t, with alpha_t = alpha for the object's class, 1 - alpha for the others (Focal Loss, eq. 3)."""

    alpha: float = 0.25
    prior: float | None = 0.01
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, alpha=self.alpha, prior=self.prior)

    @property
    def curve(self) -> SigmoidLossParams:
        return SigmoidLossParams(positive=self.alpha, negative=1 - self.alpha)

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        return _balance(y, self.alpha) * F.binary_cross_entropy_with_logits(x, y, reduction="none")

    def bias(self, classes: int) -> float | None:
        return prior_bias(self.prior)


@dataclass(frozen=True)
class Focal(SigmoidLoss):
    """-alpha_t (1 - p_t)^gamma ln p_t (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5).

    ``(1 - p_t)^gamma`` makes entries that are already right count little: at gamma 2 one with p_t = .9 counts a
    hundredth of its cross entropy. It is meant for all rows, unsampled. ``alpha=None`` leaves alpha_t out.
    """

    alpha: float | None = 0.25
    gamma: float = 2.0
    prior: float | None = 0.01
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, alpha=self.alpha, prior=self.prior)
        if not self.gamma >= 0:
            raise UsageError(f"Focal(gamma={self.gamma}): expected zero or more")

    @property
    def curve(self) -> SigmoidLossParams:
        return SigmoidLossParams(power=self.gamma, **_alpha_weights(self.alpha))

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        wrong = torch.sigmoid(torch.where(y > 0, -x, x))  # 1 - p_t
        cross_entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        return _balance(y, self.alpha) * wrong**self.gamma * cross_entropy

    def bias(self, classes: int) -> float | None:
        return prior_bias(self.prior)


@dataclass(frozen=True)
class FocalStar(SigmoidLoss):
    """-ln(p_t*) / gamma, with p_t* = sigmoid(gamma x_t + beta) and x_t = x for the object's class, -x for the others
    (Focal Loss, appendix A, eq. 6-7). The paper's choices are (gamma, beta) = (2, 1) and (4, 0).

    ``alpha`` adds the alpha_t of :class:`Focal`; the paper's formula has none. Scores are sigmoid(x), as there.
    """

    gamma: float = 2.0
    beta: float = 1.0
    alpha: float | None = None
    prior: float | None = 0.01
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, alpha=self.alpha, prior=self.prior)
        if not self.gamma > 0:
            raise UsageError(f"FocalStar(gamma={self.gamma}): expected more than zero")

    @property
    def curve(self) -> SigmoidLossParams:
        return SigmoidLossParams(slope=self.gamma, shift=self.beta, **_alpha_weights(self.alpha))

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        x_t = torch.where(y > 0, x, -x)
        return -_balance(y, self.alpha) * F.logsigmoid(self.gamma * x_t + self.beta) / self.gamma

    def bias(self, classes: int) -> float | None:
        return prior_bias(self.prior)


@dataclass(frozen=True)
class SquaredError(ClassLoss):
    """Half the squared distance to the one-hot answer, on the outputs themselves (YOLOv1, equation 3).

    Without ``background`` rows that are not positive have no loss; with it they learn zero everywhere.
    """

    background: bool = False
    normalizer: Normalizer = PerImage()
    weight: float = 1.0

    @property
    def monotone(self) -> bool:
        return True

    def channels(self, classes: int) -> int:
        return classes

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        x = at_least_fp32(logits)
        column = torch.where(positive, labels, 0)[..., None]
        y = torch.zeros_like(x).scatter(-1, column, positive[..., None].to(x.dtype))
        loss = (x - y).square().sum(-1) / 2
        return loss if self.background else torch.where(positive, loss, 0.0)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float()

    def bias(self, classes: int) -> float | None:
        return None


def prior_bias(prior: float | None) -> float | None:
    """-ln((1 - pi) / pi): the logit of probability pi, so that a new head starts by finding objects rarely.

    At pi = .01 that is -4.59512; without it the loss of the first steps is all background, and diverges.
    """
    return None if prior is None else -math.log((1 - prior) / prior)


def _alpha_weights(alpha: float | None) -> dict[str, float]:
    return {} if alpha is None else {"positive": alpha, "negative": 1 - alpha}


def _balance(y: Tensor, alpha: float | None) -> Tensor | float:
    return 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)


def _check(loss: ClassLoss, *, alpha: float | None = None, prior: float | None = None) -> None:
    name = type(loss).__name__
    if alpha is not None and not 0 <= alpha <= 1:
        raise UsageError(f"{name}(alpha={alpha}): expected a number from 0 to 1")
    if prior is not None and not 0 < prior < 1:
        raise UsageError(f"{name}(prior={prior}): expected a probability between 0 and 1")
