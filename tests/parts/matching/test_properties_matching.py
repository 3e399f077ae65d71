"""Properties of the matchers, against definitions pair by pair."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from foveal.parts.matching import matcher as matchers
from foveal.parts.matching.bipartite import BipartiteThenIoU
from foveal.parts.matching.hungarian import Hungarian, solve_assignment
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.matching.matcher import best_overlaps, in_ignored_region, match_on_cpu, match_on_device
from foveal.parts.matching.points import PointMatcher
from foveal.types import Priors, Target, Targets
from tests.helpers.properties import QUARTERS, REAL, SIGNED, STEPS, WILD, boxes, examples, flags, sized_boxes, tensors

A = 12  # priors
IOU = (
    IoUMatcher(),
    IoUMatcher(0.7, 0.3),
    IoUMatcher(0.5, 0.5, False, background=0.1),
    IoUMatcher(low_quality_floor=0.4),
)
EITHER = (*IOU, BipartiteThenIoU(), BipartiteThenIoU(negative=0.3, first="best"))


@st.composite
def targets(draw: Any, high: int = 4, tables: Any = (STEPS, QUARTERS)) -> Targets:
    """One or two images with up to ``high`` objects that are not empty."""
    made = [draw(sized_boxes(0, high, tables)) for _ in range(draw(st.integers(1, 2)))]
    return Targets.pad([Target(b, torch.zeros(len(b), dtype=torch.int64)) for b in made])


def priors_of(some: Tensor, valid: Tensor | None = None) -> Priors:
    return Priors(some, (len(some),), valid)


def overlaps(priors: Tensor, made: Targets) -> Tensor:
    """(B, A, G) torchvision's IoU; -1 for padding. An empty prior overlaps nothing."""
    each = [box_iou(priors, objects).nan_to_num(0) for objects in made.boxes]
    return torch.where(made.valid[:, None], torch.stack(each), -1.0)


@given(boxes(A, A, (STEPS, QUARTERS, REAL, WILD)), targets(), st.sampled_from([4, 1 << 18]))
def test_both_forms_of_the_overlaps_are_equal(priors: Tensor, made: Targets, budget: int) -> None:
    """Also where the priors come in many chunks."""
    objects = torch.where(made.valid[..., None], made.boxes, 0.0)
    before = matchers.CPU_CHUNK, matchers.CPU_BUDGET
    matchers.CPU_CHUNK = matchers.CPU_BUDGET = budget
    try:
        cpu, device = match_on_cpu(priors, objects), match_on_device(priors, objects)
    finally:
        matchers.CPU_CHUNK, matchers.CPU_BUDGET = before
    for ours, theirs in zip(cpu, device, strict=True):
        assert ours is not None and theirs is not None and torch.equal(ours, theirs)


@given(boxes(A, A, (STEPS, QUARTERS, REAL)), targets())
def test_best_overlaps_are_the_largest_of_all_pairs(priors: Tensor, made: Targets) -> None:
    iou, gt, best = best_overlaps(priors, torch.where(made.valid[..., None], made.boxes, 0.0))
    pairs = overlaps(priors, made).clamp(min=0)
    assert torch.equal(iou, pairs.amax(2)) and torch.equal(pairs.gather(2, gt[..., None])[..., 0], iou)
    of_object = pairs.amax(1, keepdim=True)
    assert best is not None and torch.equal(best, ((pairs == of_object) & (pairs > 0)).any(2))


@given(st.sampled_from(IOU), boxes(A, A, (STEPS, QUARTERS)), targets())
def test_iou_matcher_follows_its_thresholds(matcher: IoUMatcher, priors: Tensor, made: Targets) -> None:
    match = matcher(priors_of(priors), made)
    pairs = overlaps(priors, made).clamp(min=0)
    for i, image in enumerate(pairs):
        for a in range(A):
            own, tops = float(image[a].max()), image.amax(0)
            best = any(image[a, g] == tops[g] > 0 for g in range(image.shape[1]))
            positive = own >= np.float32(matcher.positive) or (
                matcher.low_quality and best and own >= np.float32(matcher.low_quality_floor)
            )
            background = np.float32(matcher.background) <= own < np.float32(matcher.negative)
            assert bool(match.positive[i, a]) == positive
            assert bool(match.ignored[i, a]) == (not positive and not background)
            assert not positive or image[a, match.gt[i, a]] == own


