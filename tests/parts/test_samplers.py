"""Samplers: invariants on random matches, reference loops, and no host sync."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import nms

from foveal.errors import UsageError
from foveal.parts.samplers import OHEM, All, Balanced, HardNegatives, Sampler
from foveal.types import Match, Priors
from tests.parts.losses.test_classification import Syncs

EVERY: list[Sampler] = [
    All(),
    Balanced(),
    Balanced(64, 0.25),
    HardNegatives(),
    HardNegatives(ratio=1.5, minimum=7),
    OHEM(64, 0.5),
    OHEM(64, 0.7, ratio=3.0),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(a: int = 400, positives: float = 0.1, seed: int = 0, b: int = 4) -> tuple[Match, Priors, Tensor]:
    """A random match with ignored and invalid priors; image 0 has no positives, image 1 no negatives."""
    rng = seeded(seed)
    positive = torch.rand(b, a, generator=rng) < positives
    ignored = ~positive & (torch.rand(b, a, generator=rng) < 0.2)
    positive[0] = False
    ignored[1] = ~positive[1]
    corner = torch.rand(b, a, 2, generator=rng) * 100
    boxes = torch.cat([corner, corner + 5 + torch.rand(b, a, 2, generator=rng) * 40], -1)
    valid = torch.rand(b, a, generator=rng) < 0.9
    match = Match(torch.zeros(b, a, dtype=torch.int64), positive, ignored)
    return match, Priors(boxes, (a,), valid), torch.rand(b, a, generator=rng)


def counts(sampled: Tensor, match: Match) -> list[tuple[int, int]]:
    """Sampled positives and negatives of each image."""
    return [(int(k[p].sum()), int(k[~p].sum())) for k, p in zip(sampled, match.positive, strict=True)]


def there(match: Match, priors: Priors) -> list[tuple[int, int]]:
    """Positives and negatives that may be sampled."""
    eligible = ~match.ignored if priors.valid is None else ~match.ignored & priors.valid
    return counts(eligible.float(), match)


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_samples_are_binary_and_never_ignored_or_invalid(sampler: Sampler, seed: int) -> None:
    match, priors, losses = case(seed=seed)
    sampled = sampler.sample(match, priors, losses, seeded(seed))
    assert sampled.shape == (4, 400) and sampled.dtype == torch.float32
    assert ((sampled == 0) | (sampled == 1)).all()
    assert priors.valid is not None
    assert not (sampled[match.ignored] > 0).any() and not (sampled[~priors.valid] > 0).any()
    again = sampler.sample(match, priors, losses, seeded(seed))
    assert torch.equal(sampled, again)


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_shared_priors_and_nothing_to_sample(sampler: Sampler) -> None:
    match, priors, losses = case()
    shared = Priors(priors.boxes[0], priors.counts)
    sampled = sampler.sample(match, shared, losses, seeded(0))
    assert sampled.shape == (4, 400) and (sampled.sum(1)[1:] > 0).all()
    nothing = Match(match.gt, torch.zeros_like(match.positive), torch.ones_like(match.ignored))
    assert sampler.sample(nothing, priors, losses, seeded(0)).sum() == 0


def test_all() -> None:
    match, priors, _ = case()
    assert counts(All().sample(match, priors), match) == there(match, priors)


# -------------------------------------------------------------------------------------------------- balanced
@pytest.mark.parametrize(("count", "share"), [(256, 0.5), (64, 0.25), (32, 0.0), (32, 1.0), (1000, 0.5)])
@pytest.mark.parametrize("positives", [0.02, 0.3, 0.95])
def test_balanced_counts_match_torchvision(count: int, share: float, positives: float) -> None:
    match, priors, _ = case(positives=positives, seed=1)
    assert priors.valid is not None
    sampler, peer = Balanced(count, share), BalancedPositiveNegativeSampler(count, share)
    labels = torch.where(match.positive, 1, 0).masked_fill(match.ignored | ~priors.valid, -1)
    torch.manual_seed(0)
    expected = [(int(p.sum()), int(n.sum())) for p, n in zip(*peer(list(labels)), strict=True)]
    assert counts(sampler.sample(match, priors, rng=seeded(0)), match) == expected


@pytest.mark.parametrize(("count", "share"), [(256, 0.5), (64, 0.25), (1000, 0.5)])
def test_balanced_indices_are_the_sampled_priors(count: int, share: float) -> None:
    match, priors, _ = case(seed=2)
    sampler = Balanced(count, share)
    index, filled = sampler.indices(match, priors, rng=seeded(3))
    assert index.shape == filled.shape == (4, min(count, 400))
    assert index.dtype == torch.int64 and filled.dtype == torch.bool
    assert int(index.min()) >= 0 and int(index.max()) < 400
    sampled = sampler.sample(match, priors, rng=seeded(3))
    for b in range(4):
        chosen = index[b][filled[b]]
        assert len(chosen.unique()) == len(chosen)
        assert torch.equal(chosen.sort().values, sampled[b].nonzero()[:, 0])
        n = int(filled[b].sum())
        assert filled[b, :n].all()  # sampled ones first
        assert match.positive[b][chosen].int().diff().le(0).all()  # and of them the positives


def test_balanced_sampling_is_uniform() -> None:
    """Each of 40 positives is among 10 in a quarter of the draws, each of 200 negatives among 10 in a twentieth."""
    positive = torch.zeros(1, 240, dtype=torch.bool)
    positive[0, ::6] = True
    match = Match(torch.zeros(1, 240, dtype=torch.int64), positive, torch.zeros_like(positive))
    priors, rng, draws = Priors(torch.zeros(240, 4), (240,)), seeded(0), 2000
    many = torch.stack([Balanced(20, 0.5).sample(match, priors, rng=rng)[0] for _ in range(draws)]).mean(0)
    assert (many[positive[0]] - 0.25).abs().max() < 5 * (0.25 * 0.75 / draws) ** 0.5
    assert (many[~positive[0]] - 0.05).abs().max() < 5 * (0.05 * 0.95 / draws) ** 0.5
    first, second = (Balanced(20, 0.5).sample(match, priors, rng=rng) for _ in range(2))
    assert not torch.equal(first, second)


# ---------------------------------------------------------------------------------------- hard example mining
@pytest.mark.parametrize(("ratio", "minimum"), [(3.0, 0), (1.5, 0), (1.0, 7), (1000.0, 0)])
def test_hard_negatives_match_a_reference_loop(ratio: float, minimum: int) -> None:
    match, priors, losses = case(positives=0.03, seed=3)
    assert priors.valid is not None
    sampled = HardNegatives(ratio, minimum).sample(match, priors, losses)
    for b in range(4):
        may = [i for i in range(400) if priors.valid[b, i] and not match.ignored[b, i]]
        expected = {i for i in may if match.positive[b, i]}
        negatives = sorted((i for i in may if not match.positive[b, i]), key=lambda i: -float(losses[b, i]))
        expected |= set(negatives[: max(int(ratio * len(expected)), minimum)])
        assert set(sampled[b].nonzero()[:, 0].tolist()) == expected
    assert (sampled[0].sum() == 0) == (minimum == 0)  # an image without positives


def plain_ohem(boxes: Tensor, losses: Tensor, positive: Tensor, sampler: OHEM) -> set[int]:
    """NMS over every RoI (R, 4) of one image, then the count; the rule of the docstring."""
    survivors = nms(boxes, losses, sampler.iou).tolist()
    if sampler.ratio is None:
        return set(survivors[: sampler.count])
    positives = [i for i in survivors if positive[i]][: int(sampler.count / (1 + sampler.ratio))]
    room = min(sampler.count - len(positives), int(sampler.ratio * max(1, len(positives))))
    return set(positives) | set([i for i in survivors if not positive[i]][:room])


@pytest.mark.parametrize("sampler", [OHEM(8, 0.5), OHEM(64, 0.7), OHEM(12, 0.3, 3.0), OHEM(200, 0.5, 3.0)], ids=repr)
@pytest.mark.parametrize("crowded", [False, True])
def test_ohem_matches_a_reference_loop(sampler: OHEM, crowded: bool) -> None:
    match, priors, losses = case(a=1500, positives=0.03, seed=4)
    boxes = priors.boxes / 8 + 50 if crowded else priors.boxes  # hardly any RoI survives, so the search has to widen
    if crowded:
        losses = losses - match.positive.float()  # the positives are the easiest
    assert priors.valid is not None
    sampled = sampler.sample(match, Priors(boxes, priors.counts, priors.valid), losses)
    for b in range(4):
        may = (priors.valid[b] & ~match.ignored[b]).nonzero()[:, 0]
        chosen = plain_ohem(boxes[b, may], losses[b, may], match.positive[b, may], sampler)
        assert set(sampled[b].nonzero()[:, 0].tolist()) == {int(may[i]) for i in chosen}


def test_ohem_by_hand() -> None:
    """Three priors at one location, one elsewhere: the hardest of the cluster and the other one are sampled."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [50, 50, 60, 60]])
    none = torch.zeros(1, 4, dtype=torch.bool)
    match, losses = Match(torch.zeros(1, 4, dtype=torch.int64), none, none), torch.tensor([[0.2, 0.9, 0.8, 0.1]])
    assert OHEM(4, 0.7).sample(match, Priors(boxes, (4,)), losses).tolist() == [[0, 1, 0, 1]]
    assert OHEM(1, 0.7).sample(match, Priors(boxes, (4,)), losses).tolist() == [[0, 1, 0, 0]]


