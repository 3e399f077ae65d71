"""FCOS's matcher against a reference loop, centerness by hand, and the FCOS head."""

from __future__ import annotations

import math

import pytest
import torch

from foveal import presets
from foveal.errors import UsageError
from foveal.parts.heads.dense import PointTower
from foveal.parts.losses.centerness import Centerness, centerness
from foveal.parts.matching import matcher as matchers
from foveal.parts.matching import points
from foveal.parts.matching.points import PointMatcher
from foveal.parts.priors.anchors import Anchors, PyramidAnchors
from foveal.types import Images, Priors, Target, Targets

STRIDES = (8, 16, 32)


def cells(height: int = 96, width: int = 128) -> Priors:
    features = [torch.zeros(1, 1, height // s, width // s) for s in STRIDES]
    images = Images(torch.zeros(1, 3, height, width), *(torch.zeros(1, 2) for _ in range(3)))
    return PyramidAnchors(1.0, 1, (1.0,)).at(STRIDES)(images, features, STRIDES)


def levels(priors: Priors) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(priors.counts)), torch.tensor(priors.counts))


def objects(seed: int, counts: tuple[int, ...]) -> Targets:
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in counts:
        corner, size = torch.rand(n, 2, generator=g) * 90, torch.rand(n, 2, generator=g) ** 2 * 100 + 2
        made.append(Target(torch.cat([corner, corner + size], 1), torch.zeros(n, dtype=torch.int64)))
    return Targets.pad(made)


def by_loop(matcher: PointMatcher, priors: Priors, targets: Targets, image: int) -> list[int]:
    """The object of every point, -1 for none: a loop over the rules of the paper."""
    found = []
    level = levels(priors).tolist()
    for (x1, _, x2, _), box, k in zip(priors.boxes.tolist(), priors.boxes.tolist(), level, strict=True):
        x, y, stride = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, x2 - x1
        low = 0 if k == 0 else matcher.span[0] * stride
        high = math.inf if k == len(STRIDES) - 1 else matcher.span[1] * stride
        best, least = -1, math.inf
        for j in range(targets.boxes.shape[1]):
            if not targets.valid[image, j]:
                continue
            a, b, c, d = targets.boxes[image, j].tolist()
            sides = (x - a, y - b, c - x, d - y)
            inside = min(sides) > 0 and low < max(sides) < high
            if matcher.radius is not None:
                inside &= max(abs(x - (a + c) / 2), abs(y - (b + d) / 2)) < matcher.radius * stride
            if inside and (c - a) * (d - b) < least - 1e-3:
                best, least = j, (c - a) * (d - b)
        found.append(best)
    return found


