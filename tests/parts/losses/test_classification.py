"""Class losses: values of the papers, torchvision's operator, and the fused implementation against the reference."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import sigmoid_focal_loss

from foveal.errors import UsageError
from foveal.parts.losses import sigmoid_kernel
from foveal.parts.losses.classification import (
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    ClassLoss,
    CrossEntropy,
    Focal,
    FocalStar,
    SigmoidLoss,
    SquaredError,
)
from foveal.parts.losses.normalizers import Positives, Sampled

SIGMOID: list[SigmoidLoss] = [
    BinaryCrossEntropy(),
    BalancedCrossEntropy(),
    BalancedCrossEntropy(alpha=1.0),
    *(Focal(gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0, 5.0)),
    Focal(alpha=None, gamma=1.5),
    FocalStar(),
    FocalStar(gamma=4.0, beta=0.0, alpha=0.25),
]
EVERY: list[ClassLoss] = [*SIGMOID, CrossEntropy(), CrossEntropy(background=False)]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def one(loss: ClassLoss, p: float, positive: bool) -> float:
    """The loss of one prior of one class whose probability is ``p``."""
    x = torch.full((1, 1, 1), logit(p), dtype=torch.float64)
    return float(loss(x, torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), positive)))


def batch(k: int = 7, a: int = 300, spread: float = 8.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits (2, A, K) float64, labels, positive, weights of the priors."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, a, k, generator=rng, dtype=torch.float64) * spread
    labels = torch.randint(k, (2, a), generator=rng)
    return logits, labels, torch.rand(2, a, generator=rng) < 0.2, torch.rand(2, a, generator=rng)


def value_and_grad(losses: Tensor, weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    (grad,) = torch.autograd.grad((losses * weights).sum(), logits)
    return losses.detach(), grad


# ------------------------------------------------------------------------------------ numbers of the papers
@pytest.mark.parametrize(
    ("p", "positive", "expected"),
    [
        (0.9, True, 2.6340e-4),
        (0.1, True, 0.466273),
        (0.99, True, 2.5126e-7),
        (0.1, False, 7.9021e-4),
        (0.9, False, 1.398820),
        (0.01, False, 7.5378e-7),
        (0.5, True, 0.0433217),
        (0.5, False, 0.129965),
    ],
)
def test_focal_values(p: float, positive: bool, expected: float) -> None:
    value = one(Focal(), p, positive)
    digits = len(f"{expected:e}".split("e")[0].replace(".", "").rstrip("0"))
    assert math.isclose(value, expected, rel_tol=0.6 * 10 ** (1 - max(digits, 5)))
    p_t, alpha_t = (p, 0.25) if positive else (1 - p, 0.75)
    assert math.isclose(value, -alpha_t * (1 - p_t) ** 2 * math.log(p_t), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("alpha", "p_t", "ratio"),
    [
        (None, 0.9, 100),
        (None, 0.968, 976.5625),  # quoted as 977
        (None, 0.99, 10_000),
        (None, 0.1, 1 / 0.81),
        (0.25, 0.9, 400),
        (0.25, 0.99, 40_000),
        (0.25, 0.1, 4 / 0.81),
        (0.75, 0.9, 400 / 3),
        (0.75, 0.99, 40_000 / 3),
        (0.75, 0.1, 4 / 3 / 0.81),
    ],
)
def test_cross_entropy_over_focal(alpha: float | None, p_t: float, ratio: float) -> None:
    focal, cross_entropy = Focal(alpha=alpha), BinaryCrossEntropy()
    assert math.isclose(one(cross_entropy, p_t, True) / one(focal, p_t, True), ratio, rel_tol=1e-9)


def test_focal_star_values() -> None:
    assert math.isclose(one(BinaryCrossEntropy(), 0.5, True), 0.693147, abs_tol=5e-7)
    for positive in (True, False):
        assert math.isclose(one(FocalStar(2, 1), 0.5, positive), 0.156631, abs_tol=5e-7)
        assert math.isclose(one(FocalStar(4, 0), 0.5, positive), 0.173287, abs_tol=5e-7)
    # At any x, by the appendix: -ln sigmoid(gamma x_t + beta) / gamma
    assert math.isclose(one(FocalStar(2, 1), 0.8, False), math.log1p(math.exp(2 * logit(0.8) - 1)) / 2, rel_tol=1e-9)


def test_prior_bias() -> None:
    for loss in (Focal(), FocalStar(), BalancedCrossEntropy(), BinaryCrossEntropy(prior=0.01)):
        bias = loss.bias(80)
        assert bias is not None and math.isclose(bias, -4.59511985, abs_tol=5e-9)
        assert math.isclose(float(loss.scores(torch.tensor([bias]))), 0.01, rel_tol=1e-6)
    assert [loss.bias(80) for loss in (BinaryCrossEntropy(), CrossEntropy())] == [None, None]


def test_initial_losses_of_a_head_with_80_classes() -> None:
    """The loss of 80 classes of background at p = .01 and at p = .5: systems sheet, RetinaNet, "init sanity"."""
    labels, positive = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    at_prior, at_half = torch.full((1, 1, 80), logit(0.01)), torch.zeros(1, 1, 80)
    assert math.isclose(float(Focal()(at_prior, labels, positive)), 6.0e-5, rel_tol=0.01)
    assert math.isclose(float(Focal()(at_half, labels, positive)), 10.4, rel_tol=0.005)
    assert math.isclose(float(BinaryCrossEntropy()(at_prior, labels, positive)), 0.80, abs_tol=0.005)
    assert math.isclose(float(BinaryCrossEntropy()(at_half, labels, positive)), 55.5, abs_tol=0.06)


# -------------------------------------------------------------------------------- reference implementations
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_equals_torchvision(gamma: float) -> None:
    logits, labels, positive, weights = batch(spread=3)
    x = logits.float().requires_grad_()
    target = F.one_hot(labels, 7) * positive[..., None]
    theirs = sigmoid_focal_loss(x, target.float(), alpha=0.25, gamma=gamma, reduction="none").sum(-1)
    value, grad = value_and_grad(Focal(gamma=gamma)(x, labels, positive), weights, x)
    expected, expected_grad = value_and_grad(theirs, weights, x)
    # torchvision takes 1 - p_t by subtraction, so its own rounding is what is allowed here
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-6)


def test_cross_entropy_equals_torch() -> None:
    logits, labels, positive, _ = batch(k=8)
    labels = labels.clamp(max=6)
    loss = CrossEntropy()
    assert loss.channels(7) == 8
    losses = loss(logits, labels, positive)
    expected = F.cross_entropy(logits.view(-1, 8), torch.where(positive, labels, 7).view(-1), reduction="none")
    torch.testing.assert_close(losses.view(-1), expected)
    torch.testing.assert_close(loss.scores(logits), logits.float().softmax(-1)[..., :7])
    assert math.isclose(
        float(loss(torch.zeros(1, 1, 21), labels[:1, :1], positive[:1, :1])), math.log(21), rel_tol=1e-6
    )


def test_cross_entropy_without_background() -> None:
    logits, labels, positive, _ = batch()
    loss = CrossEntropy(background=False)
    assert loss.channels(7) == 7 and loss.scores(logits).shape == logits.shape
    losses = loss(logits, labels, positive)
    assert torch.equal(losses[~positive], torch.zeros_like(losses[~positive]))
    torch.testing.assert_close(losses[positive], F.cross_entropy(logits[positive], labels[positive], reduction="none"))


def test_binary_cross_entropy_has_one_term_per_class() -> None:
    logits, labels, positive, _ = batch()
    target = (F.one_hot(labels, 7) * positive[..., None]).double()
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    torch.testing.assert_close(BinaryCrossEntropy()(logits, labels, positive), expected)


# ------------------------------------------------------------------------ fused and reference implementation
@pytest.mark.parametrize("loss", SIGMOID, ids=repr)
def test_gradcheck(loss: SigmoidLoss) -> None:
    logits, labels, positive, _ = batch(k=3, a=6, spread=2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.plain(x, labels, positive), logits)
    _, grad = value_and_grad(loss(logits, labels, positive), torch.ones(2, 6), logits)
    _, expected = value_and_grad(loss.plain(logits, labels, positive), torch.ones(2, 6), logits)
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", SIGMOID, ids=repr)
def test_fused_loss_matches_the_reference(
    loss: SigmoidLoss, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sigmoid_kernel, "_CACHE_CHUNK", 500)  # several chunks, the last one short
    logits, labels, positive, weights = batch()
    x = logits.to(dtype).requires_grad_()
    value, grad = value_and_grad(loss(x, labels, positive), weights, x)
    exact = x.detach().double().requires_grad_()
    expected, expected_grad = value_and_grad(loss.plain(exact, labels, positive), weights, exact)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and grad.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-30)
    # The gradient is rounded twice to its own type: by 2^-9 in bfloat16, 2^-11 in float16. In float32 the rounding of
    # 1 - p is multiplied by gamma and by the softplus, which matters where p is nearly 1.
    step = {
        torch.float64: 1e-10,
        torch.float32: 1e-6 * max(1, loss.params.power),
        torch.bfloat16: 2**-7,
        torch.float16: 2**-9,
    }[dtype]
    floor = 1e-7 if dtype == torch.float16 else 1e-6 * float(expected_grad.abs().max())
    torch.testing.assert_close(grad.double(), expected_grad, rtol=step, atol=floor)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits(loss: ClassLoss, dtype: torch.dtype) -> None:
    edge = torch.tensor([-100.0, -50.0, -17.0, 0.0, 17.0, 50.0, 100.0])
    logits = torch.stack([edge, edge.flip(0)]).repeat(7, 1)[None].to(dtype).requires_grad_()  # (1, 14, 7)
    labels = torch.arange(7).repeat_interleave(2)[None]
    for positive in (torch.ones(1, 14, dtype=torch.bool), torch.zeros(1, 14, dtype=torch.bool)):
        losses = loss(logits, labels, positive)
        (grad,) = torch.autograd.grad(losses.sum(), logits)
        assert torch.isfinite(losses).all() and torch.isfinite(grad.float()).all()
        if isinstance(loss, SigmoidLoss):
            expected = loss.plain(logits.detach().double(), labels, positive)
            torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-30)


def test_small_float16_gradients_survive_a_scaled_loss() -> None:
    """Background at p = .01 has a focal gradient of about 2e-6, below float16's normal numbers until it is scaled."""
    logits = torch.full((1, 64, 80), logit(0.01)).half().requires_grad_()
    labels, positive = torch.zeros(1, 64, dtype=torch.int64), torch.zeros(1, 64, dtype=torch.bool)
    exact = logits.detach().double().requires_grad_()
    (grad,) = torch.autograd.grad(Focal()(logits, labels, positive).sum() * 2**16, logits)
    (expected,) = torch.autograd.grad(Focal().plain(exact, labels, positive).sum() * 2**16, exact)
    torch.testing.assert_close(grad.double(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_priors_of_zero_weight_have_no_gradient(loss: ClassLoss) -> None:
    logits, labels, positive, weights = batch(k=8)
    x = logits.float().requires_grad_()
    keep = (weights > 0.5).float()
    _, grad = value_and_grad(loss(x, labels.clamp(max=6), positive), keep, x)
    assert torch.equal(grad[keep == 0], torch.zeros_like(grad[keep == 0]))
    counted = (keep > 0) & positive if loss == CrossEntropy(background=False) else keep > 0
    if loss != BalancedCrossEntropy(alpha=1.0):  # which depends only on the object's class
        assert (grad[counted].abs().amax(-1) > 0).all()


def test_per_prior_gradients_are_arbitrary() -> None:
    """Each prior's gradient is multiplied by its incoming gradient, negative and large values included."""
    logits, labels, positive, _ = batch()
    x = logits.float().requires_grad_()
    weights = torch.linspace(-1000, 1000, 600).view(2, 300)
    _, ones = value_and_grad(Focal()(x, labels, positive), torch.ones(2, 300), x)
    _, grad = value_and_grad(Focal()(x, labels, positive), weights, x)
    torch.testing.assert_close(grad, ones * weights[..., None])


@pytest.mark.parametrize("loss", SIGMOID, ids=repr)
def test_layout_labels_of_background_and_chunks_do_not_matter(
    loss: SigmoidLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels, positive, weights = batch()
    x = logits.float().requires_grad_()
    value, grad = value_and_grad(loss(x, labels, positive), weights, x)
    other = logits.float().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    assert not other.is_contiguous()
    junk = torch.where(positive, labels, -1)
    monkeypatch.setattr(sigmoid_kernel, "_CACHE_CHUNK", 1)
    value2, grad2 = value_and_grad(loss(other, junk, positive), weights, other)
    torch.testing.assert_close(value2, value, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(grad2, grad, rtol=1e-6, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(loss(x, labels, positive), value, rtol=1e-6, atol=1e-12)


def test_logits_are_not_modified() -> None:
    logits, labels, positive, weights = batch()
    for dtype in (torch.float32, torch.bfloat16):
        x = logits.to(dtype).requires_grad_()
        before = x.detach().clone()
        value_and_grad(FocalStar()(x, labels, positive), weights, x)
        value_and_grad(Focal()(x, labels, positive), weights, x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(2, 0, 5), (0, 3, 5), (1, 1, 1)])
def test_shapes(shape: tuple[int, int, int]) -> None:
    for loss in EVERY:
        x = torch.zeros(shape, requires_grad=True)
        losses = loss(x, torch.zeros(shape[:2], dtype=torch.int64), torch.ones(shape[:2], dtype=torch.bool))
        assert losses.shape == shape[:2]
        (grad,) = torch.autograd.grad(losses.sum(), x)
        assert grad.shape == shape


def test_under_autocast() -> None:
    logits, labels, positive, weights = batch()
    x = logits.bfloat16().requires_grad_()
    expected, expected_grad = value_and_grad(Focal()(x, labels, positive), weights, x)
    with torch.autocast("cpu", torch.bfloat16):
        losses = Focal()(x, labels, positive)
    value, grad = value_and_grad(losses, weights, x)
    assert value.dtype == torch.float32 and torch.equal(value, expected) and torch.equal(grad, expected_grad)


def test_second_backward_is_rejected() -> None:
    logits, labels, positive, _ = batch()
    x = logits.requires_grad_()
    total = Focal()(x, labels, positive).sum()
    total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="backward ran twice through a sigmoid class loss"):
        total.backward()  # type: ignore[no-untyped-call]


# --------------------------------------------------------------------------------------- the other methods
def test_channels_monotone_and_normalizers() -> None:
    assert [loss.channels(20) for loss in (CrossEntropy(), BinaryCrossEntropy(), Focal(), FocalStar())] == [
        21,
        20,
        20,
        20,
    ]
    assert Focal().monotone and BinaryCrossEntropy().monotone and not CrossEntropy().monotone
    for loss in (CrossEntropy(), BinaryCrossEntropy()):
        assert loss.normalizer == Sampled() and loss.weight == 1
    for loss in (Focal(), FocalStar(), BalancedCrossEntropy()):
        assert loss.normalizer == Positives() and loss.weight == 1
    logits = torch.randn(2, 3, 5).bfloat16()
    for loss in EVERY:
        scores = loss.scores(logits)
        assert scores.dtype == torch.float32 and scores.shape[-1] == (4 if loss == CrossEntropy() else 5)


def test_losses_compare_by_value() -> None:
    assert Focal(gamma=1.5) == Focal(gamma=1.5) != Focal()
    assert len({Focal(), Focal(0.25, 2.0), FocalStar()}) == 2
    assert eval(repr(Focal(gamma=1.5))) == Focal(gamma=1.5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Focal, {"alpha": 1.5}),
        (Focal, {"gamma": -1.0}),
        (Focal, {"prior": 0.0}),
        (FocalStar, {"gamma": 0.0}),
        (BalancedCrossEntropy, {"alpha": -0.1}),
        (BinaryCrossEntropy, {"prior": 1.0}),
    ],
)
def test_bad_settings_are_rejected(kind: type[ClassLoss], settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        kind(**settings)


# -------------------------------------------------------------------------------------------- syncs and memory
class Syncs(TorchDispatchMode):
    """Counts operations that would make a CPU wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masked = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if masked or name in ("nonzero", "_local_scalar_dense", "masked_select", "unique_dim", "_unique2", "equal"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_sync_counter_counts_syncs() -> None:
    x = torch.arange(4.0)
    with Syncs() as syncs:
        assert x[x > 1].sum().item() == 5
        x[x > 2] = x[:1]
    assert sorted(syncs.found) == ["_local_scalar_dense", "index", "index_put_"]


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_no_host_sync(loss: ClassLoss) -> None:
    logits, labels, positive, weights = batch(k=8)
    x = logits.float().requires_grad_()
    labels = labels.clamp(max=6)
    with Syncs() as syncs:
        keep = (weights > 0.5).float()
        (loss(x, labels, positive) * keep * loss.normalizer(keep, positive)).sum().backward()  # type: ignore[no-untyped-call]
    assert not syncs.found
    assert x.grad is not None


def test_memory_is_the_gradient_and_little_more() -> None:
    """Peak of tensors alive above the logits, as the profiler counts them, in multiples of the logits."""
    logits = torch.zeros(2, 40_000, 80, requires_grad=True)
    labels, positive = torch.zeros(2, 40_000, dtype=torch.int64), torch.zeros(2, 40_000, dtype=torch.bool)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        Focal()(logits, labels, positive).sum().backward()  # type: ignore[no-untyped-call]
    events = sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),  # type: ignore[union-attr]
        key=lambda e: e.start_ns(),
    )
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    assert 1.0 <= peak / (logits.numel() * 4) < 1.3  # buffers of fixed size weigh more with small logits


def test_squared_error_of_logistic_outputs() -> None:
    """Darknet's ``new_coords``: half the squared distance of 1/2 and 1/(1 + e^-2) from 1 and 0; others have no loss."""
    logits = torch.tensor([[[0.0, 2.0], [1.0, 1.0]]], requires_grad=True)
    loss = SquaredError(logistic=True)
    losses = loss(logits, torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    y = 1 / (1 + math.exp(-2))
    assert losses.flatten().tolist() == pytest.approx([(0.25 + y * y) / 2, 0])
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5 * 0.25, y * y * (1 - y), 0, 0])
    assert loss.scores(logits)[0, 0].tolist() == pytest.approx([0.5, y])
