"""The learning-rate range test (Smith 2017, section 3.3): a short training with rising rates, and what it suggests."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FovealError, UsageError
from ..files.aliases import PathLike
from ..recipe import OnImages
from .arguments import TrainArguments, with_fields
from .launch import Setup, set_up
from .loop.log import Clock
from .loop.optimizers import build_optimizer, set_learning, trainable_names
from .loop.update import Updater, set_lr, to_device
from .run import resolved

if TYPE_CHECKING:
    from ..assembly.detector import Spec
    from ..data.loader.loader import Batch

ITERATIONS = 100  # at most; a time limit may leave fewer
FEWEST = 10  # iterations without which nothing is suggested
LOWEST, HIGHEST = 1e-3, 1e2  # times the recipe's rate
SMOOTHING = 0.9  # of the moving average of the losses
DIVERGED = 4.0  # times the lowest smoothed loss: the test ends


@dataclass(frozen=True)
class LRCurve:
    """The losses of a range test. Rates are values of ``fit.lr``, for the recipe's batch."""

    rates: list[float]  # of each iteration, rising
    losses: list[float]
    recipe: float  # the rate of the recipe
    folder: PathLike  # the run folder

    @property
    def smoothed(self) -> list[float]:
        """The moving average of the losses, without the bias of its start."""
        return smoothed(self.losses)

    @property
    def steepest(self) -> float:
        """The suggestion: the rate at which the smoothed loss falls fastest, before it is lowest."""
        return steepest(self.rates, self.smoothed)

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest: too high for a training run."""
        return self.rates[int(np.argmin(self.smoothed))]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average, divided by the sum of its weights."""
    mean, out = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**count))
    return out


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate with the most negative slope of the loss against log(rate), before the lowest loss."""
    end = max(2, int(np.argmin(losses)) + 1)
    slopes = np.gradient(np.asarray(losses[:end]), np.log(rates[:end]))[:-1]
    return float(rates[int(np.argmin(slopes))])


@with_fields(TrainArguments)
def find_lr(spec: Spec | PathLike | None, arguments: TrainArguments) -> LRCurve:
    """Trains with rates from a thousandth to a hundred times the recipe's, in equal steps of their logarithm.

    The arguments are those of :func:`foveal.train`; ``max_time`` limits the test. No run is left behind. It ends early
    where the loss is not finite or four times its lowest value. Raises :class:`UsageError` for a recipe whose first
    stage does not learn from whole images, and for several processes.
    """
    found, arguments = resolved(spec, arguments)
    stage = found.fit.stages[0]
    if not isinstance(stage, OnImages):
        raise UsageError(f"the first stage is {type(stage).__name__}, which has no batches of images to try rates on")
    setup, _ = set_up(found, arguments, None)
    if setup.fabric.world_size > 1:
        raise UsageError("the learning rate is found in one process", where="--find-lr", fix="Give --devices 1")
    recipe = found.fit.lr if stage.lr is None else stage.lr
    rates, losses = _tried(setup, stage, recipe)
    setup.console.close()
    if len(losses) < FEWEST:
        why = "the loss was not finite or diverged" if arguments.max_time is None else "the time or the loss ended it"
        raise FovealError(
            f"only {len(losses)} iterations could be tried: {why}", fix="Lower fit.lr, or allow more time"
        )
    return LRCurve(rates, losses, recipe, arguments.folder)


def _tried(setup: Setup, stage: OnImages, recipe: float) -> tuple[list[float], list[float]]:
    """The rates (of ``fit.lr``) and the losses of the iterations."""
    detector, fabric, fit, arguments = setup.detector, setup.fabric, setup.spec.fit, setup.arguments
    trainable = trainable_names(detector)
    set_learning(detector, stage, trainable)
    optimizer = build_optimizer(detector, fit, stage)
    model = fabric.setup_module(detector, move_to_device=False)
    clock = Clock(fabric.device)
    updater = Updater(
        fabric, model, optimizer, seed=arguments.seed, clip=fit.clip, clock=clock, learning=stage.learning
    )
    start, progress = time.monotonic(), setup.console.task("rates tried")
    rates: list[float] = []
    losses: list[float] = []
    batches = _endless(setup)
    while (done := _done(len(rates), time.monotonic() - start, arguments.max_time)) < 1:
        rate = recipe * LOWEST * (HIGHEST / LOWEST) ** done
        set_lr(optimizer, rate * setup.batch / fit.batch)
        parts = [next(batches) for _ in range(fit.accumulate)]
        moved = [to_device(b.images, b.targets, fabric.device, len(rates) * setup.batch) for b in parts]
        result = updater(moved, len(rates))
        loss = sum(float(value) for value in result.losses.values())
        if float(result.nonfinite) or not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        progress(len(rates), ITERATIONS)
        curve = smoothed(losses)
        if curve[-1] > DIVERGED * min(curve):
            break
    batches.close()
    return rates, losses


def _done(count: int, seconds: float, limit: float | None) -> float:
    """The share of the test that is done, by the iterations or by the time."""
    return max(count / ITERATIONS, 0.0 if limit is None else seconds / limit)


def _endless(setup: Setup) -> Generator[Batch]:
    """Batches of one epoch after the other."""
    loader, epoch = setup.loaders().images(), 0
    try:
        while True:
            yield from loader.epoch(epoch)
            epoch += 1
    finally:
        loader.close()
