"""Times a training pass of a detector in fp32 and in bf16 on this CPU, so that a new run uses the faster one.

Which one is faster depends on the layers and on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from ..masks.rle import Masks
from ..parts.layers.fast_layers import use_fast_layers
from ..parts.layers.narrow_maps import guard_narrow
from ..recipe import OnImages, Precision
from ..runtime import launchers
from ..runtime import precision as formats
from ..runtime.memory import keep_freed_memory
from ..types import Target, Targets
from .loop.optimizers import set_learning, trainable_names
from .stages.frozen_maps import above_frozen_layers

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec

ROUNDS = 3
CLEAR = 1.3  # a ratio of the times that needs no further round
LIMIT = 20.0  # seconds, after which no round begins
LARGE = 500_000  # pixels of an image from which one image is enough

FORMATS: tuple[Precision, Precision] = ("32", "bf16")


_measured: dict[tuple[str, tuple[str, ...], int], dict[Precision, float]] = {}  # once for all seeds: trained alike


def prepare_for_training(detector: Detector, device: torch.device, precision: Precision) -> None:
    """Moves it to the device, in the memory format and with the layers that are fastest there for the precision."""
    detector.to(device).to(memory_format=formats.layout(detector, device))
    if device.type == "cpu":
        keep_freed_memory()
        use_fast_layers(detector, narrow=precision != "32")
        if precision != "32":
            guard_narrow(detector)


def tried(spec: Spec, classes: Sequence[str], device: torch.device, devices: int | None) -> tuple[Precision, str]:
    """The precision for a new run whose precision is automatic, and a note with the times ("" where none were taken).

    Only a CPU with bf16 arithmetic is timed, for one process, where the first stage learns on images and the detector
    needs no proposals of others; everything else gets :func:`foveal.runtime.precision.choose`.
    """
    several = (devices or 1) > 1 or launchers.external() is not None
    on_images = isinstance(spec.fit.stages[0], OnImages) and spec.source is None
    if several or not on_images or device.type != "cpu" or not formats.fast_bf16(device):
        return formats.choose(None, device), ""
    key = repr(spec), tuple(classes), torch.get_num_threads()
    if key not in _measured:
        _measured[key] = pass_times(spec, classes)
    times = _measured[key]
    chosen = formats.faster(times)
    return chosen, f" (a training pass takes {times['bf16']:.2g} s in bf16, {times['32']:.2g} s in 32)"


def pass_times(
    spec: Spec,
    classes: Sequence[str],
    clock: Callable[[], float] = time.perf_counter,
    compared: Sequence[Precision] = FORMATS,
) -> dict[Precision, float]:
    """Median seconds of a forward and backward pass of generated images in each format, in interleaved rounds.

    The random numbers of the run are not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        runs = {each: _pass(spec, classes, each) for each in compared}
        began, times = clock(), dict[Precision, list[float]]()
        for k in range(1 + ROUNDS):
            for each, run in runs.items():
                start = clock()
                run()
                if k:  # the first pass pays for lazy set-up
                    times.setdefault(each, []).append(clock() - start)
            medians = {each: median(seconds) for each, seconds in times.items()}
            if k and (max(medians.values()) > CLEAR * min(medians.values()) or clock() - began > LIMIT):
                break
    return medians


def _pass(spec: Spec, classes: Sequence[str], each: Precision) -> Callable[[], None]:
    """A function that runs a forward and a backward pass of a new detector in a format."""
    detector = spec.build(classes).train()
    prepare_for_training(detector, torch.device("cpu"), each)
    array = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    images = detector.prepare([array])
    height, width = images.pixels.shape[-2:]
    if height * width < LARGE:
        images = detector.prepare([array, array])
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.3, 0.2, 0.9, 0.9], [0.5, 0.6, 0.6, 0.7]])
    sides = images.sizes[0].flip(0).repeat(2)  # width, height, width, height
    masks = Masks.of_dense(np.ones((len(boxes), height, width))) if detector.has_masks else None
    target = Target(boxes * sides, torch.arange(3) % len(classes), masks=masks)
    targets = Targets.pad([target] * len(images.pixels))
    rng, learner = torch.Generator(), cast(nn.Module, detector)
    if spec.fit.frozen_maps is not None:  # then the layers that are frozen at first hardly count
        trainable = trainable_names(detector)
        set_learning(detector, spec.fit.stages[0], trainable)
        with torch.autocast("cpu", torch.bfloat16, enabled=each == "bf16"):
            learner, images = above_frozen_layers(detector, images)

    def run() -> None:
        detector.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=each == "bf16"):
            losses = learner(images, targets, rng=rng.manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    return run
