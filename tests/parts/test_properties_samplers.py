"""Properties of the samplers, against their definitions."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import nms

from foveal.parts.samplers import OHEM, All, Balanced, HardNegatives, Sampler
from foveal.types import Match, Priors
from tests.helpers.properties import SIGNED, STEPS, distinct_scores, flags, sized_boxes, tensors

A = 30
BALANCED = (Balanced(8), Balanced(8, 0.25), Balanced(64), Balanced(1, 0.0), Balanced(5, 1.0))
EVERY: tuple[Sampler, ...] = (All(), *BALANCED, HardNegatives(), HardNegatives(0.5, 4), OHEM(4, 0.5), OHEM(6, 0.7, 3.0))


@st.composite
def cases(draw: Any) -> tuple[Match, Priors]:
    """Two images with any positive, ignored and invalid priors."""
    some = draw(sized_boxes(A, A))
    positive, ignored, valid = draw(flags(3, 2, A)).unbind()
    if draw(st.booleans()):
        positive = positive & draw(flags(2, A)) & draw(flags(2, A))  # few
    gt = torch.zeros(2, A, dtype=torch.int64)
    return Match(gt, positive & valid, ignored & ~positive | ~valid), Priors(some, (A,), valid)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SEEDS = st.integers(0, 2**31)


@given(cases(), st.sampled_from(BALANCED), SEEDS)
def test_balanced_samples_as_many_as_it_says(case: tuple[Match, Priors], sampler: Balanced, seed: int) -> None:
    match, priors = case
    sampled = sampler.sample(match, priors, rng=seeded(seed)) > 0
    assert not sampled[match.ignored].any()
    there = (match.positive & ~match.ignored).sum(1), (~match.positive & ~match.ignored).sum(1)
    positives = there[0].clamp(max=int(sampler.count * sampler.positive))
    assert torch.equal((sampled & match.positive).sum(1), positives)
    assert torch.equal((sampled & ~match.positive).sum(1), torch.minimum(there[1], sampler.count - positives))


@given(cases(), st.sampled_from(EVERY), SEEDS, tensors(2, A, tables=(SIGNED, STEPS)))
def test_indices_are_the_sample_sampled_ones_first(
    case: tuple[Match, Priors], sampler: Sampler, seed: int, losses: Tensor
) -> None:
    match, priors = case
    sampled = sampler.sample(match, priors, losses, seeded(seed)) > 0
    index, chosen = sampler.indices(match, priors, losses, seeded(seed))
    assert not (~chosen[:, :-1] & chosen[:, 1:]).any()
    for i in range(2):
        assert index[i, chosen[i]].sort().values.tolist() == sampled[i].nonzero()[:, 0].tolist()
        assert ((index[i] >= 0) & (index[i] < A)).all()


@given(cases(), st.sampled_from(EVERY), SEEDS, tensors(2, A, tables=(SIGNED, STEPS)))
def test_a_sample_is_weights_of_0_and_1_and_never_ignored(
    case: tuple[Match, Priors], sampler: Sampler, seed: int, losses: Tensor
) -> None:
    match, priors = case
    sampled = sampler.sample(match, priors, losses, seeded(seed))
    assert sampled.dtype == torch.float32 and ((sampled == 0) | (sampled == 1)).all()
    assert not sampled[match.ignored].any()
    if sampler.keeps_all:
        assert sampled[~match.ignored].all()


@given(cases(), st.sampled_from([HardNegatives(), HardNegatives(0.5), HardNegatives(2.5, 4)]), distinct_scores(2 * A))
def test_hard_negatives_are_those_with_the_largest_losses(
    case: tuple[Match, Priors], sampler: HardNegatives, losses: Tensor
) -> None:
    match, priors = case
    losses = losses.view(2, A)
    sampled = sampler.sample(match, priors, losses) > 0
    for i in range(2):
        positive = (match.positive & ~match.ignored)[i]
        negative = (~match.positive & ~match.ignored)[i].nonzero()[:, 0].tolist()
        count = max(sampler.minimum, int(sampler.ratio * int(positive.sum())))
        hardest = sorted(negative, key=lambda a: -float(losses[i, a]))[:count]
        assert sampled[i].nonzero()[:, 0].tolist() == sorted({*positive.nonzero()[:, 0].tolist(), *hardest})


def nms_over_all(match: Match, priors: Priors, losses: Tensor, i: int, count: int, ratio: float | None) -> list[int]:
    """The definition of OHEM, for image ``i``."""
    eligible = (~match.ignored[i]).nonzero()[:, 0]
    survivors = eligible[nms(priors.boxes[eligible], losses[i, eligible], 0.3)]
    if ratio is None:
        return sorted(survivors[:count].tolist())
    positives = survivors[match.positive[i, survivors]][: int(count / (1 + ratio))].tolist()
    limit = min(count - len(positives), int(ratio * max(1, len(positives))))
    return sorted(positives + survivors[~match.positive[i, survivors]][:limit].tolist())


@given(cases(), st.sampled_from([1, 2, 5]), st.sampled_from([None, 1.0, 3.0]), distinct_scores(2 * A))
def test_ohem_is_nms_over_all_priors(
    case: tuple[Match, Priors], count: int, ratio: float | None, losses: Tensor
) -> None:
    match, priors = case
    losses = losses.view(2, A)
    sampled = OHEM(count, 0.3, ratio).sample(match, priors, losses) > 0
    for i in range(2):
        assert sampled[i].nonzero()[:, 0].tolist() == nms_over_all(match, priors, losses, i, count, ratio)


@given(
    flags(1, 100),
    flags(1, 100),
    st.integers(1, 2),
    st.sampled_from([None, 1.0, 3.0]),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_ohem_looks_further_where_the_hardest_are_all_alike(
    positive: Tensor, most: Tensor, count: int, ratio: float | None, first: int, second: int
) -> None:
    """It begins with 16 times the count, here 16 or 32 of 100 priors on three places, the hardest on one of them."""
    place = (torch.arange(100) >= first).float() + (torch.arange(100) >= second).float()
    corner = place[:, None] * 50
    priors = Priors(torch.cat([corner, corner, corner + 9, corner + 9], 1), (100,))
    positive = positive | (most.cumsum(1) < 20)  # the hardest are often positive
    match, losses = (
        Match(torch.zeros(1, 100, dtype=torch.int64), positive, positive & False),
        torch.arange(100.0, 0, -1),
    )
    sampled = OHEM(count, 0.3, ratio).sample(match, priors, losses[None]) > 0
    assert sampled[0].nonzero()[:, 0].tolist() == nms_over_all(match, priors, losses[None], 0, count, ratio)


@given(cases(), SEEDS)
def test_a_seed_repeats_the_sample(case: tuple[Match, Priors], seed: int) -> None:
    match, priors = case
    first, second = (Balanced(8).sample(match, priors, rng=seeded(seed)) for _ in range(2))
    assert torch.equal(first, second)
