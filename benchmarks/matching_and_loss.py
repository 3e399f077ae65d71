"""RetinaNet's matching and losses, forward and backward, 800 x 1088, batch 2: time and memory as objects grow."""

from __future__ import annotations

import torch
from common import PeakMemory, parser, race, setup
from peers import objects
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead, _default_anchorgen

from foveal import presets
from foveal.types import Predictions, Priors, Target, Targets

CLASSES = 91


class _Loss(RetinaNet):
    """Torchvision's own ``compute_loss``, without the rest of the detector."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.head = RetinaNetHead(8, 9, CLASSES)
        from torchvision.models.detection import _utils

        self.proposal_matcher = _utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--height", type=int, default=800)
    p.add_argument("--width", type=int, default=1088)
    args = setup(p)
    height, width = args.height, args.width
    maps = [torch.zeros(2, 1, -(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]
    anchors = _default_anchorgen()(ImageList(torch.zeros(2, 3, height, width), [(height, width)] * 2), maps)
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, len(anchors[0]), CLASSES, generator=g) - 4.6).requires_grad_()
    deltas = (torch.randn(2, len(anchors[0]), 4, generator=g) * 0.1).requires_grad_()
    priors = Priors(anchors[0], tuple(9 * m.shape[-2] * m.shape[-1] for m in maps))
    task, peer = presets.retinanet_r50_fpn.task, _Loss()
    size = logits.numel() * 4 / 1e6
    for count in (1, 10, 100, 500):
        title = f"matching + loss, {count} objects an image"
        if args.only not in title:
            continue
        truth = objects(2, count, height, width)
        targets = Targets.pad([Target(t["boxes"], t["labels"]) for t in truth])

        def theirs() -> torch.Tensor:
            logits.grad = deltas.grad = None
            found = peer.compute_loss(truth, {"cls_logits": logits, "bbox_regression": deltas}, anchors)
            total = torch.stack(list(found.values())).sum()
            total.backward()
            return total.detach()

        def ours() -> torch.Tensor:
            logits.grad = deltas.grad = None
            total = torch.stack(list(task.losses(Predictions(logits, deltas), priors, targets).values())).sum()
            total.backward()
            return total.detach()

        a, b = theirs(), ours()
        assert abs(a - b) <= 1e-4 * abs(a), (a, b)
        race(title, {"torchvision": theirs, "foveal": ours}, rounds=args.rounds)
        for name, fn in (("torchvision", theirs), ("foveal", ours)):
            logits.grad = deltas.grad = None
            with PeakMemory() as peak:
                fn()
            print(f"{name:24s} peak {peak.mb:8.1f} MB = {peak.mb / size:.2f} x the logits")


if __name__ == "__main__":
    main()
