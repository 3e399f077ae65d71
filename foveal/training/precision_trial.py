"""Times a training pass of a detector in fp32 and in bf16 on this CPU, so that a new run uses the faster one.

Which one is faster depends on the layers (depthwise convolutions are slower in bf16) and on the CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..masks.rle import Masks
from ..parts.layers.narrow_maps import guard_narrow
from ..recipe import OnImages, Precision
from ..runtime import precision as formats
from ..types import Target, Targets

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec

CLASSES = 20  # the number hardly matters to the time
ROUNDS = 3
CLEAR = 1.3  # a ratio of the times that needs no further round
LIMIT = 20.0  # seconds, after which no round begins
LARGE = 500_000  # pixels of an image from which one image is enough

FORMATS: tuple[Precision, Precision] = ("32", "bf16")


def tried(spec: Spec, device: torch.device, devices: int | None) -> tuple[Precision, str]:
    """The precision for a new run whose precision is automatic, and a note with the times ("" where none were taken).

    Only a CPU with bf16 arithmetic is timed, for one process, where the first stage learns on images and the detector
    needs no proposals of others; everything else gets :func:`foveal.runtime.precision.choose`.
    """
    several = (devices or 1) > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    first = spec.fit.stages[0]
    if several or device.type != "cpu" or not formats.fast_bf16(device) or not isinstance(first, OnImages):
        return formats.choose(None, device), ""
    if spec.source is not None:
        return formats.choose(None, device), ""
    times = _times_once(spec, torch.get_num_threads())
    chosen = formats.faster(times)
    return chosen, f" (a training pass takes {times['bf16']:.2g} s in bf16, {times['32']:.2g} s in 32)"


@cache
def _times_once(spec: Spec, threads: int) -> dict[Precision, float]:
    """Once for all seeds of a spec, so that they are trained alike."""
    return pass_times(spec)


def pass_times(spec: Spec, clock: Callable[[], float] = time.perf_counter) -> dict[Precision, float]:
    """Median seconds of a forward and backward pass of generated images in each format, in interleaved rounds.

    The random numbers of the run are not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = spec.build([f"class {k}" for k in range(CLASSES)]).train()
        detector.to(memory_format=formats.layout(detector, torch.device("cpu")))
        guard_narrow(detector)
        run = _pass(detector)
        began, times = clock(), dict[Precision, list[float]]()
        for k in range(1 + ROUNDS):
            for each in FORMATS:
                start = clock()
                run(each)
                if k:  # the first pass pays for lazy set-up
                    times.setdefault(each, []).append(clock() - start)
            fp32, bf16 = (median(times.get(each, [1.0])) for each in FORMATS)
            if k and (max(fp32, bf16) > CLEAR * min(fp32, bf16) or clock() - began > LIMIT):
                break
    return {each: median(times[each]) for each in FORMATS}


def _pass(detector: Detector) -> Callable[[Precision], None]:
    """A function that runs a forward and a backward pass in a format."""
    array = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    images = detector.prepare([array])
    height, width = images.pixels.shape[-2:]
    if height * width < LARGE:
        images = detector.prepare([array, array])
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.3, 0.2, 0.9, 0.9], [0.5, 0.6, 0.6, 0.7]])
    sides = images.sizes[0].flip(0).repeat(2)  # width, height, width, height
    masks = Masks.of_dense(np.ones((len(boxes), height, width))) if detector.has_masks else None
    target = Target(boxes * sides, torch.tensor([0, 1, 2]), masks=masks)
    targets = Targets.pad([target] * len(images.pixels))
    rng = torch.Generator()

    def run(each: Precision) -> None:
        detector.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=each == "bf16"):
            losses = detector(images, targets, rng=rng.manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    return run
