"""The training recipe: optimizer, learning rate and its schedule, batch size, augmentation, stages. All of it are
frozen dataclasses that print, compare and parse back; ``foveal/training`` executes them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ..errors import UsageError
from .solvers import SGD, SVM, AdamW, Ridge, Solver

__all__ = [
    "SGD",
    "SVM",
    "AdamW",
    "Constant",
    "Cosine",
    "GradientStage",
    "Keep",
    "OnImages",
    "OnProposals",
    "OnStoredMaps",
    "OnWindows",
    "Precision",
    "Recipe",
    "Ridge",
    "Schedule",
    "Solve",
    "Solver",
    "Stage",
    "Steps",
    "Task",
    "Treatment",
    "WindowSampling",
]

Treatment = Literal["learn", "ignore", "drop"]
Precision = Literal["32", "bf16", "16"]
Task = Literal["rpn", "roi"]
Keep = Literal["best", "last"]


# -------------------------------------------------------------------------------------------- schedules
@dataclass(frozen=True)
class Schedule(ABC):
    """The learning rate as a function of the iteration, warm-up excluded."""

    @abstractmethod
    def scale(self, step: float, steps: int, per_epoch: int) -> float:
        """The factor on the learning rate in iteration ``step`` (from 0) of ``steps``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout."""

    def scale(self, step: float, steps: int, per_epoch: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """Falls by ``factor`` at each of ``at``: below 1 a fraction of all iterations, from 1 on an epoch."""

    at: tuple[float, ...] = (0.66, 0.9)
    factor: float = 0.1

    def scale(self, step: float, steps: int, per_epoch: int) -> float:
        marks = [a * steps if a < 1 else a * per_epoch for a in self.at]
        # a mark that floating point puts a hair above its step (0.9 * 10 * ...) still counts as reached
        return float(self.factor ** sum(step + 1e-6 >= mark for mark in marks))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` (Loshchilov and Hutter, 2017, without restarts)."""

    final: float = 0.0

    def scale(self, step: float, steps: int, per_epoch: int) -> float:
        done = min(1.0, step / max(1, steps))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


# ----------------------------------------------------------------------------------------------- stages
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
class Stage(ABC):
    """One stage of training. Parameters that no prefix of ``trains`` names are frozen."""

    trains: tuple[str, ...] = field(default=("",), kw_only=True)  # prefixes of parameter names; "" is every one

    def __post_init__(self) -> None:
        if not self.trains:
            raise UsageError('fit.stages: trains is empty, so nothing would learn; ("",) is everything')

    @property
    @abstractmethod
    def learning(self) -> Task | None:
        """The task whose losses alone count; None: all."""


@dataclass(frozen=True)
class GradientStage(Stage, ABC):
    """A stage of iterations; ``None`` takes the recipe's value. The subclasses are what it learns from."""

    begin: tuple[str, ...] = field(default=(), kw_only=True)  # prefixes of what is reset to its initial values first
    solver: Solver | None = field(default=None, kw_only=True)
    lr: float | None = field(default=None, kw_only=True)
    epochs: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"fit.stages: epochs is {self.epochs}; it must be at least 1, or None")
        if self.lr is not None and not 0 <= self.lr < math.inf:
            raise UsageError(f"fit.stages: lr is {self.lr}; it must be 0 or more and finite, or None")

    def joins(self, before: Stage) -> bool:
        """Whether one loop runs ``before`` and this stage: the same inputs and losses, and nothing reset."""
        shared = {f.name: getattr(self, f.name) for f in fields(GradientStage)}
        return not self.begin and type(before) is type(self) and replace(before, **shared) == self


@dataclass(frozen=True)
class OnImages(GradientStage):
    """Learns from batches of whole images."""

    task: Task | None = None  # of a detector with both, the one whose losses alone count; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in (None, "rpn", "roi"):
            raise UsageError(f"fit.stages: task is {self.task!r}, not one of rpn, roi, None")

    @property
    def learning(self) -> Task | None:
        return self.task


@dataclass(frozen=True)
class OnWindows(GradientStage):
    """Learns from crops, drawn over the whole training set; ``fit.batch`` counts them."""

    draw: WindowSampling = WindowSampling()
    learning = None


@dataclass(frozen=True)
class OnStoredMaps(GradientStage):
    """Learns from windows that are pooled from the feature maps of a frozen backbone, computed once and stored."""

    draw: WindowSampling = WindowSampling()
    learning = None


@dataclass(frozen=True)
class OnProposals(GradientStage):
    """Learns from whole images with the proposals that the detector's own RPN, frozen, makes as the stage begins."""

    learning = "roi"

    def joins(self, before: Stage) -> bool:
        return False


@dataclass(frozen=True)
class Solve(Stage):
    """Fits a last layer of the head in closed form to stored features of all windows."""

    solver: SVM | Ridge  # SVM: the class layer; Ridge: the box layer
    learning = None


# ------------------------------------------------------------------------------------------- frozen layers
@dataclass(frozen=True)
class FrozenMaps:
    """What the frozen first layers of the backbone compute is stored for each view of an image and not computed again.

    The maps lie in the run folder until the run ends. Batches are of images whose canvases have one size where
    possible, so that few views are needed.
    """

    gigabytes: float = 4.0  # limit of what is stored; the maps of further views are computed each time
    views: int | None = None  # augmentations of each image, shown one an epoch, in turn; None: a flip, few sizes alone
    precision: Literal["32", "16"] = "16"  # of stored fp32 maps (16: relative error 2^-11); bf16 ones stay as they are

    def __post_init__(self) -> None:
        if not 0 < self.gigabytes < math.inf:
            raise UsageError(f"gigabytes is {self.gigabytes}; it must be more than 0 and finite")
        if self.views is not None and self.views < 1:
            raise UsageError(f"views is {self.views}; it must be at least 1, or None")
        if self.precision not in ("32", "16"):
            raise UsageError(f"precision is {self.precision!r}, not one of 32, 16")


