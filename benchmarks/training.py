"""One training step (forward, loss, backward, optimizer) against torchvision's classes with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OpCount, parser, race, setup
from peers import FIXED, PRESET, batch, objects, pair, random_images

from foveal.runtime.precision import fast_bf16, layout


def step(
    model: torch.nn.Module, losses: Callable[[], dict[str, torch.Tensor]], bf16: bool = False
) -> Callable[[], None]:
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=1e-6, momentum=0.9)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(losses().values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


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
        theirs.train(), ours.train().to(memory_format=layout(ours, torch.device("cpu")))
        images, truth = random_images(args.batch, height, width), objects(args.batch, args.objects, height, width)
        raw, targets = batch(images, truth)
        contenders = {
            "torchvision fp32": step(theirs, lambda m=theirs: m(images, [dict(t) for t in truth])),
            "foveal fp32": step(ours, lambda m=ours: m(raw, targets)),
        }
        if fast_bf16(torch.device("cpu")):
            contenders["foveal bf16 (the default here)"] = step(ours, lambda m=ours: m(raw, targets), True)
        title = f"training step, {name}, {args.batch} x {height} x {width}, {args.objects} objects"
        race(title, contenders, rounds=args.rounds)
        for label, fn in contenders.items():
            with OpCount() as ops:
                fn()
            print(f"{label:36s} {ops.total:6d} operations, host syncs: {dict(ops.syncs)}")


if __name__ == "__main__":
    main()
