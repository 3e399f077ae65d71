"""IoU matching against torchvision's box_iou + Matcher, and the rules that torchvision lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from foveal.errors import UsageError
from foveal.parts.matching import matcher as matchers
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.matching.matcher import match_on_cpu, match_on_device
from foveal.types import Match, Priors, Target, Targets


class Syncs(TorchDispatchMode):
    """Names of the operations that make a CPU wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal") or any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in indices
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def random_boxes(n: int, rng: torch.Generator, size: int = 60, whole: bool = True) -> Tensor:
    """Integer coordinates on a small image give many equal overlaps."""
    corner = torch.rand(n, 2, generator=rng) * size
    side = torch.rand(n, 2, generator=rng) * size / 2 + 1
    boxes = torch.cat([corner, corner + side], 1)
    return boxes.round() if whole else boxes


def pad(boxes: list[Tensor]) -> Targets:
    return Targets.pad([Target(b, torch.zeros(len(b), dtype=torch.int64)) for b in boxes])


def as_torchvision(match: Match) -> Tensor:
    """Object, -1 for background, -2 for ignored: (B, A)."""
    return torch.where(match.positive, match.gt, torch.where(match.ignored, -2, -1))


def reference(objects: Tensor, priors: Tensor, positive: float, negative: float, low_quality: bool) -> Tensor:
    """torchvision, but without forcing matches for objects that overlap no prior."""
    overlaps = box_iou(objects, priors)
    touched = overlaps.amax(1) > 0
    found = TorchvisionMatcher(positive, negative, False)(overlaps)
    if low_quality and touched.any():
        best = (overlaps == overlaps.amax(1, keepdim=True))[touched].any(0)
        found = torch.where(best, overlaps.argmax(0), found)
    return found


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("low_quality", [True, False])
def test_matches_torchvision_on_random_cases_with_ties(
    monkeypatch: pytest.MonkeyPatch, cpu: bool, low_quality: bool
) -> None:
    if not cpu:
        monkeypatch.setattr(matchers, "match_on_cpu", match_on_device)
    monkeypatch.setattr(matchers, "CPU_BUDGET", 1 << 11)  # several chunks also in small cases
    monkeypatch.setattr(matchers, "DEVICE_BUDGET", 1 << 11)
    rng = torch.Generator().manual_seed(3)
    matcher = IoUMatcher(0.5, 0.4, low_quality=low_quality)
    ties = 0
    for case in range(180):
        count = int(torch.randint(1, 900, (), generator=rng))
        numbers = [int(n) for n in torch.randint(1, 25, (3,), generator=rng)]
        objects = [random_boxes(n, rng, whole=case % 2 == 0) for n in numbers]
        priors = random_boxes(count, rng, whole=case % 2 == 0)
        if case % 3 == 0:
            priors = torch.cat([priors, priors])  # every best is met twice
        found = as_torchvision(matcher(Priors(priors, (len(priors),)), pad(objects)))
        for boxes, row in zip(objects, found, strict=True):
            assert torch.equal(row, reference(boxes, priors, 0.5, 0.4, low_quality))
            overlaps = box_iou(boxes, priors)
            ties += int(((overlaps == overlaps.amax(1, keepdim=True)).sum(1) > 1).sum())
    assert ties > 500


def test_the_original_torchvision_matcher_agrees_where_every_object_is_touched() -> None:
    rng = torch.Generator().manual_seed(0)
    priors = random_boxes(20_000, rng, 500, whole=False)
    objects = random_boxes(40, rng, 500, whole=False)
    assert (box_iou(objects, priors).amax(1) > 0).all()
    expected = TorchvisionMatcher(0.7, 0.3, True)(box_iou(objects, priors))
    found = IoUMatcher(0.7, 0.3)(Priors(priors, (len(priors),)), pad([objects]))
    assert torch.equal(as_torchvision(found)[0], expected)


def test_cpu_and_device_forms_agree_bit_for_bit() -> None:
    rng = torch.Generator().manual_seed(1)
    for shared in (True, False):
        priors = random_boxes(9000, rng, 300)
        if not shared:
            priors = torch.stack([priors, random_boxes(9000, rng, 300)])
        targets = pad([random_boxes(30, rng, 300), random_boxes(7, rng, 300)])
        for a, b in zip(match_on_cpu(priors, targets.boxes), match_on_device(priors, targets.boxes), strict=True):
            assert a is not None and b is not None
            assert torch.equal(a, b)


def test_images_without_objects_are_all_background() -> None:
    rng = torch.Generator().manual_seed(0)
    priors = Priors(random_boxes(50, rng), (50,))
    found = IoUMatcher()(priors, pad([torch.zeros(0, 4), random_boxes(3, rng)]))
    assert not found.positive[0].any() and not found.ignored[0].any()
    assert found.positive[1].any()
    assert found.gt.min() == 0 and found.gt[0].max() == 0


def test_object_without_overlap_forces_no_match() -> None:
    priors = Priors(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), (2,))
    found = IoUMatcher()(priors, pad([torch.tensor([[100.0, 100, 120, 120], [0, 0, 10, 5]])]))
    assert as_torchvision(found).tolist() == [[1, -1]]


