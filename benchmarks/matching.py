"""Matching 160,000 anchors with 1 to 500 objects: time and peak memory against torchvision, identical results."""

from __future__ import annotations

import torch
from common import PeakMemory, parser, race, setup
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.matching.matcher import match_on_device
from foveal.parts.priors.anchors import Anchors
from foveal.types import Images, Priors, Target, Targets

STRIDES = (4, 8, 16, 32, 64)


def anchors() -> Priors:
    """The 159,882 anchors of FPN at 800 x 800."""
    size = torch.tensor([[800, 800]])
    images = Images(torch.empty(1, 3, 800, 800, device="meta"), size, torch.zeros(1, 4), size)
    return Anchors()(images, [torch.empty(1, 1, -(-800 // s), -(-800 // s)) for s in STRIDES], STRIDES)


def objects(n: int) -> Tensor:
    rng = torch.Generator().manual_seed(2)
    center = torch.rand(n, 2, generator=rng) * 800
    side = torch.exp(torch.rand(n, 2, generator=rng) * 2.77) * 20
    return torch.cat([center - side / 2, center + side / 2], 1).clamp(0, 800)


def main() -> None:
    args = setup(parser(__doc__))
    priors, peer, ours = anchors(), Matcher(0.5, 0.4, allow_low_quality_matches=True), IoUMatcher(0.5, 0.4)
    for n in (1, 10, 100, 500):
        title = f"match {len(priors.boxes)} anchors x {n} objects"
        if args.only not in title:
            continue
        boxes = objects(n)
        targets = Targets.pad([Target(boxes, torch.zeros(n, dtype=torch.int64))])
        match = ours(priors, targets)
        answer = torch.where(match.positive, match.gt, torch.where(match.ignored, -2, -1))[0]
        assert torch.equal(answer, peer(box_iou(boxes, priors.boxes)))
        contenders = {
            "torchvision": lambda boxes=boxes: peer(box_iou(boxes, priors.boxes)),
            "foveal": lambda targets=targets: ours(priors, targets),
            "foveal, form for GPUs": lambda boxes=boxes: match_on_device(priors.boxes, boxes[None]),
        }
        race(title, contenders, rounds=args.rounds)
        for name in ("torchvision", "foveal"):
            with PeakMemory() as memory:
                contenders[name]()
            print(f"{name:24s} {memory.mb:12.1f} MB")


if __name__ == "__main__":
    main()