# --------------------------------------------------------------------------------------------- the recipe
@dataclass(frozen=True)
class Recipe:
    """How a detector is trained."""

    epochs: int = 12
    batch: int = 16  # images an iteration, over all processes; the batch that ``lr`` is for
    lr: float = 0.01  # scaled linearly where the run uses another batch
    solver: Solver = SGD()
    schedule: Schedule = Steps()
    warmup_steps: int = 500  # iterations of warm-up, at most, ...
    warmup_share: float = 0.2  # ... and at most this share of the stage's
    warmup_factor: float = 0.001  # of the learning rate, where the warm-up starts
    warmup_power: float = 1.0  # shape of the warm-up: 1 linear, 4 Darknet's burn-in
    clip: float | None = None  # largest norm of all gradients together
    accumulate: int = 1  # parts of a batch that run one after the other, to save memory
    ema: float | None = None  # decay of the averaged weights, at most; None: no average
    ema_share: float = 0.1  # of the iterations so far, that the average spans at most; 0.5: all count alike
    keep: Keep = "best"  # weights that the run is used with: those with the best AP in validation, or the last
    early_stop: int | None = None  # validations without a better AP before training stops; None: never
    val_every: int = 1  # epochs between validations (the last epoch always has one)
    augment: tuple[Any, ...] = ()  # transforms of ``foveal.data.augment``, in order
    repeat_threshold: float = 0.0  # classes in less than this share of the images come more often (LVIS); 0: never
    difficult: Treatment = "learn"  # objects marked difficult (VOC)
    crowd: Treatment = "ignore"  # regions marked crowd (COCO)
    precision: Precision | None = None  # None: the faster one, see --precision
    norm_decay: bool = True  # weight decay on the weights and biases of norm layers too
    bias_decay: bool = True  # and on other biases
    bias_lr: float = 1.0  # times the learning rate, for biases (Caffe's detectors use 2)
    backbone_lr: float = 1.0  # times the learning rate, for parameters under ``backbone`` (DETR uses 0.1)
    backbone_decay: float = 1.0  # times that, in the backbone's first layer; geometric from there to 1 in its last
    predictor_lr: float = 1.0  # times the learning rate, for a head's last layers, under ``predictor`` (R-CNN uses 10)
    frozen_maps: FrozenMaps | None = None  # stores what frozen layers compute; None: computed in every iteration
    stages: tuple[Stage, ...] = (OnImages(),)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "val_every", "early_stop"):
            if (value := getattr(self, name)) is not None and value < 1:
                none = ", or None" if name == "early_stop" else ""
                raise UsageError(f"fit.{name} is {value}; it must be at least 1{none}")
        for name in (
            *("lr", "warmup_steps", "warmup_factor", "warmup_power"),
            *("bias_lr", "backbone_lr", "backbone_decay", "predictor_lr"),
        ):
            if not 0 <= getattr(self, name) < math.inf:  # written like this, it refuses nan too
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must be 0 or more and finite")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UsageError(f"fit.ema is {self.ema}; it must lie in [0, 1), or be None")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"fit.clip is {self.clip}; it must be positive, or None")
        for name, most in (("repeat_threshold", 1), ("warmup_share", 1), ("ema_share", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must lie in [0, {most}]")
        if not self.ema_share:
            raise UsageError("fit.ema_share is 0; for no average set fit.ema=None")
        if self.keep not in ("best", "last"):
            raise UsageError(f"fit.keep is {self.keep!r}, not one of best, last")
        if self.keep == "last" and self.early_stop is not None:
            raise UsageError("fit.early_stop goes by the best AP, and fit.keep is last", fix="Use early_stop=None")
        if not self.stages:
            raise UsageError("fit.stages is empty; a recipe has at least one stage")
        if self.early_stop is not None and any(stage.learning == "rpn" for stage in self.stages):
            raise UsageError("fit.early_stop goes by AP, which means little while only the RPN learns", fix="Use None")

    @property
    def segments(self) -> list[Solve | tuple[GradientStage, ...]]:
        """The stages in order, neighbors that one loop runs as a group."""
        groups: list[Solve | tuple[GradientStage, ...]] = []
        for stage in self.stages:
            last = groups[-1] if groups else None
            if isinstance(stage, Solve):
                groups.append(stage)
            elif isinstance(stage, GradientStage) and isinstance(last, tuple) and stage.joins(last[-1]):
                groups[-1] = (*last, stage)
            elif isinstance(stage, GradientStage):
                groups.append((stage,))
        return groups

    def scaled_lr(self, batch: int, stage: GradientStage | None = None) -> float:
        """The learning rate for ``batch`` images an iteration: linear in the batch (Goyal et al., 2017)."""
        base = self.lr if stage is None or stage.lr is None else stage.lr
        return base * batch / self.batch

    def scale(self, step: float, steps: int, per_epoch: int) -> float:
        """Warm-up times schedule, for iteration ``step`` (from 0) of ``steps``."""
        warmup = min(self.warmup_steps, math.floor(steps * self.warmup_share + 1e-9))
        done = min(1.0, step / warmup) ** self.warmup_power if warmup else 1.0
        rise = self.warmup_factor * (1 - done) + done
        return rise * self.schedule.scale(step, steps, per_epoch)