@given(st.sampled_from(EITHER), boxes(A, A, (REAL, QUARTERS)), targets(tables=(REAL,)), st.permutations(range(A)))
def test_the_order_of_priors_does_not_matter(matcher: Any, priors: Tensor, made: Targets, order: list[int]) -> None:
    """Up to ties: with two equally good priors SSD's matcher takes the first."""
    pairs = overlaps(priors, made)
    if any(len(set(column[column > 0].tolist())) < int((column > 0).sum()) for image in pairs for column in image.T):
        return
    first, second = matcher(priors_of(priors), made), matcher(priors_of(priors[order]), made)
    assert torch.equal(first.positive[:, order], second.positive)
    assert torch.equal(first.ignored[:, order], second.ignored)
    assert torch.equal((first.gt * first.positive)[:, order], second.gt * second.positive)


@given(st.sampled_from(EITHER), boxes(A, A, (QUARTERS, STEPS)), targets(3), flags(2, A))
def test_invalid_priors_are_as_if_they_were_not_there(
    matcher: Any, priors: Tensor, made: Targets, valid: Tensor
) -> None:
    valid = valid[: len(made.boxes)]
    match = matcher(priors_of(priors, valid), made)
    assert match.ignored[~valid].all() and not match.positive[~valid].any()
    for i, keep in enumerate(valid):
        alone = Targets(made.boxes[i : i + 1], made.labels[i : i + 1], made.valid[i : i + 1], made.ignore[i : i + 1])
        rest = matcher(priors_of(priors[keep]), alone)
        assert torch.equal(match.positive[i, keep], rest.positive[0])
        assert torch.equal(match.ignored[i, keep], rest.ignored[0])
        assert torch.equal((match.gt * match.positive)[i, keep], (rest.gt * rest.positive)[0])


@given(st.sampled_from(EITHER), boxes(A, A), targets())
def test_padding_changes_no_match(matcher: Any, priors: Tensor, made: Targets) -> None:
    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, torch.zeros_like(values[:, :1]), torch.zeros_like(values[:, :1])], 1)

    wide = Targets(*map(padded, (made.boxes, made.labels, made.valid, made.ignore)))
    first, second = matcher(priors_of(priors), made), matcher(priors_of(priors), wide)
    assert torch.equal(first.positive, second.positive) and torch.equal(first.ignored, second.ignored)
    assert torch.equal(first.gt * first.positive, second.gt * second.positive)


@given(boxes(A, A, (STEPS, QUARTERS)), targets())
def test_bipartite_is_the_greedy_search_over_all_pairs(priors: Tensor, made: Targets) -> None:
    """The largest overlap of all free pairs first; of equals the first object, then its first prior."""
    match = BipartiteThenIoU()(priors_of(priors), made)
    for i, image in enumerate(overlaps(priors, made)):
        assigned: dict[int, int] = {}
        pairs = [(-float(image[a, g]), g, a) for g in range(image.shape[1]) for a in range(A) if image[a, g] > 1e-6]
        for _, g, a in sorted(pairs):
            if g not in assigned.values() and a not in assigned:
                assigned[a] = g
        for a in range(A):
            expected = assigned.get(a, int(image[a].argmax()) if image[a].max() >= 0.5 else None)
            assert bool(match.positive[i, a]) == (expected is not None)
            assert expected is None or a not in assigned or int(match.gt[i, a]) == expected