def test_a_forced_prior_is_assigned_to_its_own_best_object() -> None:
    """Object 1's best prior (IoU 5/15) overlaps object 0 more (10/20), so it is assigned to 0, as in torchvision."""
    priors = Priors(torch.tensor([[0.0, 0, 10, 10]]), (1,))
    objects = torch.tensor([[0.0, 0, 20, 10], [5, 0, 15, 10]])
    found = IoUMatcher(0.7, 0.6)(priors, pad([objects]))
    assert found.positive.tolist() == [[True]] and found.gt.tolist() == [[0]]


def test_low_quality_floor_follows_detectron() -> None:
    """IoU .35 and .45 are each object's best; only the second is forced (Detectron: below .4 is background)."""
    objects = torch.tensor([[0.0, 0, 35, 10], [100, 0, 145, 10]])
    priors = Priors(torch.tensor([[0.0, 0, 100, 10], [100, 0, 200, 10]]), (2,))
    assert as_torchvision(IoUMatcher(0.5, 0.4)(priors, pad([objects]))).tolist() == [[0, 1]]
    assert as_torchvision(IoUMatcher(0.5, 0.4, low_quality_floor=0.4)(priors, pad([objects]))).tolist() == [[-1, 1]]


def test_background_needs_a_minimum_overlap_as_in_the_paper() -> None:
    """Fast R-CNN: background is [.1, .5), below that priors are ignored."""
    priors = Priors(torch.tensor([[0.0, 0, 100, 10], [0, 0, 100, 1], [0, 50, 100, 60]]), (3,))
    found = IoUMatcher(0.5, 0.5, low_quality=False, background=0.1)(priors, pad([torch.tensor([[0.0, 0, 20, 10]])]))
    assert as_torchvision(found).tolist() == [[-1, -2, -2]]


def test_invalid_priors_are_ignored_and_never_an_objects_best() -> None:
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 3]])
    targets = pad([torch.tensor([[0.0, 0, 10, 10]])] * 2)
    valid = torch.tensor([[False, True, True], [True, True, True]])
    found = as_torchvision(IoUMatcher(0.9, 0.4)(Priors(priors, (3,), valid), targets))
    assert found.tolist() == [[-2, 0, -1], [0, -2, -1]]


def test_ignored_regions_take_background_out_but_never_positives() -> None:
    priors = Priors(torch.tensor([[0.0, 0, 10, 10], [0, 6, 10, 16], [0, 4, 10, 14], [50, 50, 60, 60]]), (4,))
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 40, 10]])
    target = Target(boxes, torch.zeros(2, dtype=torch.int64), ignore=torch.tensor([False, True]))
    found = IoUMatcher(0.5, 0.4)(priors, Targets.pad([target]))
    assert as_torchvision(found).tolist() == [[0, -1, -2, -1]]  # 4 of 10 rows inside: background; 6 of 10: ignored


def test_empty_and_inverted_boxes_are_harmless() -> None:
    priors = Priors(torch.tensor([[0.0, 0, 0, 0], [9, 9, 3, 3], [0, 0, 10, 10]]), (3,))
    for match in (match_on_cpu, match_on_device):
        iou, _, best = match(priors.boxes, torch.tensor([[[0.0, 0, 10, 10], [0, 0, 0, 0]]]))
        assert iou.tolist() == [[0, 0, 1]] and best is not None and best.tolist() == [[False, False, True]]


def test_device_implementation_never_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "match_on_cpu", match_on_device)
    rng = torch.Generator().manual_seed(0)
    target = Target(random_boxes(9, rng), torch.zeros(9, dtype=torch.int64), ignore=torch.arange(9) > 6)
    targets = Targets.pad([target, target])
    priors = Priors(random_boxes(500, rng), (500,), torch.rand(2, 500, generator=rng) > 0.2)
    with Syncs() as syncs:
        IoUMatcher()(priors, targets)
    assert syncs.found == []


def test_cpu_implementation_uses_no_syncing_operation() -> None:
    rng = torch.Generator().manual_seed(0)
    targets = pad([random_boxes(9, rng), random_boxes(2, rng)])
    with Syncs() as syncs:
        IoUMatcher()(Priors(random_boxes(500, rng), (500,)), targets)
    assert syncs.found == []


def test_memory_does_not_grow_with_the_objects() -> None:
    rng = torch.Generator().manual_seed(0)
    priors = Priors(random_boxes(40_000, rng, 600, whole=False), (40_000,))
    peaks = []
    for n in (1, 100, 500):
        targets = pad([random_boxes(n, rng, 600, whole=False)])
        with torch.profiler.profile(profile_memory=True, acc_events=False) as profile:
            IoUMatcher()(priors, targets)
        alive = peak = 0
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            alive += event.nbytes()
            peak = max(peak, alive)
        peaks.append(peak)
    assert peaks[2] < peaks[1] * 1.1 and peaks[2] < peaks[0] + 2e6  # one matrix of overlaps would add 80 MB


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(UsageError, match=r"0\.4, 0\.3"):
        IoUMatcher(0.3, 0.4)
