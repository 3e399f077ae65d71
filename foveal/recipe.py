"""The recipe a detector is trained by: solver, learning rate and the batch it was made for, schedule, stages.

Everything here is a frozen dataclass: it prints, compares and parses back. ``foveal/train`` executes it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from .errors import UsageError

Treatment = Literal["learn", "ignore", "drop"]
Precision = Literal["32", "bf16", "16"]
Inputs = Literal["images", "windows", "maps", "proposals", "features"]


# ---------------------------------------------------------------------------------------------- solvers
@dataclass(frozen=True)
class Solver(ABC):
    """How gradients become updates."""

    @property
    @abstractmethod
    def decay(self) -> float:
        """The weight decay of ordinary weights."""

    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """A *fused* torch optimizer over parameter groups (each with its own ``lr`` and ``weight_decay``).

        Fused, because only that form can skip an update on the device (``found_inf``), without asking the host.
        """


@dataclass(frozen=True)
class SGD(Solver):
    """Stochastic gradient descent, torch's form: v = m v + g; w = w - lr v."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False

    @property
    def decay(self) -> float:
        return self.weight_decay

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(groups), lr=0.0, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True)
class AdamW(Solver):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def decay(self) -> float:
        return self.weight_decay

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(groups), lr=0.0, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


# ------------------------------------------------------------------------------------- solved, not descended
@dataclass(frozen=True)
class SVM:
    """One linear SVM for each class, by liblinear, on stored features: R-CNN's class layer (section 2.3).

    Positives are the objects themselves, negatives the windows that overlap them little; the rest is left out. One
    pass looks for hard negatives: of the first image all are taken, later those that score above ``hard``; a class is
    solved again when more than ``retrain`` are new, and then forgets those under ``easy``.
    """

    c: float = 1e-3  # weight of the hinge losses against the squared length of the weights
    positive_weight: float = 2.0  # of an object's loss, a negative's is 1
    bias_feature: float = 10.0  # what is appended to every vector; its weight is the bias, and is penalized too
    norm: float = 20.0  # vectors are scaled to this mean length
    negative: float = 0.3  # a window whose IoU with all objects of the class lies below is a negative
    hard: float = -1.0001  # margin above which a negative is added
    easy: float = -1.2  # margin below which one is dropped
    retrain: int = 2000  # new negatives that call for a new solution

    def __post_init__(self) -> None:
        if not (self.c > 0 and self.positive_weight > 0 and self.norm > 0 and self.retrain >= 1):
            raise UsageError(f"{self}: c, positive_weight and norm must be more than 0, retrain 1 or more")


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of each class' box deltas on stored features: R-CNN's box layer (section 2.3, appendix C).

    It learns from the proposals that overlap an object by more than ``iou``, each with the one it overlaps most. The
    targets of a class are centerd and whitened (ZCA); a bias feature of 1 is appended and penalized like the rest.
    """

    alpha: float = 1000.0  # weight of the squared length of the weights
    iou: float = 0.6  # a proposal counts above this overlap
    norm: float = 20.0  # vectors are scaled to this mean length
    eps: float = 1e-3  # added to the targets' variances before whitening

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.norm > 0 and self.eps > 0 and 0 <= self.iou < 1):
            raise UsageError(f"{self}: alpha, norm and eps must be more than 0, and iou lie in [0, 1)")


# -------------------------------------------------------------------------------------------- schedules
@dataclass(frozen=True)
class Schedule(ABC):
    """How the learning rate falls. Warm-up is not its business."""

    @abstractmethod
    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        """What the learning rate is multiplied with in update ``step`` (from 0) of ``steps``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout."""

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """Falls by ``factor`` at each of ``at``: below 1 a fraction of the training, from 1 on an epoch."""

    at: tuple[float, ...] = (0.66, 0.9)
    factor: float = 0.1

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        marks = [a * steps if a < 1 else a * per_epoch for a in self.at]
        # a mark that floating point puts a hair above its step (0.9 * 10 * ...) still counts as reached
        return float(self.factor ** sum(step + 1e-6 >= mark for mark in marks))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` (Loshchilov and Hutter, 2017, without restarts)."""

    final: float = 0.0

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        done = min(1.0, step / max(1, steps))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


