"""Class losses of a dense head: time and memory of forward and backward, against torchvision's RetinaNet path.

python benchmarks/focal.py [--rounds 5] [--threads 1] [--only focal]

2 images of 640 x 640 (76,725 anchors each) and 80 classes; 600 positive and 900 ignored anchors, logits around the
prior bias. Every contender computes the normalized sum and the gradient of all logits; the first table shows that
they agree. "x logits" is the peak of memory above the logits, in multiples of their 47 MB; 1.0 is the gradient alone.

torchvision is measured twice: all anchors at once, and image by image as its RetinaNet calls it. The second is
faster than its arithmetic explains: tensors under 32 MB are reused by the C library, larger ones are
allocated anew every time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import PeakMemory, parser, race, setup
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from foveal.parts.losses.classification import (
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    ClassLoss,
    Focal,
    FocalStar,
    SigmoidLoss,
)
from foveal.parts.losses.normalizers import Positives

BATCH, CLASSES = 2, 80
Step = Callable[[], Tensor]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--anchors", type=int, default=76_725, help="of each image")
    p.add_argument("--all", action="store_true", help="the other sigmoid losses, gammas and bfloat16 as well")
    args = setup(p)
    logits, labels, positive, ignored = inputs(args.anchors)
    logits.requires_grad_()
    tensors = (logits, labels, positive, ignored)
    rows = (logits, labels, positive, (~ignored).float())
    contenders: dict[str, Step] = {
        "torchvision, all rows at once": lambda: torchvision_path(*(t.flatten(0, 1)[None] for t in tensors)),
        "torchvision, image by image": lambda: torchvision_path(*tensors),
        "foveal Focal": lambda: total(Focal(), *rows),
        "foveal Focal.formula (plain)": lambda: total_plain(Focal(), *rows),
    }
    steps = {name: step(fn, logits) for name, fn in contenders.items()}
    agree(steps, logits)
    race(f"focal loss, forward + backward, {BATCH} x {args.anchors:,} x {CLASSES}", steps, rounds=args.rounds)
    memory(steps, logits)
    if args.all:
        others(rows, args.rounds)


def inputs(anchors: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, anchors, CLASSES, generator=rng) - 4.6
    labels = torch.randint(CLASSES, (BATCH, anchors), generator=rng)
    place = torch.randperm(BATCH * anchors, generator=rng).view(BATCH, anchors)
    return logits, labels, place < 600, (place >= 600) & (place < 1500)


def torchvision_path(logits: Tensor, labels: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """As ``RetinaNetClassificationHead.compute_loss``, but normalized by the positives of the batch."""
    losses = []
    for x, label, hot, out in zip(logits, labels, positive, ignored, strict=True):
        target = torch.zeros_like(x)
        target[hot, label[hot]] = 1.0
        losses.append(sigmoid_focal_loss(x[~out], target[~out], reduction="sum"))
    return torch.stack(losses).sum() / max(1, int(positive.sum()))


def total(loss: ClassLoss, logits: Tensor, labels: Tensor, positive: Tensor, keep: Tensor) -> Tensor:
    return (loss(logits, labels, positive) * keep * Positives()(keep, positive)).sum()


def total_plain(loss: SigmoidLoss, logits: Tensor, labels: Tensor, positive: Tensor, keep: Tensor) -> Tensor:
    return (loss.plain(logits, labels, positive) * keep * Positives()(keep, positive)).sum()


def step(fn: Step, logits: Tensor) -> Step:
    def run() -> Tensor:
        logits.grad = None
        value = fn()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    return run


def agree(steps: dict[str, Step], logits: Tensor) -> None:
    reference: tuple[Tensor, Tensor] | None = None
    for name, run in steps.items():
        value, grad = run(), logits.grad
        assert grad is not None
        if reference is None:
            reference = value, grad
        value_error = abs(float(value / reference[0]) - 1)
        grad_error = float((grad - reference[1]).abs().max() / reference[1].abs().max())
        print(f"{name:36s} loss {float(value):.6f}  relative error {value_error:.1e}, gradient {grad_error:.1e}")
    logits.grad = None


def memory(steps: dict[str, Step], logits: Tensor) -> None:
    print(f"\n{'peak memory above the logits':36s} {'MB':>10s} {'x logits':>9s}")
    for name, run in steps.items():
        logits.grad = None
        with PeakMemory() as peak:
            run()
        print(f"{name:36s} {peak.mb:10.1f} {peak.bytes / (logits.numel() * logits.element_size()):9.2f}")


def others(rows: tuple[Tensor, Tensor, Tensor, Tensor], rounds: int) -> None:
    logits, *rest = rows
    half = logits.detach().bfloat16().requires_grad_()
    losses = (
        BinaryCrossEntropy(),
        BalancedCrossEntropy(),
        Focal(gamma=1.0),
        Focal(gamma=0.5),
        Focal(gamma=5.0),
        FocalStar(),
    )

    def bound(loss: ClassLoss, x: Tensor) -> Step:
        return step(lambda: total(loss, x, rest[0], rest[1], rest[2]), x)

    def dense() -> Tensor:
        target = F.one_hot(rest[0], CLASSES) * rest[1][..., None]
        return (
            F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mul(rest[2][..., None]).sum()
        )

    race(
        "the other sigmoid losses",
        {"torch BCE with logits, one-hot": step(dense, logits)}
        | {f"foveal {type(loss).__name__} {loss.params.power:g}": bound(loss, logits) for loss in losses}
        | {"foveal Focal 2, bfloat16": bound(Focal(), half)},
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
