"""Objectness by hand: the weight of levels, and priors that learn an overlap."""

from __future__ import annotations

import math

import pytest
import torch

from foveal.errors import UsageError
from foveal.parts.losses.objectness import Objectness
from foveal.types import Match, Priors, Targets

PRIORS = Priors(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]]), (2, 1))
TARGETS = Targets(
    torch.tensor([[[0.0, 0, 10, 10]]]),
    torch.zeros(1, 1, dtype=torch.int64),
    torch.ones(1, 1, dtype=torch.bool),
    torch.zeros(1, 1, dtype=torch.bool),
)
MATCH = Match(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[True, False, False]]), torch.zeros(1, 3).bool())


def loss(quality: Objectness, logit: float = 0.0) -> float:
    """Of three equal logits whose boxes are the priors: on the object, over 4/5 of it, and elsewhere."""
    boxes = PRIORS.batched(1)
    return float(quality.loss(torch.full((1, 3), logit), boxes, PRIORS, TARGETS, MATCH, torch.ones(1, 3)))


def test_levels_have_weights() -> None:
    two = math.log(2)
    assert loss(Objectness()) == pytest.approx(3 * two)
    assert loss(Objectness(levels=(4.0, 0.4))) == pytest.approx(2 * 4 * two + 0.4 * two)
    assert loss(Objectness(levels=(4.0, 0.4), ignore=0.7)) == pytest.approx(4 * two + 0.4 * two)
    with pytest.raises(UsageError, match="weights for 3 levels, but there are 2"):
        loss(Objectness(levels=(1, 1, 1)))
    with pytest.raises(UsageError, match="levels of 0 or more"):
        Objectness(levels=(1, -1))


def test_overlaps_as_targets() -> None:
    """``objectness_smooth``: the second box overlaps the object by .8, above the .7 that are ignored otherwise."""
    squared = Objectness("squared", ignore=0.7, above="iou")
    assert loss(squared) == pytest.approx((0.5**2 + 0.3**2 + 0.5**2) / 2)
    assert loss(Objectness("squared", ignore=0.9, above="iou")) == pytest.approx(3 * 0.5**2 / 2)
    with pytest.raises(UsageError, match="above is 'ignored' or 'iou'"):
        Objectness(above="both")  # type: ignore[arg-type]
