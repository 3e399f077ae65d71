"""Box losses: hand-computed numbers, torchvision's operators, degenerate boxes; normalizers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from foveal.errors import UsageError
from foveal.parts.coders import LTRB, Delta
from foveal.parts.losses.box import L1, BoxLoss, CIoU, DIoU, GIoU, IoU, SmoothL1, Sum
from foveal.parts.losses.normalizers import Fixed, Normalizer, PerImage, Positives, PositivesPerImage, Sampled

CODER = Delta()
EVERY = [L1(), SmoothL1(), SmoothL1(beta=1 / 9), SmoothL1(beta=0.0), IoU(), IoU("log"), GIoU(), DIoU(), CIoU()]
EVERY.append(Sum((L1(weight=5.0), GIoU(weight=2.0))))


def between(loss: BoxLoss, predicted: Tensor, target: Tensor) -> Tensor:
    """The loss of given boxes (R, 4): the deltas are chosen to decode to ``predicted``."""
    prior = torch.tensor([-40.0, -30.0, 60.0, 70.0], dtype=predicted.dtype).expand_as(predicted)
    return loss(CODER.encode(predicted, prior)[None], prior[None], target[None], CODER)[0]


def pairs(n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        corner = torch.rand(n, 2, generator=rng, dtype=torch.float64) * 60
        return torch.cat([corner, corner + 2 + torch.rand(n, 2, generator=rng, dtype=torch.float64) * 50], -1)

    return draw(), draw()


def centered(cx: float, cy: float, w: float, h: float) -> Tensor:
    return torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "predicted", "iou", "giou"),
    [  # equal L1 distance, different overlap: figure 1b of the GIoU paper
        ((0, 0, 14, 14), (-7.77, 0, 14, 15.3), 0.270, 0.240),
        ((0, 0, 16, 12), (-1.48, -1.10, 12.30, 9.21), 0.590, 0.590),
        ((0, 0, 20, 14), (0, 1.61, 24.31, 10.85), 0.660, 0.620),
    ],
)
def test_giou_figure(target: tuple[float, ...], predicted: tuple[float, ...], iou: float, giou: float) -> None:
    a, b = centered(*predicted), centered(*target)
    assert math.isclose(1 - float(between(IoU(), a, b)), iou, abs_tol=0.005)
    assert math.isclose(1 - float(between(GIoU(), a, b)), giou, abs_tol=0.005)


def test_overlap_losses_by_hand() -> None:
    # 4 x 4 at the origin and 4 x 4 shifted by (2, 0): I = 8, U = 24, C = 6 x 4.
    a, b = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).double(), torch.tensor([[2.0, 0.0, 6.0, 4.0]]).double()
    assert math.isclose(float(between(IoU(), a, b)), 2 / 3, rel_tol=1e-9)
    assert math.isclose(float(between(IoU("log"), a, b)), math.log(3), rel_tol=1e-9)
    assert math.isclose(float(between(GIoU(), a, b)), 2 / 3, rel_tol=1e-9)
    assert math.isclose(float(between(DIoU(), a, b)), 2 / 3 + 4 / 52, rel_tol=1e-9)
    # apart: I = 0, U = 2, C = 3 x 1
    a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double(), torch.tensor([[2.0, 0.0, 3.0, 1.0]]).double()
    assert math.isclose(float(between(GIoU(), a, b)), 1 + 1 / 3, rel_tol=1e-9)
    # one center, 4 x 4 and 2 x 8: I = 8, U = 24, v = 4/pi^2 (atan(1) - atan(1/4))^2
    a, b = centered(0, 0, 4, 4), centered(0, 0, 2, 8)
    v = 4 / math.pi**2 * (math.atan(0.25) - math.atan(1)) ** 2
    assert math.isclose(float(between(CIoU(), a, b)), 2 / 3 + v * v / (2 / 3 + v), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("loss", "peer"),
    [(GIoU(), generalized_box_iou_loss), (DIoU(), distance_box_iou_loss), (CIoU(), complete_box_iou_loss)],
)
def test_equals_torchvision(loss: BoxLoss, peer) -> None:  # type: ignore[no-untyped-def]
    predicted, target = pairs(500)
    ours, theirs = predicted.clone().requires_grad_(), predicted.clone().requires_grad_()
    value, expected = between(loss, ours, target), peer(theirs, target)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7)
    weights = torch.linspace(0.1, 2, 500, dtype=torch.float64)
    got = torch.autograd.grad((value * weights).sum(), ours)[0]
    want = torch.autograd.grad((expected * weights).sum(), theirs)[0]
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", [IoU(), IoU("log"), GIoU(), DIoU()])  # CIoU's factor a counts as a constant
def test_gradients_of_the_overlap_losses(loss: BoxLoss) -> None:
    predicted, target = pairs(12)
    assert torch.autograd.gradcheck(lambda b: between(loss, b, target), predicted.requires_grad_(), eps=1e-6, atol=1e-6)


def test_delta_losses_by_hand() -> None:
    deltas = torch.tensor([[[0.5, -2.0, 0.0, 0.05]]])
    prior = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    assert math.isclose(float(L1()(deltas, prior, prior, CODER)), 2.55, rel_tol=1e-6)
    assert math.isclose(float(SmoothL1()(deltas, prior, prior, CODER)), 0.125 + 1.5 + 0.00125, rel_tol=1e-6)
    # sigma 3, beta 1/9: |x| - 1/18 beyond 1/9, 4.5 x^2 below
    expected = 0.5 - 1 / 18 + 2 - 1 / 18 + 4.5 * 0.0025
    assert math.isclose(float(SmoothL1(beta=1 / 9)(deltas, prior, prior, CODER)), expected, rel_tol=1e-6)
    assert torch.equal(SmoothL1(beta=0.0)(deltas, prior, prior, CODER), L1()(deltas, prior, prior, CODER))


def test_delta_losses_encode_with_the_coder_they_get() -> None:
    coder = Delta((10.0, 10.0, 5.0, 5.0))
    predicted, target = (b.float()[None] for b in pairs(100))
    deltas = torch.randn(1, 100, 4, generator=torch.Generator().manual_seed(1))
    expected = F.smooth_l1_loss(deltas, coder.encode(target, predicted), beta=1 / 9, reduction="none").sum(-1)
    torch.testing.assert_close(SmoothL1(1 / 9)(deltas, predicted, target, coder), expected)
    giou = GIoU()(LTRB().encode(target, predicted), predicted, target, LTRB())
    assert giou.abs().max() < 1e-5  # the exact code of the target boxes


def test_sum_adds_by_weight_and_nests() -> None:
    predicted, target = (b.float()[None] for b in pairs(20))
    deltas = torch.zeros(1, 20, 4)
    l1, giou = L1()(deltas, predicted, target, CODER), GIoU()(deltas, predicted, target, CODER)
    both = Sum((L1(weight=5.0), GIoU(weight=2.0)))
    torch.testing.assert_close(both(deltas, predicted, target, CODER), 5 * l1 + 2 * giou)
    nested = Sum((Sum(both.losses, weight=0.5), L1()))
    torch.testing.assert_close(nested(deltas, predicted, target, CODER), 3.5 * l1 + giou)


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_finite_for_any_input(loss: BoxLoss, dtype: torch.dtype) -> None:
    point, line = [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 9.0]
    some, inverted = [1.0, 2.0, 30.0, 40.0], [30.0, 40.0, 1.0, 2.0]
    kinds = torch.tensor([point, line, some, inverted])
    priors, boxes = kinds.repeat_interleave(4, 0)[None], kinds.repeat(4, 1)[None]
    for scale in (0.0, 1.0, 100.0):
        deltas = (torch.linspace(-1, 1, 64).view(1, 16, 4) * scale).to(dtype).requires_grad_()
        losses = loss(deltas, priors, boxes, CODER)
        assert losses.shape == (1, 16) and losses.dtype == torch.float32
        assert torch.isfinite(losses).all()
        (grad,) = torch.autograd.grad(losses.sum(), deltas)
        assert grad.dtype == dtype and torch.isfinite(grad.float()).all()


def test_empty_boxes() -> None:
    """Where the smallest box around both is empty GIoU is IoU, which is 0."""
    point = torch.tensor([[[5.0, 5.0, 5.0, 5.0]]])
    for loss in (IoU(), GIoU(), DIoU(), CIoU()):
        assert float(loss(torch.zeros(1, 1, 4), point, point, CODER)) == 1.0


@pytest.mark.parametrize("loss", EVERY)
def test_perfect_boxes_have_zero_loss(loss: BoxLoss) -> None:
    predicted, target = (b.float()[None] for b in pairs(50))
    assert loss(CODER.encode(target, predicted), predicted, target, CODER).abs().max() < 2e-5


def test_bad_settings_are_rejected() -> None:
    for make in (lambda: SmoothL1(beta=-1.0), lambda: IoU("squared"), lambda: Sum(())):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            make()


# ---------------------------------------------------------------------------------------------- normalizers
KEEP = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
POSITIVE = torch.tensor([[True, True, False, True], [False, False, False, False]])  # one positive is not sampled


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (Sampled(), [1 / 5, 1 / 5]),
        (Positives(), [1 / 2, 1 / 2]),
        (Positives(across_ranks=True), [1 / 2, 1 / 2]),  # one process
        (PositivesPerImage(), [1 / 4, 1 / 2]),
        (PerImage(), [1 / 2, 1 / 2]),
        (Fixed(2400), [1 / 2400, 1 / 2400]),
    ],
)
def test_normalizers_by_hand(normalizer: Normalizer, expected: list[float]) -> None:
    factor = normalizer(KEEP, POSITIVE)
    assert factor.shape == (2, 1) and factor.dtype == torch.float32
    torch.testing.assert_close(factor[:, 0], torch.tensor(expected))
    nothing = normalizer(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool))
    assert torch.isfinite(nothing).all() and (nothing > 0).all()


def test_fixed_normalizer_rejects_zero() -> None:
    with pytest.raises(UsageError):
        Fixed(0)