@pytest.mark.parametrize("radius", [1.5, None])
@pytest.mark.parametrize("budget", [None, 1 << 18, 1])
def test_matcher_matches_a_reference_loop(
    radius: float | None, budget: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if budget is not None:  # the GPU implementation; 1: in chunks of 256 priors
        monkeypatch.setattr(matchers, "CPU_BUDGET", budget)
        monkeypatch.setattr(points, "grids_of", lambda *_: None)
    matcher, priors, targets = PointMatcher(radius), cells(256, 256), objects(3, (12, 0, 5))
    match = matcher(priors, targets)
    assert match.gt.min() >= 0 and not match.ignored.any()
    for image in range(3):
        got = torch.where(match.positive[image], match.gt[image], -1).tolist()
        assert got == by_loop(matcher, priors, targets, image)
    assert match.positive[0].any() and not match.positive[1].any()


def test_ignored_regions_and_invalid_priors() -> None:
    region = Targets.pad([Target(torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([0]), ignore=torch.tensor([True]))])
    priors = cells()
    match = PointMatcher()(priors, region)
    inside = (priors.boxes[:, 2:] <= 64).all(1)
    assert not match.positive.any() and torch.equal(
        match.ignored[0] & (levels(priors) == 0), inside & (levels(priors) == 0)
    )
    valid = torch.zeros(1, len(priors.boxes), dtype=torch.bool)
    none = PointMatcher()(Priors(priors.boxes, priors.counts, valid), objects(0, (6,)))
    assert not none.positive.any() and none.ignored.all()


def test_centerness_by_hand() -> None:
    cell = torch.tensor([[[0.0, 0, 20, 20]] * 4])  # the point (10, 10)
    boxes = torch.tensor([[[0.0, 0, 20, 20], [5, 5, 25, 15], [10, 0, 20, 20], [30, 30, 40, 40]]])
    # all sides equal: 1; l, r = 5, 15 and t, b = 5, 5: sqrt(1/3); on the edge and outside: 0
    assert centerness(cell, boxes)[0].tolist() == pytest.approx([1, math.sqrt(1 / 3), 0, 0])


def test_scores_are_the_root_of_the_product() -> None:
    scores, quality = torch.tensor([[[0.04, 0.64]]]), torch.tensor([[0.0]])
    assert Centerness().scores(scores, quality)[0, 0].tolist() == pytest.approx([math.sqrt(0.02), math.sqrt(0.32)])
    assert Centerness(floor=0.05).scores(scores, quality)[0, 0].tolist() == pytest.approx([0, math.sqrt(0.32)])


@pytest.mark.parametrize("name", ["fcos_r50_fpn_paper", "fcos_r50_fpn_improved", "fcos_mini"])
def test_losses_are_finite_and_reach_every_parameter(name: str) -> None:
    spec = presets.get(name)
    torch.manual_seed(0)
    head = spec.head.build((64,) * 3, (1,) * 3, 4, -4.6)
    priors, targets = cells(), objects(1, (6, 0))
    predictions = head([torch.randn(2, 64, 96 // s, 128 // s) for s in STRIDES])
    losses = spec.task.losses(predictions, priors, targets)
    assert set(losses) == {"cls", "box", "quality"}
    assert all(torch.isfinite(v) and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    empty = spec.task.losses(predictions, priors, objects(1, (0, 0)))
    assert empty["box"] == empty["quality"] == 0 and torch.isfinite(empty["cls"])


def test_box_losses_weighted_by_centerness() -> None:
    """Two points, box losses 1 - IoU = .5 each, centerness 1 and sqrt(1/3): their mean by weight is .5."""
    task = presets.get("fcos_r50_fpn_improved").task
    priors = Priors(torch.tensor([[8.0, 8, 16, 16], [4, 8, 12, 16]]), (2,))
    targets = Targets.pad([Target(torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([0]))])
    from foveal.types import Predictions

    sides = task.coder.encode(torch.tensor([[4.0, 4, 20, 12], [4, 4, 20, 12]]), priors.boxes)[None]
    predictions = Predictions(torch.zeros(1, 2, 1), sides, torch.zeros(1, 2))
    match = PointMatcher(radius=None)(priors, targets)
    assert match.positive.all()
    weights = centerness(priors.batched(1), targets.boxes.expand(-1, 2, -1))[0]
    assert weights.tolist() == pytest.approx([1, math.sqrt(1 / 3)])
    assert task.losses(predictions, priors, targets)["box"].item() == pytest.approx(0.5, abs=1e-5)


def test_bad_settings() -> None:
    for bad in (lambda: PointMatcher(radius=0), lambda: PointMatcher(span=(8, 4)), lambda: PointTower(sides="abs")):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            bad()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("radius", [1.5, None, 0.4])
@pytest.mark.parametrize("grid", ["stride", "floor"])
def test_cpu_and_device_implementations_agree(
    seed: int, radius: float | None, grid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On uneven canvases, objects over the border, without size, equal, and on points of their own."""
    features = [torch.zeros(1, 1, -(-150 // s), -(-203 // s)) for s in STRIDES]
    images = Images(torch.zeros(1, 3, 150, 203), *(torch.zeros(1, 2) for _ in range(3)))
    anchors = Anchors(tuple((float(s),) for s in STRIDES), (1.0,), grid=grid)  # type: ignore[arg-type]
    priors = anchors(images, features, STRIDES)
    targets = objects(seed, (40, 3, 0))
    targets.boxes[0, :4] = torch.tensor([[-20.0, -20, 30, 30], [8, 8, 40, 40], [8, 8, 40, 40], [50, 50, 50, 50]])
    targets.boxes[1, 0] = torch.tensor([0.0, 0, 203, 150])
    near = PointMatcher(radius)(priors, targets)
    monkeypatch.setattr(points, "grids_of", lambda *_: None)
    every = PointMatcher(radius)(priors, targets)
    assert torch.equal(near.positive, every.positive) and torch.equal(near.gt, every.gt)


def test_uneven_grids_are_rejected() -> None:
    even = cells(64, 64)
    assert points.grids_of(even.boxes, even.counts) is not None
    bent = even.boxes.clone()
    bent[3] += 1
    assert points.grids_of(bent, even.counts) is None
