"""A training step with OHEM in the RoI head: gradients for the chosen RoIs, against all 2,000 RoIs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MethodType

import torch
from common import PeakMemory, parser, race, setup

from foveal import presets
from foveal.assembly.two_stage import TwoStage
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.roi import RoIMLP, VGGTail
from foveal.parts.pooling.roi_align import RoIAlign, RoIPool
from foveal.parts.samplers import OHEM
from foveal.types import Images, Target, Targets

ROWS, SIDE = 2000, 320
HEADS = {  # a step of the second takes many seconds: --rounds 0 skips the timing
    "FPN's head (256 channels, 7 x 7, 2 x 1024)": (RoIMLP(1024), RoIAlign(7), 256),
    "VGG's head (512 channels, 7 x 7, 2 x 4096)": (VGGTail(4096), RoIPool(7), 512),
}


def build(head: RoIMLP | VGGTail, pool: RoIAlign | RoIPool, channels: int) -> TwoStage:
    mini = presets.fast_rcnn_mini
    body = SmallResNet((16, 16, 16, 32))
    spec = replace(mini, backbone=body, pool=pool, roi_head=head, neck=replace(mini.neck, channels=channels))
    return replace(spec, roi=replace(spec.roi, sampler=OHEM(128, 0.7))).build([f"class {i}" for i in range(20)])


def batch() -> tuple[Images, Targets]:
    """One image with two objects."""
    rng = torch.Generator().manual_seed(0)
    size = torch.tensor([[SIDE, SIDE]])
    images = Images(torch.randn(1, 3, SIDE, SIDE, generator=rng), size, torch.tensor([[1.0, 1, 0, 0]]), size)
    corners = torch.rand(ROWS, 2, 2, generator=rng).sort(1).values.flatten(1) * SIDE
    objects = torch.tensor([[30.0, 40, 160, 200], [150, 100, 310, 300]])
    return images.with_proposals([corners]), Targets.pad([Target(objects, torch.tensor([3, 7]))])


def step(detector: TwoStage, images: Images, targets: Targets) -> None:
    torch.stack(list(detector(images, targets).values())).sum().backward()
    detector.zero_grad(set_to_none=True)


def every_row(detector: TwoStage) -> None:
    """Runs the head on all RoIs with gradient; the class loss chooses."""
    detector._sample = MethodType(lambda *_: None, detector)  # type: ignore[method-assign]


def main() -> None:
    args = setup(parser(__doc__))
    images, targets = batch()
    for title, parts in HEADS.items():
        if args.only not in title:
            continue
        contenders: dict[str, Callable[[], None]] = {}
        for name in ("every RoI", "chosen RoIs"):
            detector = build(*parts)
            if name == "every RoI":
                every_row(detector)
            contenders[name] = partial(step, detector, images, targets)
        weights = sum(p.numel() for p in detector.roi_head.parameters()) * 4 / 2**20
        for name, run in contenders.items():
            with PeakMemory() as memory:
                run()
            print(f"{title}, {name}: {memory.mb:.0f} MB, gradients of {weights:.0f} MB among them", flush=True)
        if args.rounds:
            race(title, contenders, args.rounds)


if __name__ == "__main__":
    main()
