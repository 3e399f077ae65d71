"""Box coders against torchvision's, and decoding as the inverse of encoding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from foveal.errors import UsageError
from foveal.parts.coders import LTRB, Coder, Delta, GridCoder, ImageRelative, finite_areas


def boxes(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=rng) * 800
    return torch.cat([corner, corner + 8 + torch.rand(*shape, 2, generator=rng) * 400], -1)


def test_delta_by_hand() -> None:
    # Prior 10 x 20 with center (5, 10); box 20 x 10 with center (7, 9).
    prior, box = torch.tensor([0.0, 0.0, 10.0, 20.0]), torch.tensor([-3.0, 4.0, 17.0, 14.0])
    coder = Delta(weights=(10.0, 10.0, 5.0, 5.0))
    expected = torch.tensor([10 * 2 / 10, 10 * -1 / 20, 5 * math.log(2), 5 * math.log(0.5)])
    torch.testing.assert_close(coder.encode(box, prior), expected)
    torch.testing.assert_close(coder.decode(expected, prior), box)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_delta_equals_torchvision(weights: tuple[float, float, float, float]) -> None:
    peer, coder = BoxCoder(weights), Delta(weights)
    a, b = boxes(4000, seed=1), boxes(4000, seed=2)
    assert torch.equal(coder.encode(a, b), peer.encode_single(a, b))
    deltas = torch.randn(4000, 4, generator=torch.Generator().manual_seed(3)) * 3  # some beyond the clamp
    difference = coder.decode(deltas, b) - peer.decode_single(deltas, b)
    assert weights[2] > 1 or (deltas[:, 2:] > coder.clamp).any()
    assert difference.abs().max() <= 1e-4


def test_ltrb_equals_torchvision() -> None:
    peer, coder = BoxLinearCoder(normalize_by_size=True), LTRB()
    a, b = boxes(1000, seed=1), boxes(1000, seed=2)
    torch.testing.assert_close(coder.encode(a, b), peer.encode(b, a), rtol=1e-6, atol=1e-5)
    deltas = torch.rand(1000, 4, generator=torch.Generator().manual_seed(3)) * 8
    torch.testing.assert_close(coder.decode(deltas, b), peer.decode(deltas, b), rtol=1e-6, atol=1e-4)


def test_ltrb_in_pixels_by_hand() -> None:
    point, box = torch.tensor([8.0, 8.0, 24.0, 24.0]), torch.tensor([10.0, 0.0, 40.0, 20.0])  # center (16, 16)
    assert LTRB(normalize=False).encode(box, point).tolist() == [6, 16, 24, 4]
    assert LTRB(normalize=True).encode(box, point).tolist() == [6 / 16, 1, 24 / 16, 4 / 16]


def test_image_relative_by_hand() -> None:
    # Image 200 x 100; box 40 x 50 with center (50, 25): a quarter across and down, a fifth and a half of the sides.
    image, box = torch.tensor([0.0, 0.0, 200.0, 100.0]), torch.tensor([30.0, 0.0, 70.0, 50.0])
    torch.testing.assert_close(ImageRelative().encode(box, image), torch.tensor([0.25, 0.25, 0.2, 0.5]))
    wild = ImageRelative().decode(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), image)
    assert (wild[:, 2:] >= wild[:, :2]).all()


@pytest.mark.parametrize(
    "coder", [Delta(), Delta((10.0, 10.0, 5.0, 5.0)), LTRB(), LTRB(normalize=False), ImageRelative()]
)
@pytest.mark.parametrize("shape", [(50,), (2, 50), (2, 3, 50)])
def test_inverses_with_any_leading_dimensions(coder: Coder, shape: tuple[int, ...]) -> None:
    box, prior = boxes(*shape, seed=4), boxes(*shape, seed=5)  # mostly far apart, centers outside the boxes
    torch.testing.assert_close(coder.decode(coder.encode(box, prior), prior), box, rtol=1e-5, atol=2e-3)
    shared = boxes(50, seed=5)  # priors broadcast over the batch
    torch.testing.assert_close(coder.decode(coder.encode(box, shared), shared), box, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("coder", [Delta(), Delta((10.0, 10.0, 5.0, 5.0)), LTRB(), LTRB(normalize=False)])
def test_decoded_boxes_are_always_valid(coder: Coder) -> None:
    rng = torch.Generator().manual_seed(6)
    deltas = torch.randn(2000, 4, generator=rng) * 200
    prior = boxes(2000, seed=7)
    prior[:100, 2] = prior[:100, 0]  # no width
    prior[100:200, 2:] = prior[100:200, :2]  # a point
    deltas.requires_grad_()
    found = coder.decode(deltas, prior)
    assert torch.isfinite(found).all()
    assert (found[:, 2:] >= found[:, :2]).all()
    found.sum().backward()
    assert deltas.grad is not None and torch.isfinite(deltas.grad).all()
    assert torch.isfinite(coder.encode(boxes(2000, seed=8), prior)).all()
    assert torch.isfinite(coder.encode(prior, boxes(2000, seed=8))).all()
    own = coder.encode(prior, prior)  # what priors without an object are given
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0]) if isinstance(coder, Delta) else own
    assert torch.equal(own, expected.expand_as(own))


def test_half_precision_deltas_decode_in_float32() -> None:
    prior = boxes(100, seed=9)
    deltas = torch.randn(100, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = Delta().decode(deltas, prior)
    assert found.dtype == torch.float32
    assert torch.equal(found, Delta().decode(deltas.float(), prior))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0)])
def test_bad_weights_are_rejected(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="four positive numbers"):
        Delta(weights=weights)  # type: ignore[arg-type]


def test_grid_coder_refuses_what_it_cannot_read() -> None:
    with pytest.raises(UsageError, match="expected 'exp', 'square' or 'logistic'"):
        GridCoder(sides="linear")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="which only Cells have"):
        GridCoder().encode(torch.zeros(1, 4), torch.zeros(1, 4))


def test_which_coders_scale_their_priors() -> None:
    """Sides in fractions of the canvas alone do not depend on an anchor's shape."""
    assert Delta().scales_priors and LTRB().scales_priors and GridCoder().scales_priors
    assert not GridCoder(sides="square").scales_priors and GridCoder(sides="logistic").scales_priors
    assert GridCoder().logistic and not Delta().logistic


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0), (1.0, -1.0, 1.0, 1.0)])
def test_delta_refuses_weights_that_cannot_divide(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="four positive numbers"):
        Delta(weights)  # type: ignore[arg-type]


def test_finite_areas_limits_coordinates() -> None:
    """Within 2.3e18 pixels in float32: sums of areas stay below 3.4e38."""
    for dtype, limit in ((torch.float32, 2.3058e18), (torch.bfloat16, 2.3058e18), (torch.float64, 1.6760e153)):
        far = finite_areas(torch.tensor([-torch.inf, 0, 1, torch.inf], dtype=dtype))
        assert far.dtype == (dtype if dtype == torch.float64 else torch.float32)
        assert far.tolist() == pytest.approx([-limit, 0, 1, limit], rel=1e-4)