@given(tensors(1, 5, 3, tables=(SIGNED, STEPS)), flags(3))
def test_hungarian_is_the_cheapest_of_all_assignments(cost: Tensor, present: Tensor) -> None:
    costs = torch.where(present, cost, torch.inf).numpy()
    gt = solve_assignment(costs)[0]
    objects = np.flatnonzero(present.numpy())
    assert sorted(gt[gt >= 0]) == objects.tolist()
    ours = sum(float(costs[0, a, g]) for a, g in enumerate(gt) if g >= 0)
    each = (
        sum(float(costs[0, a, g]) for a, g in zip(p, objects, strict=True))
        for p in itertools.permutations(range(5), len(objects))
    )
    assert math.isclose(ours, min(each), rel_tol=1e-5, abs_tol=1e-5)


@given(boxes(4, 4, (QUARTERS, WILD)), targets(6), tensors(1, 4, 2, tables=(SIGNED, WILD)))
def test_hungarian_assigns_each_query_one_object_whatever_is_predicted(
    predicted: Tensor, made: Targets, logits: Tensor
) -> None:
    b = len(made.boxes)
    whole = priors_of(torch.tensor([[0.0, 0.0, 64.0, 64.0]]).expand(4, 4))
    outputs = predicted.expand(b, 4, 4), logits.softmax(-1).expand(b, 4, 2)
    match = Hungarian()(whole, made, outputs)
    for gt, positive, valid in zip(match.gt, match.positive, made.valid, strict=True):
        some = gt[positive].tolist()
        assert len(set(some)) == len(some) == min(4, int(valid.sum())) and valid[some].all()


@st.composite
def locations(draw: Any) -> Priors:
    """Two levels of square cells, strides 4 and 8."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    made = []
    for stride in (4, 8):
        height, width = -(-rows * 4 // stride), -(-columns * 4 // stride)
        y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
        corner = torch.stack([x, y], -1).view(-1, 2).float()
        made.append(torch.cat([corner, corner + stride], 1))
    return Priors(torch.cat(made), (len(made[0]), len(made[1])))


@examples(250)  # a loop over cells and objects
@given(
    locations(),
    targets(tables=(QUARTERS, STEPS)),
    st.sampled_from([PointMatcher(), PointMatcher(None), PointMatcher(0.5, (0.5, 1.5))]),
)
def test_point_matcher_assigns_the_smallest_object_that_fits(
    priors: Priors, made: Targets, matcher: PointMatcher
) -> None:
    match = matcher(priors, made)
    for i, a in itertools.product(range(len(made.boxes)), range(len(priors.boxes))):
        cell, first = priors.boxes[a].tolist(), a < priors.counts[0]
        stride, x, y = cell[2] - cell[0], (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
        fitting = []
        for g, (x1, y1, x2, y2) in enumerate(made.boxes[i].tolist()):
            sides = x - x1, y - y1, x2 - x, y2 - y
            low, high = 0 if first else stride * matcher.span[0], stride * matcher.span[1] if first else math.inf
            away = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            near = matcher.radius is None or away < matcher.radius * stride
            if made.valid[i, g] and min(sides) > 0 and low < max(sides) < high and near:
                fitting.append(((x2 - x1) * (y2 - y1), g))
        assert bool(match.positive[i, a]) == bool(fitting)
        assert not fitting or int(match.gt[i, a]) == min(fitting)[1]


@given(boxes(A, A, (STEPS, QUARTERS)), sized_boxes(2, 2, (STEPS, QUARTERS)), flags(2))
def test_a_prior_is_in_an_ignored_region_from_half_its_area_on(priors: Tensor, some: Tensor, ignore: Tensor) -> None:
    made = Targets.pad([Target(some, torch.zeros(2, dtype=torch.int64), ignore=ignore)])
    inside = in_ignored_region(priors, made)[0]
    for prior, found in zip(priors.tolist(), inside.tolist(), strict=True):
        area, shares = (prior[2] - prior[0]) * (prior[3] - prior[1]), []
        for region in some[ignore].tolist():
            width = min(prior[2], region[2]) - max(prior[0], region[0])
            height = min(prior[3], region[3]) - max(prior[1], region[1])
            shares.append(max(0.0, width) * max(0.0, height))
        assert found == (area > 0 and any(2 * shared >= area for shared in shares))
