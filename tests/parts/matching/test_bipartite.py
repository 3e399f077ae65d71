"""SSD's matching against a loop over the rules of the released code, and against torchvision's matcher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from foveal.errors import UsageError
from foveal.parts.matching import bipartite
from foveal.parts.matching import matcher as matchers
from foveal.parts.matching.bipartite import BipartiteThenIoU
from foveal.types import Match, Priors, Target, Targets
from tests.parts.matching.test_iou import Syncs


def random_boxes(n: int, rng: torch.Generator, size: float = 60.0) -> Tensor:
    corner = torch.rand(n, 2, generator=rng) * size
    return torch.cat([corner, corner + torch.rand(n, 2, generator=rng) * size / 2 + 1], 1)


def crowded(n: int, rng: torch.Generator) -> Tensor:
    """Overlapping objects, so that many have the same best priors."""
    return torch.tensor([20.0, 20, 40, 40]) + torch.rand(n, 4, generator=rng) * 3


def pad(boxes: list[Tensor]) -> Targets:
    return Targets.pad([Target(b, torch.zeros(len(b), dtype=torch.int64)) for b in boxes])


def by_rules(objects: Tensor, priors: Tensor, threshold: float) -> list[int]:
    """``MatchBBox`` of the released code: repeatedly the pair of the largest overlap, then the remaining priors."""
    overlaps = box_iou(objects, priors).tolist()
    found = [-1] * len(priors)
    free = set(range(len(objects)))
    while free:
        best, pair = 1e-6, None
        for p in range(len(priors)):
            for g in sorted(free):
                if found[p] == -1 and overlaps[g][p] > best:
                    best, pair = overlaps[g][p], (g, p)
        if pair is None:
            break
        found[pair[1]] = pair[0]
        free.remove(pair[0])
    for p in range(len(priors)):
        if found[p] == -1 and len(objects):
            g = max(range(len(objects)), key=lambda g: overlaps[g][p])
            if overlaps[g][p] >= threshold:
                found[p] = g
    return found


def answer(match: Match) -> list[list[int]]:
    assert (match.gt >= 0).all() and not match.ignored.any()
    return torch.where(match.positive, match.gt, -1).tolist()


@pytest.mark.parametrize("budget", [1 << 18, 1])
@pytest.mark.parametrize("per_image", [False, True])
def test_bipartite_matches_the_released_code(budget: int, per_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``budget`` 1: in chunks of 256 priors. The GPU implementation, which never syncs, gives the same."""
    monkeypatch.setattr(matchers, "CPU_BUDGET", budget)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        objects = [random_boxes(7, g), torch.zeros(0, 4), crowded(9, g), random_boxes(1, g) + 500]
        priors = [random_boxes(600, g) for _ in objects]
        boxes = torch.stack(priors) if per_image else priors[0]
        match = BipartiteThenIoU()(Priors(boxes, (600,)), pad(objects))
        expected = [by_rules(o, p if per_image else priors[0], 0.5) for o, p in zip(objects, priors, strict=True)]
        assert answer(match) == expected
        with monkeypatch.context() as patch:
            patch.setattr(bipartite, "on_cpu", lambda tensor: False)
            assert answer(BipartiteThenIoU()(Priors(boxes, (600,)), pad(objects))) == expected
    assert all(k in expected[2] for k in range(9))  # each of the crowd has a prior
    assert set(expected[3]) == {-1}  # no prior overlaps it


def test_more_objects_than_priors() -> None:
    g = torch.Generator().manual_seed(1)
    objects, priors = crowded(12, g), crowded(5, g)
    match = BipartiteThenIoU()(Priors(priors, (5,)), pad([objects]))
    assert answer(match)[0] == by_rules(objects, priors, 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_best_match_equals_torchvision(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    priors = random_boxes(3000, g)
    objects = [random_boxes(8, g), crowded(6, g)]
    match = BipartiteThenIoU(first="best")(Priors(priors, (3000,)), pad(objects))
    expected = [SSDMatcher(0.5)(box_iou(o, priors)).clamp(min=-1).tolist() for o in objects]
    assert answer(match) == expected


def test_chain_needs_one_round_per_object() -> None:
    """Each object's best prior is better for the next object: by hand, on a line, objects and priors 10 wide.

    Objects at 0, 13, 25, 36, 46; priors at 6, 18.5, 30, 40.5, 50: distances of neighbors 6, 7 | 5.5, 6.5 | 5, 6 |
    4.5, 5.5 | 4. So the last object takes the last prior (4), the one before it the prior at 40.5 (4.5), and so on.
    """

    def line(starts: tuple[float, ...]) -> Tensor:
        return torch.tensor([(s, 0.0, s + 10, 10.0) for s in starts])

    objects, priors = line((0, 13, 25, 36, 46)), line((6, 18.5, 30, 40.5, 50))
    assert answer(BipartiteThenIoU(positive=0.9, negative=0.9)(Priors(priors, (5,)), pad([objects]))) == [
        [0, 1, 2, 3, 4]
    ]


def test_no_host_sync_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bipartite, "on_cpu", lambda tensor: False)
    g = torch.Generator().manual_seed(0)
    priors, targets = Priors(random_boxes(500, g), (500,)), pad([crowded(5, g), random_boxes(2, g)])
    for matcher in (BipartiteThenIoU(), BipartiteThenIoU(first="best")):
        with Syncs() as syncs:
            matcher(priors, targets)
        assert syncs.found == []


def test_ignored_between_regions_and_invalid_priors() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10]])
    priors = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4], [0, 0, 10, 2], [20, 20, 30, 30]]
    )  # 1, .6, .4, .2
    match = BipartiteThenIoU(positive=0.5, negative=0.3)(Priors(priors, (5,)), pad([objects]))
    assert match.positive[0].tolist() == [True, True, False, False, False]
    assert match.ignored[0].tolist() == [False, False, True, False, False]
    region = Target(
        torch.cat([objects, priors[4:]]), torch.zeros(2, dtype=torch.int64), ignore=torch.tensor([False, True])
    )
    match = BipartiteThenIoU()(Priors(priors, (5,)), Targets.pad([region]))
    assert match.ignored[0].tolist() == [False, False, False, False, True]
    valid = torch.tensor([[False, True, True, True, True]])
    match = BipartiteThenIoU(positive=0.7, negative=0.7)(Priors(priors, (5,), valid), pad([objects]))
    assert match.positive[0].tolist() == [False, True, False, False, False]  # the best of those that are left
    assert match.ignored[0].tolist() == [True, False, False, False, False]


def test_settings_are_checked() -> None:
    for settings in ({"positive": 0.4}, {"negative": 0.0}, {"first": "greedy"}):
        with pytest.raises(UsageError, match="BipartiteThenIoU"):
            BipartiteThenIoU(**settings)  # type: ignore[arg-type]
