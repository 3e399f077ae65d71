"""FCOS's assignment of 18,134 locations to 10 to 500 objects at 800 x 1088: time and memory against torchvision."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from common import PeakMemory, parser, race, setup
from torch import Tensor
from torchvision.models.detection.fcos import FCOS

from foveal.parts.matching.points import PointMatcher
from foveal.parts.priors.anchors import Anchors
from foveal.types import Images, Target, Targets

STRIDES = (8, 16, 32, 64, 128)
HEIGHT, WIDTH = 800, 1088


def objects(n: int) -> Tensor:
    rng = torch.Generator().manual_seed(2)
    center = torch.rand(n, 2, generator=rng) * torch.tensor([WIDTH, HEIGHT])
    side = torch.exp(torch.rand(n, 2, generator=rng) * 2.77) * 20
    limit = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return torch.minimum(torch.cat([center - side / 2, center + side / 2], 1).clamp(min=0), limit)


def main() -> None:
    args = setup(parser(__doc__))
    size = torch.tensor([[HEIGHT, WIDTH]])
    images = Images(torch.empty(1, 3, HEIGHT, WIDTH, device="meta"), size, torch.zeros(1, 4), size)
    cells = Anchors(tuple((float(s),) for s in STRIDES), (1.0,), rounding="corners", grid="floor")
    features = [torch.empty(1, 1, -(-HEIGHT // s), -(-WIDTH // s)) for s in STRIDES]
    priors = cells(images, features, STRIDES)
    found: dict[str, Tensor] = {}

    def keep(targets: object, outputs: object, anchors: object, matched: list[Tensor]) -> dict[str, Tensor]:
        found["peer"] = matched[0]  # replaces the losses: only the assignment is measured
        return {}

    peer = SimpleNamespace(center_sampling_radius=1.5, head=SimpleNamespace(compute_loss=keep))
    ours = PointMatcher(1.5)
    for n in (10, 100, 500):
        title = f"assign {len(priors.boxes)} points to {n} objects"
        if args.only not in title:
            continue
        boxes = objects(n)
        targets = Targets.pad([Target(boxes, torch.zeros(n, dtype=torch.int64))])
        theirs = [{"boxes": boxes}]
        contenders = {
            "torchvision": lambda theirs=theirs: FCOS.compute_loss(
                peer, theirs, {}, [priors.boxes], list(priors.counts)
            ),
            "foveal": lambda targets=targets: ours(priors, targets),
        }
        contenders["torchvision"]()
        match = ours(priors, targets)
        assert torch.equal(torch.where(match.positive, match.gt, -1)[0], found["peer"])
        race(title, contenders, rounds=args.rounds)
        for name in contenders:
            with PeakMemory() as memory:
                contenders[name]()
            print(f"{name:24s} {memory.mb:12.1f} MB")


if __name__ == "__main__":
    main()
