"""Class losses; the fast kernel of the sigmoid losses is in ``sigmoid_kernel.py`` (value and gradient in one pass).

A loss owns what depends on it: the number of logits, how they become scores, the head's initial bias and the
normalizer. Sigmoid losses have two forms, which tests compare: ``formula``, the paper's, and ``params``, the kernel's.
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
from .sigmoid_kernel import SigmoidLossParams, sigmoid_loss


class ClassLoss(ABC):
    """The role of a class loss. Subclasses are frozen dataclasses with these two fields."""

    normalizer: Normalizer
    weight: float

    @property
    @abstractmethod
    def monotone(self) -> bool:
        """Whether each score rises with its own logit alone, so that candidates may be chosen by logit."""

    @abstractmethod
    def channels(self, classes: int) -> int:
        """The number K of logits of a prior, for C classes."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        """logits (B, A, K), labels (B, A) int64, positive (B, A) bool -> loss of every prior (B, A) float32.

        Priors that are not positive are background, whatever their label. Neither normalized nor weighted.
        """

    def prior_weight(self, positive: Tensor) -> Tensor | None:
        """The weight of each prior, (B, A), in the sum and in its normalizer; None: 1."""
        return None

    def extra_class_loss(self, logits: Tensor, labels: Tensor, match: Match) -> Tensor | None:
        """The loss (B, A) that ``match.extra_objects`` add to their priors, given the labels (B, G) of the objects.

        None where a prior can have one class alone.
        """
        return None

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """logits (..., K) -> probabilities (..., C) float32."""

    def bias(self, classes: int) -> float | None:
        """The initial bias of the head's last layer; None: zero."""
        return None


@dataclass(frozen=True)
class CrossEntropy(ClassLoss):
    """Softmax cross entropy: -ln of the probability of the right class.

    With ``background`` it is the last of C + 1 columns. Without, priors that are not positive have no loss, and an
    objectness must learn where objects are.
    """

    background: bool = True
    normalizer: Normalizer = Sampled()
    weight: float = 1.0
    background_weight: float = 1.0  # weight of a background prior (DETR: 0.1), also in :class:`Sampled`

    def __post_init__(self) -> None:
        if not self.background_weight > 0:
            raise UsageError(f"CrossEntropy(background_weight={self.background_weight}): expected more than 0")

    @property
    def monotone(self) -> bool:
        return False

    def prior_weight(self, positive: Tensor) -> Tensor | None:
        return None if self.background_weight == 1 else torch.where(positive, 1.0, self.background_weight)

    def channels(self, classes: int) -> int:
        return classes + self.background

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        target = torch.where(positive, labels, logits.shape[-1] - 1 if self.background else 0)
        flat = at_least_fp32(logits).flatten(0, -2)
        loss = F.cross_entropy(flat, target.flatten(), reduction="none").view(positive.shape)
        return loss if self.background else torch.where(positive, loss, 0.0)

    def scores(self, logits: Tensor) -> Tensor:
        probabilities = logits.float().softmax(-1)
        return probabilities[..., :-1] if self.background else probabilities


class SigmoidLoss(ClassLoss):
    """One binary classifier a class; background is negative in all. The loss of a prior is the sum over the classes."""

    prior: float | None

    @property
    @abstractmethod
    def params(self) -> SigmoidLossParams:
        """The loss in the parameters of the fast kernel."""

    @abstractmethod
    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        """The documented form: logits x and targets y (0 or 1) of one shape -> loss of every entry."""

    @property
    def monotone(self) -> bool:
        return True

    def channels(self, classes: int) -> int:
        return classes

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        return sigmoid_loss(logits, labels, positive, self.params)

    def extra_class_loss(self, logits: Tensor, labels: Tensor, match: Match) -> Tensor | None:
        """Their classes are positive too, each once (Darknet's ``yolo`` layer)."""
        if match.extra_objects is None:
            return None
        prior, counts = match.extra_objects  # (B, G)
        entry = prior * logits.shape[-1] + labels
        first = ~((entry[:, :, None] == entry[:, None]) & counts[:, None]).tril(-1).any(-1)
        known = labels.gather(1, match.gt.gather(1, prior)) == labels  # the class of the prior's own object
        x = at_least_fp32(logits.flatten(1).gather(1, entry))
        more = self.formula(x, torch.ones_like(x)) - self.formula(x, torch.zeros_like(x))
        losses = torch.zeros(match.gt.shape, dtype=x.dtype, device=x.device)
        return losses.scatter_add(1, prior, torch.where(counts & first & ~known, more, 0.0))

    def plain(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        """The result of ``__call__`` by one-hot targets and :meth:`formula`: slower, with many times its memory."""
        x = at_least_fp32(logits)
        y = F.one_hot(torch.where(positive, labels, 0), logits.shape[-1]) * positive[..., None]
        return self.formula(x, y.to(x.dtype)).sum(-1)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def bias(self, classes: int) -> float | None:
        return prior_bias(self.prior)


@dataclass(frozen=True)
class BinaryCrossEntropy(SigmoidLoss):
    """-ln p_t, with p_t = p for the object's class and 1 - p for the others; p = sigmoid(x)."""

    prior: float | None = None  # initial probability of an object; None: one half
    normalizer: Normalizer = Sampled()
    weight: float = 1.0
    background: bool = True  # False: priors that are not positive have no loss (YOLOv3, which has objectness for them)

    def __post_init__(self) -> None:
        _check(self, prior=self.prior)

    @property
    def params(self) -> SigmoidLossParams:
        return SigmoidLossParams()

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        loss = super().__call__(logits, labels, positive)
        return loss if self.background else torch.where(positive, loss, 0.0)

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, y, reduction="none")


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
    def params(self) -> SigmoidLossParams:
        return SigmoidLossParams(positive=self.alpha, negative=1 - self.alpha)

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        return _balance(y, self.alpha) * F.binary_cross_entropy_with_logits(x, y, reduction="none")