def test_missing_losses_are_rejected() -> None:
    match, priors, _ = case()
    assert [s.needs_losses for s in (All(), Balanced(), HardNegatives(), OHEM())] == [False, False, True, True]
    for sampler in (HardNegatives(), OHEM()):
        with pytest.raises(UsageError, match=type(sampler).__name__):
            sampler.sample(match, priors)


def test_no_gradient_flows_through_the_sampling() -> None:
    match, priors, losses = case()
    for sampler in (HardNegatives(), OHEM(64)):
        assert not sampler.sample(match, priors, losses.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("sampler", [All(), Balanced(), HardNegatives()], ids=repr)
def test_no_host_sync(sampler: Sampler) -> None:
    match, priors, losses = case()
    with Syncs() as syncs:
        sampler.sample(match, priors, losses, seeded(0))
        if isinstance(sampler, Balanced):
            sampler.indices(match, priors, rng=seeded(0))
    assert not syncs.found


@pytest.mark.parametrize(
    "make",
    [
        lambda: Balanced(0),
        lambda: Balanced(5, 1.5),
        lambda: HardNegatives(-1.0),
        lambda: OHEM(0),
        lambda: OHEM(ratio=0.0),
    ],
)
def test_bad_settings_are_rejected(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="expected"):
        make()
