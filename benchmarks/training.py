"""One training step (forward, loss, backward, optimizer) against torchvision's classes with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from common import OpCount, parser, race, setup
from peers import FIXED, PRESET, batch, objects, pair, random_images

from foveal.assembly.detector import Detector
from foveal.recipe import Precision
from foveal.runtime.precision import fast_bf16
from foveal.training.precision_trial import prepare_for_training


def step(
    model: torch.nn.Module, losses: Callable[[], dict[str, torch.Tensor]], bf16: bool = False, optimizer: Any = None
) -> Callable[[], None]:
    params = [p for p in model.parameters() if p.requires_grad]
    updates = torch.optim.SGD(params, lr=1e-6, momentum=0.9) if optimizer is None else optimizer(params, lr=1e-6)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(losses().values())).sum()
        loss.backward()
        updates.step()
        updates.zero_grad(set_to_none=True)

    return run


def as_trained(detector: Detector, precision: Precision) -> Detector:
    """A copy with the layout and the layers of a training run."""
    copied = copy.deepcopy(detector).train()
    prepare_for_training(copied, torch.device("cpu"), precision)
    return copied


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=416)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--objects", type=int, default=8)
    args = setup(p)
    for name in PRESET:
        if args.only not in name:
            continue
        height, width = (FIXED[name],) * 2 if name in FIXED else (args.size * 3 // 4, args.size)
        theirs, ours = pair(name, height, width)
        theirs.train()
        images, truth = random_images(args.batch, height, width), objects(args.batch, args.objects, height, width)
        raw, targets = batch(images, truth)
        fp32 = as_trained(ours, "32")
        contenders = {
            "torchvision fp32": step(theirs, lambda m=theirs: m(images, [dict(t) for t in truth])),
            "foveal fp32": step(fp32, lambda m=fp32: m(raw, targets)),
        }
        if fast_bf16(torch.device("cpu")):
            half = as_trained(ours, "bf16")
            contenders["foveal bf16"] = step(half, lambda m=half: m(raw, targets), True)
        title = f"training step, {name}, {args.batch} x {height} x {width}, {args.objects} objects"
        race(title, contenders, rounds=args.rounds)
        for label, fn in contenders.items():
            with OpCount() as ops:
                fn()
            print(f"{label:36s} {ops.total:6d} operations, host syncs: {dict(ops.syncs)}")


if __name__ == "__main__":
    main()
