"""RoIAlign of 1,000 boxes, 256 channels, 7 x 7: one level, a pyramid, with backward, against torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from common import parser, race, setup
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from foveal.parts.pooling.roi_align import RoIAlign, with_image

STRIDES = (4, 8, 16, 32)


def boxes(n: int) -> Tensor:
    rng = torch.Generator().manual_seed(2)
    center = torch.rand(n, 2, generator=rng) * torch.tensor([1088.0, 800.0])
    side = torch.exp(torch.rand(n, 2, generator=rng) * 3.2) * 20
    return torch.cat([center - side / 2, center + side / 2], 1).clamp(min=0).clamp(max=1088)[None]


def both(run: Callable[[], Tensor], grad: Tensor, maps: Iterable[Tensor]) -> Callable[[], None]:
    """Forward and backward."""

    def step() -> None:
        for m in maps:
            m.grad = None
        run().backward(grad)

    return step


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--boxes", type=int, default=1000)
    args = setup(p)
    rois, ours, peer = boxes(args.boxes), RoIAlign(7, 2), MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    plain = [torch.randn(1, 256, 800 // s, 1088 // s).requires_grad_() for s in STRIDES]
    last = [m.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for m in plain]
    half = [m.detach().bfloat16().requires_grad_() for m in last]
    named = {str(i): m for i, m in enumerate(plain)}

    def theirs_one() -> Tensor:
        return roi_align(plain[0], with_image(rois), 7, 0.25, 2)

    def theirs() -> Tensor:
        return peer(named, [rois[0]], [(800, 1088)])

    assert (ours(last[:1], rois, (4,)) - theirs_one()).abs().max() < 1e-4
    assert (ours(last, rois, STRIDES) - theirs()).abs().max() < 1e-4
    grad = torch.randn(args.boxes, 256, 7, 7)
    grad_last = grad.contiguous(memory_format=torch.channels_last)
    races = {
        "RoIAlign, one level": {
            "torchvision": torch.no_grad()(theirs_one),
            "foveal": torch.no_grad()(lambda: ours(last[:1], rois, (4,))),
            "foveal bf16": torch.no_grad()(lambda: ours(half[:1], rois, (4,))),
        },
        "RoIAlign, four levels": {
            "torchvision": torch.no_grad()(theirs),
            "foveal": torch.no_grad()(lambda: ours(last, rois, STRIDES)),
            "foveal bf16": torch.no_grad()(lambda: ours(half, rois, STRIDES)),
        },
        "RoIAlign, four levels, forward + backward": {
            "torchvision": both(theirs, grad, plain),
            "foveal": both(lambda: ours(last, rois, STRIDES), grad_last, last),
            "foveal bf16": both(lambda: ours(half, rois, STRIDES), grad_last.bfloat16(), half),
        },
    }
    for title, contenders in races.items():
        if args.only in title:
            race(title, contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