# --------------------------------------------------------------------------------------------- the recipe
@dataclass(frozen=True)
class WindowSampling:
    """How windows are drawn over the whole training set, one by one and with replacement (R-CNN, section 2.3)."""

    positive: float = 0.25  # share of the batch that overlaps an object by ``iou`` or more: 32 of 128
    iou: float = 0.5
    low: float = 0.0  # the rest overlaps every object by less than ``iou``, and one by this much at least (SPP-Net: .1)
    per_image: int = 64  # windows an epoch, for each training image

    def __post_init__(self) -> None:
        if not (0 < self.positive < 1 and 0 <= self.low < self.iou <= 1 and self.per_image >= 1):
            raise UsageError(f"{self}: expected 0 < positive < 1, 0 <= low < iou <= 1, per_image of at least 1")


@dataclass(frozen=True)
class Stage:
    """One part of the fitting: which parameters learn, from what, how, and for how long.

    ``None`` takes the recipe's own value. Parameters that no prefix of ``trains`` names keep still. ``inputs``:

    - "images": batches of whole images;
    - "windows": batches of crops, drawn over the whole set by ``draw``; ``fit.batch`` counts them;
    - "maps": the same windows, looked at on the maps of a backbone that keeps still, which are stored once;
    - "proposals": batches of whole images with the proposals that the detector's own RPN makes of them as the stage
      begins, which are stored; the RPN rests;
    - "features": what the head's last layers see of all windows, computed once and stored; ``solver`` is
      :class:`SVM` (the class layer) or :class:`Ridge` (the box layer), and takes neither a rate nor epochs.
    """

    trains: tuple[str, ...] = ("",)  # prefixes of parameter names; "" is every one
    inputs: Inputs = "images"  # what it learns from
    task: Literal["rpn", "roi"] | None = None  # of a detector with both, the one whose losses alone count; None: all
    begin: tuple[str, ...] = ()  # prefixes of what goes back to where the training began, buffers included
    solver: Solver | SVM | Ridge | None = None
    lr: float | None = None
    epochs: int | None = None
    draw: WindowSampling = WindowSampling()  # of windows

    def __post_init__(self) -> None:
        if self.inputs not in get_args(Inputs):
            raise UsageError(f"fit.stages: inputs is {self.inputs!r}, not one of {', '.join(get_args(Inputs))}")
        if self.task not in (None, "rpn", "roi"):
            raise UsageError(f"fit.stages: task is {self.task!r}, not one of rpn, roi, None")
        if self.task is not None and self.inputs != "images":
            raise UsageError('fit.stages: task is for inputs="images"', fix="Leave task out")
        if (self.inputs == "features") != isinstance(self.solver, SVM | Ridge):
            raise UsageError("fit.stages: SVM and Ridge learn from features, and nothing else does", fix=str(self))
        if self.inputs == "features" and (self.lr is not None or self.epochs is not None):
            raise UsageError("fit.stages: SVM and Ridge are solved, and have neither lr nor epochs")
        if self.inputs not in ("windows", "maps") and self.draw != WindowSampling():
            raise UsageError('fit.stages: draw is for inputs="windows" and "maps"')
        if not self.trains:
            raise UsageError('fit.stages: trains is empty, so nothing would learn; ("",) is everything')
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"fit.stages: epochs is {self.epochs}; it must be at least 1, or None")
        if self.lr is not None and not 0 <= self.lr < math.inf:
            raise UsageError(f"fit.stages: lr is {self.lr}; it must be 0 or more and finite, or None")

    @property
    def learning(self) -> Literal["rpn", "roi"] | None:
        """The task whose losses alone count; None: all."""
        return "roi" if self.inputs == "proposals" else self.task

    @property
    def alone(self) -> bool:
        """Whether it begins with work of its own, so that no loop runs it together with the stage before it."""
        return self.inputs in ("proposals", "features") or bool(self.begin)

    @property
    def kind(self) -> tuple[str, WindowSampling, str | None]:
        """What stages that one loop runs have in common."""
        return self.inputs, self.draw, self.task


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained."""

    epochs: int = 12
    batch: int = 16  # images an update, over all processes; the batch ``lr`` was made for
    lr: float = 0.01  # scaled linearly where the run uses another batch
    solver: Solver = SGD()
    schedule: Schedule = Steps()
    warmup_steps: int = 500  # updates of warm-up, a fifth of the training at most
    warmup_factor: float = 0.001  # where the warm-up starts
    warmup_power: float = 1.0  # how the warm-up bends: 1 a straight line, 4 Darknet's burn-in
    clip: float | None = None  # largest norm of all gradients together
    accumulate: int = 1  # parts a batch is run in, one after the other, to save memory
    ema: float | None = None  # decay of the averaged weights; None: no average
    early_stop: int | None = None  # validations without a better AP before it ends; None: never
    val_every: int = 1  # epochs between validations (the last epoch always has one)
    augment: tuple[Any, ...] = ()  # transforms of ``foveal.data.augment.transforms``, in order
    difficult: Treatment = "learn"  # objects marked difficult (VOC)
    crowd: Treatment = "ignore"  # regions marked crowd (COCO)
    precision: Precision | None = None  # None: bf16 where the processor is fast at it, else 32
    norm_decay: bool = True  # weight decay on the weights and biases of norm layers too
    bias_decay: bool = True  # and on other biases
    bias_lr: float = 1.0  # times the learning rate, for biases (Caffe's detectors use 2)
    backbone_lr: float = 1.0  # times the learning rate, for parameters under ``backbone`` (DETR uses 0.1)
    predictor_lr: float = 1.0  # times the learning rate, for a head's last layers, under ``predictor`` (R-CNN uses 10)
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "val_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "warmup_steps", "warmup_factor", "warmup_power", "bias_lr", "backbone_lr", "predictor_lr"):
            if not 0 <= getattr(self, name) < math.inf:  # so written, it refuses nan too
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must be 0 or more and finite")
        if self.early_stop is not None and self.early_stop < 1:
            raise UsageError(f"fit.early_stop is {self.early_stop}; it must be at least 1, or None")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UsageError(f"fit.ema is {self.ema}; it must lie in [0, 1), or be None")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"fit.clip is {self.clip}; it must be positive, or None")
        if not self.stages:
            raise UsageError("fit.stages is empty; a recipe has at least one stage")
        if self.early_stop is not None and any(stage.task == "rpn" for stage in self.stages):
            raise UsageError("fit.early_stop goes by AP, which says little while the RPN learns alone", fix="Use None")

    @property
    def segments(self) -> list[tuple[Stage, ...]]:
        """The stages in groups of neighbors that one loop runs: those of the same inputs and losses."""
        groups: list[list[Stage]] = []
        for stage in self.stages:
            if groups and not stage.alone and stage.kind == groups[-1][-1].kind:
                groups[-1].append(stage)
            else:
                groups.append([stage])
        return [tuple(group) for group in groups]

    def scaled_lr(self, batch: int, stage: Stage | None = None) -> float:
        """The learning rate for ``batch`` images an update: linear in the batch (Goyal et al., 2017)."""
        base = self.lr if stage is None or stage.lr is None else stage.lr
        return base * batch / self.batch

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        """Warm-up times schedule, for update ``step`` (from 0) of ``steps``."""
        warmup = min(self.warmup_steps, steps // 5)
        rise = 1.0
        if step < warmup:
            done = (step / warmup) ** self.warmup_power
            rise = self.warmup_factor * (1 - done) + done
        return rise * self.schedule.scale(step, steps, per_epoch)
