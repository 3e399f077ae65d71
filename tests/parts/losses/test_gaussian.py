"""Gaussian YOLO's uncertainties by hand."""

from __future__ import annotations

import math

import pytest
import torch

from foveal.parts.losses.gaussian import GaussianObjectness
from foveal.parts.losses.objectness import Objectness
from foveal.types import Match, Priors, Targets


def test_scores_are_lowered_by_the_mean_deviation() -> None:
    """Objectness 1/2, deviations 1/2, 1/4, 1/4 and 0: 0.8 x 0.5 x (1 - 0.25)."""
    quality = torch.tensor([[[0.0, 0.0, -math.log(3), -math.log(3), -100.0]]])
    scores = GaussianObjectness().scores(torch.tensor([[[0.8, 0.2]]]), quality)
    assert scores.flatten().tolist() == pytest.approx([0.3, 0.075], rel=1e-4)
    alone = GaussianObjectness().scores(torch.tensor([[[0.8, 0.2]]]), quality[..., 0])
    assert alone.flatten().tolist() == pytest.approx([0.4, 0.1])


def test_loss_by_hand() -> None:
    """An object of 20 x 10 px in a canvas of 100: the box lies half a cell (5 px) to the left and is twice as wide.

    With all deviations 1/2: errors .5, 0, ln 2 and 0 by e^2 / (2 s^2) = 2 e^2, plus 4 ln .8, times 1 - w h / 2 = .99.
    """
    priors = Priors(
        torch.tensor([[40.0, 40, 60, 60], [0, 0, 20, 20]]), (2,), grid=torch.tensor([[10.0, 10, 100, 100, 1]] * 2)
    )
    targets = Targets(
        torch.tensor([[[40.0, 45, 60, 55]]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.bool),
    )
    match = Match(
        torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[True, False]]), torch.zeros(1, 2, dtype=torch.bool)
    )
    boxes = torch.tensor([[[25.0, 45, 65, 55], [0, 0, 20, 20]]])
    quality = torch.zeros(1, 2, 5)
    objectness = Objectness()
    plain = objectness.loss(quality[..., 0], boxes, priors, targets, match, torch.ones(1, 2))
    whole = GaussianObjectness(objectness, weight=3.0).loss(quality, boxes, priors, targets, match, torch.ones(1, 2))
    expected = 0.99 * (2 * (0.25 + math.log(2) ** 2) + 4 * math.log(0.8))
    assert float(whole - plain) == pytest.approx(3 * expected, rel=1e-5)


def test_deviations_approach_the_errors() -> None:
    """The likelihood of e is largest near s = e; with the offset of .3 slightly above it."""
    priors = Priors(torch.tensor([[40.0, 40, 60, 60]]), (1,), grid=torch.tensor([[10.0, 10, 100, 100, 1]]))
    one = torch.ones(1, 1, dtype=torch.bool)
    targets = Targets(torch.tensor([[[40.0, 40, 60, 60]]]), torch.zeros(1, 1, dtype=torch.int64), one, ~one)
    match = Match(torch.zeros(1, 1, dtype=torch.int64), one, ~one)
    boxes = torch.tensor([[[41.0, 40, 61, 60]]])  # a tenth of a cell to the right
    quality = torch.zeros(1, 1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([quality], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        GaussianObjectness().loss(quality, boxes, priors, targets, match, torch.ones(1, 1)).backward()
        optimizer.step()
    x, y = quality[0, 0, 1:3].sigmoid().tolist()
    assert 0.1 < x < 0.3 and y < 0.02