@dataclass(frozen=True)
class Focal(SigmoidLoss):
    """-alpha_t (1 - p_t)^gamma ln p_t (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5).

    ``(1 - p_t)^gamma`` makes entries that are already right count little: at gamma 2 one with p_t = .9 counts a
    hundredth of its cross entropy. It is meant for all priors, unsampled. ``alpha`` is the weight of positive entries
    (the class of an object) and 1 - alpha that of negative ones; ``alpha=None`` leaves both weights out.
    """

    alpha: float | None = 0.25  # weight of the object's class; all other classes weigh 1 - alpha
    gamma: float = 2.0  # how strongly easy entries are down-weighted; 0: cross entropy
    prior: float | None = 0.01  # initial probability of an object (section 4.1); None: one half
    normalizer: Normalizer = Positives()
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, alpha=self.alpha, prior=self.prior)
        if not self.gamma >= 0:
            raise UsageError(f"Focal(gamma={self.gamma}): expected gamma of 0 or more")

    @property
    def params(self) -> SigmoidLossParams:
        return SigmoidLossParams(power=self.gamma, **_alpha_weights(self.alpha))

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        error = torch.sigmoid(torch.where(y > 0, -x, x))  # 1 - p_t
        cross_entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        return _balance(y, self.alpha) * error**self.gamma * cross_entropy


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
            raise UsageError(f"FocalStar(gamma={self.gamma}): expected gamma of more than 0")

    @property
    def params(self) -> SigmoidLossParams:
        return SigmoidLossParams(slope=self.gamma, shift=self.beta, **_alpha_weights(self.alpha))

    def formula(self, x: Tensor, y: Tensor) -> Tensor:
        x_t = torch.where(y > 0, x, -x)
        return -_balance(y, self.alpha) * F.logsigmoid(self.gamma * x_t + self.beta) / self.gamma


@dataclass(frozen=True)
class SquaredError(ClassLoss):
    """Half the squared distance to the one-hot target, on the outputs themselves (YOLOv1, equation 3).

    Without ``background`` priors that are not positive have no loss; with it their target is zero everywhere. With
    ``logistic`` it is the distance of the logistic function of the outputs (Darknet's ``new_coords``).
    """

    background: bool = False
    normalizer: Normalizer = PerImage()
    weight: float = 1.0
    logistic: bool = False

    @property
    def monotone(self) -> bool:
        return True

    def channels(self, classes: int) -> int:
        return classes

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        x = at_least_fp32(logits)
        x = x.sigmoid() if self.logistic else x
        column = torch.where(positive, labels, 0)[..., None]
        y = torch.zeros_like(x).scatter(-1, column, positive[..., None].to(x.dtype))
        loss = (x - y).square().sum(-1) / 2
        return loss if self.background else torch.where(positive, loss, 0.0)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid() if self.logistic else logits.float()


def prior_bias(prior: float | None) -> float | None:
    """-ln((1 - pi) / pi): the logit of probability pi, the initial score of a new head everywhere.

    At pi = .01 that is -4.59512; without it the loss of the first iterations is all background, and diverges.
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
