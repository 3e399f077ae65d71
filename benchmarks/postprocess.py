"""From raw head outputs to detections, against torchvision's own post-processing on identical inputs."""

from __future__ import annotations

import torch
from common import OpCount, parser, race, setup
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.ops import batched_nms

from foveal.assembly.task import BoxTask
from foveal.detectors.faster_rcnn import ROI_TASK
from foveal.parts.losses.classification import Focal
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.postprocess import NMS, Select
from foveal.types import Boxes, Images, Predictions, Priors

CANVAS = (800, 1088)
CLASSES = 91


def clustered(n: int, groups: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Boxes around ``groups`` objects, as a detector gives them, and the object of each."""
    which = torch.randint(groups, (n,), generator=rng)
    center = torch.rand(groups, 2, generator=rng) * torch.tensor([1000.0, 700.0])
    side = torch.exp(torch.rand(groups, 2, generator=rng) * 2.5) * 20
    c = center[which] + torch.randn(n, 2, generator=rng) * side[which] * 0.08
    s = side[which] * torch.exp(torch.randn(n, 2, generator=rng) * 0.12)
    return torch.cat([c - s / 2, c + s / 2], 1), which


def same(found: Boxes, theirs: dict[str, Tensor], label_offset: int) -> None:
    n = int(found.valid[0].sum())
    assert n == len(theirs["scores"]), (n, len(theirs["scores"]))
    assert (found.scores[0, :n] - theirs["scores"]).abs().max() < 1e-5
    assert torch.equal(found.labels[0, :n] + label_offset, theirs["labels"])
    assert (found.boxes[0, :n] - theirs["boxes"]).abs().max() < 1e-2


def run(title: str, theirs: object, ours: object, rounds: int, count_ops: bool = True) -> None:
    contenders = {"torchvision": torch.inference_mode()(theirs), "foveal": torch.inference_mode()(ours)}
    race(title, contenders, rounds=rounds, min_time=0.05)
    for name, fn in contenders.items() if count_ops else ():
        with OpCount() as ops:
            fn()
        print(f"{name:24s} {ops.total:6d} operations, host syncs: {dict(ops.syncs)}")


def retinanet(rounds: int, candidates: int = 1000) -> None:
    """163,206 anchors x 91 classes of which about ``candidates`` pairs pass the threshold."""
    rng = torch.Generator().manual_seed(0)
    maps = [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    counts = tuple(h * w * 9 for h, w in maps)
    total = sum(counts)
    anchors, _ = clustered(total, 40, rng)
    logits = torch.randn(1, total, CLASSES, generator=rng) - 9
    at = torch.randperm(total, generator=rng)[:candidates]
    logits[0, at, torch.randint(CLASSES, (candidates,), generator=rng) // 8] = (
        torch.randn(candidates, generator=rng) * 0.5 - 1.5
    )
    deltas = torch.randn(1, total, 4, generator=rng) * 0.1
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    split = {"cls_logits": list(logits.split(counts, 1)), "bbox_regression": list(deltas.split(counts, 1))}
    task = BoxTask(
        IoUMatcher(), Focal(), select=Select(0.05, 1000), suppress=NMS(0.5, "class", top=model.detections_per_img)
    )
    size = torch.tensor([CANVAS])
    images = Images(torch.empty(1, 3, *CANVAS, device="meta"), size, torch.zeros(1, 4), size)

    def theirs() -> list[dict[str, Tensor]]:
        return model.postprocess_detections(split, [list(anchors.split(counts))], [CANVAS])

    def ours() -> Boxes:
        return task.detect(Predictions(logits, deltas), Priors(anchors, counts), images)

    same(ours(), theirs()[0], 0)
    run(f"post-processing, RetinaNet {total} x {CLASSES}, {candidates} candidates", theirs, ours, rounds)


def faster_rcnn(rounds: int) -> None:
    """1,000 proposals x 91 classes of which about 500 pairs pass the threshold."""
    rng = torch.Generator().manual_seed(0)
    proposals, which = clustered(1000, 60, rng)
    logits = torch.randn(1000, CLASSES, generator=rng) * 0.5
    logits[:, 0] += 9
    logits[torch.arange(500), 1 + which[:500]] += torch.rand(500, generator=rng) * 4 + 6.5
    deltas = torch.randn(1000, CLASSES, 4, generator=rng) * 0.3
    heads = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval().roi_heads
    size = torch.tensor([CANVAS])
    images = Images(torch.empty(1, 3, *CANVAS, device="meta"), size, torch.zeros(1, 4), size)
    ordered = torch.cat([logits[:, 1:], logits[:, :1]], 1)[None]  # our background is the last column
    of_classes = deltas[:, 1:].contiguous()[None]

    def theirs() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return heads.postprocess_detections(logits, deltas.flatten(1), [proposals], [CANVAS])

    def ours() -> Boxes:
        return ROI_TASK.detect(Predictions(ordered, of_classes), Priors(proposals[None], (1000,)), images)

    boxes, scores, labels = theirs()
    same(ours(), {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}, 1)
    passed = int((logits.softmax(1)[:, 1:] > 0.05).sum())
    run(f"post-processing, Faster R-CNN 1000 x {CLASSES}, {passed} candidates", theirs, ours, rounds)


def nms(rounds: int, number: int, classes: int, top: int = 100) -> None:
    """``number`` candidates all over an image, few of which overlap: the best ``top`` that NMS keeps."""
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(number, 2, generator=rng) * 600
    boxes = torch.cat([corner, corner + torch.rand(number, 2, generator=rng) * 180 + 20], 1)
    scores, labels = torch.rand(number, generator=rng), torch.randint(classes, (number,), generator=rng)
    suppress, valid = NMS(0.5, top=top), torch.ones(1, number, dtype=torch.bool)
    level = torch.zeros(number, dtype=torch.int64)

    def theirs() -> Tensor:
        return batched_nms(boxes, scores, labels, 0.5)[:top]

    def ours() -> Tensor:
        found = suppress(boxes[None], scores[None], labels[None], level, valid)
        assert found.rows is not None
        return found.rows[found.valid]

    assert torch.equal(ours(), theirs())
    run(f"NMS, {number} candidates, {classes} classes, the best {top}", theirs, ours, rounds, count_ops=False)


def main() -> None:
    args = setup(parser(__doc__))
    if args.only in "retinanet":
        retinanet(args.rounds)
    if args.only in "faster_rcnn":
        faster_rcnn(args.rounds)
    if args.only in "nms":
        for number, classes in ((1000, 1), (1000, 3), (1000, 80), (2000, 3), (5000, 1), (5000, 3), (5000, 80)):
            nms(args.rounds, number, classes)


if __name__ == "__main__":
    main()
