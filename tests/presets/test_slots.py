"""Any class loss x any box loss x any sampler in every slot (RPN, RoI head, RetinaNet, SSD), empty images included."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from foveal.assembly.detector import Detector, Spec
from foveal.assembly.proposers import Counts
from foveal.detectors.faster_rcnn import FasterRCNN
from foveal.detectors.retinanet import RetinaNet
from foveal.detectors.ssd import SSD
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.dense import Tower
from foveal.parts.heads.roi import RoIMLP
from foveal.parts.losses.box import L1, CIoU, DIoU, GIoU, IoU, SmoothL1, Sum
from foveal.parts.losses.classification import BalancedCrossEntropy, BinaryCrossEntropy, CrossEntropy, Focal, FocalStar
from foveal.parts.necks.fpn import FPN
from foveal.parts.necks.ssd import Extra, Extras
from foveal.parts.priors.anchors import PyramidAnchors
from foveal.parts.priors.default_boxes import PyramidBoxes
from foveal.parts.resizing import Stretch
from foveal.parts.samplers import OHEM, All, Balanced, HardNegatives
from foveal.types import Images, Target, Targets

CLASS_LOSSES = (CrossEntropy(), BinaryCrossEntropy(), BalancedCrossEntropy(), Focal(), FocalStar())
BOX_LOSSES = (L1(), SmoothL1(beta=0.5), IoU(), GIoU(), DIoU(), CIoU(), Sum((L1(weight=5.0), GIoU(weight=2.0))))
SAMPLERS = (All(), Balanced(32, 0.5), HardNegatives(3.0), OHEM(16, 0.7))
SMALL = {
    "input": Stretch(64, 64),
    "backbone": SmallResNet((8, 8, 8, 8)),
    "anchors": PyramidAnchors(scale=4.0, octaves=1),
}
RETINA = RetinaNet(**SMALL, neck=FPN(16, extra=None), head=Tower(depth=1))
REGION = FasterRCNN(
    **SMALL,
    neck=FPN(16, extra="pool"),
    roi_head=RoIMLP(16),
    train_proposals=Counts(20, 20),
    test_proposals=Counts(20, 20),
)
SINGLE_SHOT = SSD(
    input=SMALL["input"],
    backbone=SMALL["backbone"],
    levels=(3, 4, 5),
    neck=Extras((Extra(8, 16),), norm="group"),
    priors=PyramidBoxes(),
)


def batch(objects: tuple[int, ...]) -> tuple[Images, Targets]:
    g = torch.Generator().manual_seed(5)
    n = len(objects)
    side = torch.full((n, 2), 64)
    images = Images(torch.randn(n, 3, 64, 64, generator=g), side, torch.tensor([[1.0, 1, 0, 0]] * n), side)
    targets = []
    for count in objects:
        corner = torch.rand(count, 2, generator=g) * 30
        boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=g) * 25], 1)
        targets.append(Target(boxes, torch.arange(count) % 3))
    return images, Targets.pad(targets)


def check(detector: Detector, prefix: str, heads: tuple[str, ...]) -> None:
    for objects in ((3, 0), (0, 0)):
        images, targets = batch(objects)
        detector.zero_grad(set_to_none=True)
        losses = detector(images, targets, rng=torch.Generator().manual_seed(0))
        assert {prefix + "cls", prefix + "box"} <= losses.keys()
        assert all(v.dim() == 0 and torch.isfinite(v) for v in losses.values()), losses
        torch.stack(list(losses.values())).sum().backward()
        for name, p in detector.named_parameters():
            if name.startswith(heads):
                assert p.grad is not None and torch.isfinite(p.grad).all(), name
    if sum(objects) == 0:
        assert losses[prefix + "box"].item() == 0.0


def build(spec: Spec) -> Detector:
    torch.manual_seed(0)
    return spec.build(("a", "b", "c"))


@pytest.mark.parametrize("cls_loss", CLASS_LOSSES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("slot", ["rpn", "roi", "task", "ssd"])
def test_every_combination(slot: str, cls_loss: object) -> None:
    spec = {"task": RETINA, "ssd": SINGLE_SHOT}.get(slot, REGION)
    prefix, heads = {
        "rpn": ("rpn.", ("rpn_head", "roi_head")),
        "roi": ("", ("rpn_head", "roi_head")),
        "task": ("", ("head",)),
        "ssd": ("", ("head",)),
    }[slot]
    slot = "task" if slot == "ssd" else slot
    detector = None
    for box_loss, sampler in itertools.product(BOX_LOSSES, SAMPLERS):
        task = replace(getattr(spec, slot), cls_loss=cls_loss, box_loss=box_loss, sampler=sampler)
        # the head's shape depends on the class loss alone, so one detector serves all combinations
        if detector is None:
            detector = build(replace(spec, **{slot: task}))
        setattr(detector, slot, task)
        check(detector, prefix, heads)


def test_all_combinations_are_covered() -> None:
    assert len(CLASS_LOSSES) * len(BOX_LOSSES) * len(SAMPLERS) * 4 == 560


def test_losses_do_not_depend_on_the_padding_of_targets() -> None:
    detector = build(RETINA)
    images, targets = batch((3, 1))
    wide = Targets(*(torch.nn.functional.pad(t, (0, 0) * (t.dim() - 2) + (0, 4)) for t in
                     (targets.boxes, targets.labels, targets.valid, targets.ignore)))  # fmt: skip
    for a, b in zip(detector(images, targets).values(), detector(images, wide).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_losses_and_detections_from_one_pass() -> None:
    for spec in (RETINA, REGION, SINGLE_SHOT):
        detector = build(spec).eval()
        images, targets = batch((3, 0))
        g = torch.Generator()
        with torch.no_grad():
            losses, found = detector(images, targets, detect=True, rng=g.manual_seed(0))
            assert losses == detector(images, targets, rng=g.manual_seed(0))
            for a, b in zip(found, detector(images), strict=True):
                assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)


def test_lists_of_tensors_are_accepted_as_in_torchvision() -> None:
    detector = build(RETINA)
    losses = detector(
        [torch.rand(3, 50, 70)], [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    )
    assert losses.keys() == {"cls", "box"}
    assert len(detector.eval()([torch.rand(3, 50, 70), torch.rand(3, 20, 20)])) == 2
