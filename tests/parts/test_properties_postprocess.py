"""Properties of the selection of candidates and of non-maximum suppression, against a loop over pairs."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.parts.distance_nms import DistanceNMS
from foveal.parts.postprocess import NMS, NoNMS, Select, suppress_on_cpu, suppress_on_device, top_values
from foveal.types import Boxes
from tests.helpers.properties import QUARTERS, SIGNED, STEPS, WILD, boxes, distinct_scores, flags, labels, tensors

S = 14  # candidates
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
PER: tuple[Literal["class", "level", "all"], ...] = ("class", "level", "all")


@st.composite
def candidates(draw: Any, tables: Any = (STEPS, QUARTERS), ties: bool = False) -> Arguments:
    """boxes (1, S, 4), scores, labels (1, S), level (S,), valid (1, S)."""
    scores = draw(tensors(S, tables=(STEPS,))) if ties else draw(distinct_scores(S))
    level = torch.arange(S) // draw(st.integers(1, S))
    valid = draw(flags(1, S)) | draw(flags(1, S))
    return draw(boxes(S, S, tables))[None], scores[None], draw(labels(1, S, classes=2)), level, valid


def greedy(arguments: Arguments, iou: float, per: str, exponent: float | None = None) -> list[int]:
    """The definition: by falling score a box remains unless a remaining one of its group overlaps it by more."""
    some, scores, classes, level, valid = (t.view(-1, 4) if i == 0 else t.view(-1) for i, t in enumerate(arguments))
    group = {"class": classes, "level": level, "all": torch.zeros_like(classes)}[per].tolist()
    rows, remaining = some.double().tolist(), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if valid[i] and all(group[i] != group[j] or not _close(rows[i], rows[j], iou, exponent) for j in remaining):
            remaining.append(i)
    return remaining


def _close(a: list[float], b: list[float], limit: float, exponent: float | None) -> bool:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    overlap = shared / union if union else 0.0
    if exponent is None:
        return overlap > limit
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    shift = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
    return overlap - (shift / hull if hull else 0.0) ** exponent > limit


def rows_of(result: Boxes) -> list[int]:
    assert result.rows is not None
    return result.rows[0, result.valid[0]].tolist()


@given(candidates(ties=True), st.sampled_from([0.0, 0.3, 0.55, 0.71]), st.sampled_from(PER), st.integers(1, S))
def test_nms_is_the_greedy_definition(arguments: Arguments, iou: float, per: Any, top: int) -> None:
    """Also with ties, and where the kernel stops at ``top``."""
    assert rows_of(NMS(iou, per, top=top)(*arguments)) == greedy(arguments, iou, per)[:top]


@given(candidates((*(STEPS, QUARTERS), WILD), ties=True), st.sampled_from(PER), st.integers(1, S))
def test_stopping_at_top_is_the_beginning_of_the_whole(arguments: Arguments, per: Any, top: int) -> None:
    whole, part = NMS(0.4, per, top=S)(*arguments), NMS(0.4, per, top=top)(*arguments)
    assert rows_of(part) == rows_of(whole)[:top]
    assert torch.equal(part.boxes, whole.boxes[:, :top]) and torch.equal(part.scores, whole.scores[:, :top])


@given(candidates((STEPS, QUARTERS, WILD), ties=True), st.integers(1, S))
def test_both_forms_of_nms_are_equal(arguments: Arguments, top: int) -> None:
    some, scores, classes, _, valid = arguments
    cpu, device = (f(some, scores, classes, valid, 0.4, top) for f in (suppress_on_cpu, suppress_on_device))
    assert torch.equal(cpu[1], device[1]) and torch.equal(cpu[0][cpu[1]], device[0][device[1]])


@given(candidates(), st.permutations(range(S)), st.sampled_from([NMS(0.4), DistanceNMS(0.4), NoNMS()]))
def test_the_order_of_candidates_does_not_matter(arguments: Arguments, order: list[int], suppress: Any) -> None:
    first = suppress(*arguments)
    second = suppress(*(t[order] if t.dim() == 1 else t[:, order] for t in arguments))
    for name in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@given(candidates(), st.sampled_from([NMS(0.4, top=S), DistanceNMS(0.4, top=S), NoNMS(top=S)]))
def test_what_remains_remains_again(arguments: Arguments, suppress: Any) -> None:
    first = suppress(*arguments)
    assert first.rows is not None
    level = arguments[3][first.rows[0]]
    second = suppress(first.boxes, first.scores, first.labels, level, first.valid)
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.valid, second.valid)
    falling = first.scores[0, first.valid[0]]
    assert torch.equal(falling, falling.sort(descending=True).values)


@given(candidates(), st.sampled_from([0.1, 0.33, 0.52]), st.sampled_from([0.6, 1.0]), st.sampled_from(PER))
def test_distance_nms_is_the_greedy_definition(arguments: Arguments, iou: float, exponent: float, per: Any) -> None:
    assert rows_of(DistanceNMS(iou, exponent, per, top=S)(*arguments)) == greedy(arguments, iou, per, exponent)


NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -1.0, math.nan, math.inf, -math.inf])


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.integers(1, 70), st.integers(1, 40))
def test_top_values_are_the_highest_finite_ones(some: list[float], length: int, k: int) -> None:
    values = torch.tensor(some).repeat(-(-length // len(some)))[:length][None]
    value, index = top_values(values, k)
    ordered = sorted((v if v < math.inf else -math.inf for v in values[0].tolist()), reverse=True)
    assert value[0].tolist() == ordered[:k] and len(set(index[0].tolist())) == min(k, length)
    at = values.gather(1, index)
    assert torch.equal(torch.where(at < math.inf, at, -math.inf), value)


@given(
    tensors(2, 9, 3, tables=(SIGNED, STEPS)), st.sampled_from([1, 2, 5, 20]), st.sampled_from([(9,), (4, 5), (1, 0, 8)])
)
def test_candidates_are_the_best_pairs_of_each_level(scores: Tensor, k: int, counts: tuple[int, ...]) -> None:
    made = Select(0.0, k).candidates(scores, counts)
    for i in range(2):
        start = 0
        for level, count in enumerate(counts):
            here = made.level == level
            pairs = scores[i, start : start + count].flatten().sort(descending=True).values[:k]
            assert torch.equal(made.values[i, here], pairs)
            assert ((made.priors[i, here] >= start) & (made.priors[i, here] < start + count)).all()
            start += count
        assert torch.equal(scores[i, made.priors[i], made.labels[i]], made.values[i])
        assert len(set(zip(made.priors[i].tolist(), made.labels[i].tolist(), strict=True))) == made.values.shape[1]


@given(tensors(1, 9, 3, tables=(SIGNED, STEPS)), st.integers(1, 12))
def test_candidates_of_each_class_and_best_classes(scores: Tensor, k: int) -> None:
    each = Select(0.0, None, per_class=k).candidates(scores, (9,))
    for label in range(3):
        assert torch.equal(each.values[each.labels == label], scores[0, :, label].sort(descending=True).values[:k])
    best = Select(0.0, k, best_class=True).candidates(scores, (9,))
    assert torch.equal(best.values[0], scores[0].amax(1).sort(descending=True).values[:k])
    assert torch.equal(scores[0, best.priors[0], best.labels[0]], best.values[0])


@given(tensors(2, 9, 3, tables=(SIGNED, STEPS)), st.sampled_from([-1.0, 0.0, 0.5, 100.0]))
def test_all_pairs_above_a_score(scores: Tensor, threshold: float) -> None:
    made = Select(threshold, None).candidates(scores, (9,))
    for i in range(2):
        there = made.values[i] > -math.inf
        pairs = list(zip(made.priors[i, there].tolist(), made.labels[i, there].tolist(), strict=True))
        assert pairs == [tuple(pair) for pair in (scores[i] > threshold).nonzero().tolist()]
        assert torch.equal(scores[i, made.priors[i, there], made.labels[i, there]], made.values[i, there])
