"""How weights are fitted: the optimizers of stages of iterations, and the closed-form fits of R-CNN's last layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UsageError


# ------------------------------------------------------------------------------------------- optimizers
@dataclass(frozen=True)
class Solver(ABC):
    """An optimizer and its settings."""

    @property
    @abstractmethod
    def weight_decay(self) -> float:
        """The decay of all weights but those that the recipe exempts."""

    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """A torch optimizer over parameter groups (each with its own ``lr`` and ``weight_decay``), *fused*: only that
        form can skip an iteration on the device (``found_inf``) without a synchronization."""


@dataclass(frozen=True)
class SGD(Solver):
    """Stochastic gradient descent, torch's form: v = m v + g; w = w - lr v."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(groups), lr=0.0, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True)
class AdamW(Solver):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(groups), lr=0.0, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


# --------------------------------------------------------------------------------------- closed-form fits
@dataclass(frozen=True)
class SVM:
    """One linear SVM for each class, by liblinear, on stored features: R-CNN's class layer (section 2.3).

    Positives are the objects themselves, negatives the windows that overlap them little; all others are ignored. One
    pass mines hard negatives: of the first image all are added, later those that score above ``hard``; a class is
    fitted again when more than ``retrain`` are new, and then drops those under ``easy``.
    """

    c: float = 1e-3  # weight of the hinge losses against the squared length of the weights
    positive_weight: float = 2.0  # of an object's loss, a negative's is 1
    bias_feature: float = 10.0  # what is appended to every vector; its weight is the bias, and is penalized too
    norm: float = 20.0  # vectors are scaled to this mean length
    negative: float = 0.3  # a window whose IoU with all objects of the class lies below is a negative
    hard: float = -1.0001  # margin above which a negative is added
    easy: float = -1.2  # margin below which one is dropped
    retrain: int = 2000  # new negatives after which the class is fitted again

    def __post_init__(self) -> None:
        if not (self.c > 0 and self.positive_weight > 0 and self.norm > 0 and self.retrain >= 1):
            raise UsageError(f"{self}: c, positive_weight and norm must be more than 0, retrain 1 or more")


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of each class' box deltas on stored features: R-CNN's box layer (section 2.3, appendix C).

    It is fitted to the proposals that overlap an object by more than ``iou``, each with the one it overlaps most. The
    targets of a class are centered and whitened (ZCA); a bias feature of 1 is appended and penalized like the rest.
    """

    alpha: float = 1000.0  # weight of the squared length of the weights
    iou: float = 0.6  # a proposal counts above this overlap
    norm: float = 20.0  # vectors are scaled to this mean length
    eps: float = 1e-3  # added to the targets' variances before whitening

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.norm > 0 and self.eps > 0 and 0 <= self.iou < 1):
            raise UsageError(f"{self}: alpha, norm and eps must be more than 0, and iou lie in [0, 1)")
