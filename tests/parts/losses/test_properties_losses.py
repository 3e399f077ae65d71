"""Properties of the losses: finite for any target and precision, with finite gradients; bounds; the kernel's form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.parts.coders import LTRB, Coder, Delta, ImageRelative
from foveal.parts.losses.box import L1, BoxLoss, CIoU, DIoU, GIoU, IoU, SmoothL1, Sum
from foveal.parts.losses.centerness import Centerness, centerness
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
from foveal.parts.losses.normalizers import Fixed, PerImage, Positives, PositivesPerImage, Sampled
from foveal.parts.losses.objectness import Objectness
from foveal.types import Match, Priors, Target, Targets
from tests.helpers.properties import QUARTERS, REAL, SIGNED, STEPS, WILD, boxes, flags, labels, sized_boxes, tensors

A, C = 6, 3
SIGMOID: tuple[SigmoidLoss, ...] = (
    BinaryCrossEntropy(),
    BinaryCrossEntropy(background=False),
    BalancedCrossEntropy(),
    *map(Focal, (0.25, None, 0.9), (2.0, 0.0, 1.5)),
    FocalStar(),
    FocalStar(4.0, 0.0, 0.3),
)
CLASS: tuple[ClassLoss, ...] = (*SIGMOID, CrossEntropy(), CrossEntropy(False), SquaredError(logistic=True))
FAMILY: tuple[BoxLoss, ...] = (IoU(), IoU("log"), GIoU(), DIoU(), CIoU())
BOX: tuple[BoxLoss, ...] = (
    *FAMILY,
    L1(),
    SmoothL1(),
    SmoothL1(1 / 9),
    SmoothL1(0.0),
    Sum((L1(weight=5.0), GIoU(weight=2.0))),
)
CODERS: tuple[Coder, ...] = (Delta(), Delta((10.0, 10.0, 5.0, 5.0)), LTRB(), LTRB(normalize=False), ImageRelative())
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def value_and_gradient(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    gradients = torch.autograd.grad(loss.sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    return loss.detach(), list(gradients)


@given(
    st.sampled_from(CLASS), tensors(1, A, C + 1, tables=(SIGNED, WILD)), labels(1, A, classes=C), flags(1, A), DTYPES
)
def test_class_losses_are_finite_for_any_logits(
    loss: ClassLoss, logits: Tensor, label: Tensor, positive: Tensor, dtype: torch.dtype
) -> None:
    x = logits[..., : loss.channels(C)].clamp(-60000, 60000).to(dtype).requires_grad_()
    value, _ = value_and_gradient(loss(x, label, positive), x)
    assert value.shape == positive.shape and (value >= 0).all()
    scores = loss.scores(x.detach())
    assert scores.shape == (1, A, C) and ((scores >= 0) & (scores <= 1)).all()


@given(st.sampled_from(SIGMOID), tensors(1, A, C, tables=(SIGNED,)), labels(1, A, classes=C), flags(1, A))
def test_the_kernel_of_sigmoid_losses_is_the_formula(
    loss: SigmoidLoss, logits: Tensor, label: Tensor, positive: Tensor
) -> None:
    x = logits.requires_grad_()
    wide = logits.detach().double().requires_grad_()
    ours, theirs = loss(x, label, positive), loss.plain(wide, label, positive)
    if isinstance(loss, BinaryCrossEntropy) and not loss.background:
        theirs = torch.where(positive, theirs, 0.0)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(ours.sum(), x)[0].double(), torch.autograd.grad(theirs.sum(), wide)[0]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@given(st.sampled_from(CLASS), tensors(1, A, C + 1, tables=(SIGNED, STEPS)), labels(1, A, classes=C), flags(1, A))
def test_labels_of_background_priors_do_not_count(
    loss: ClassLoss, logits: Tensor, label: Tensor, positive: Tensor
) -> None:
    x = logits[..., : loss.channels(C)]
    other = torch.where(positive, label, (label + 1) % C)
    assert torch.equal(loss(x, label, positive), loss(x, other, positive))


@given(
    st.sampled_from([loss for loss in CLASS if loss.monotone]),
    tensors(1, A, C, tables=(SIGNED,)),
    labels(1, A, classes=C),
)
def test_a_higher_logit_of_the_right_class_is_a_lower_loss(loss: ClassLoss, logits: Tensor, label: Tensor) -> None:
    positive = torch.ones(1, A, dtype=torch.bool)
    higher = logits.scatter_add(2, label[..., None], torch.ones(1, A, 1))
    assert (loss(higher, label, positive) <= loss(logits, label, positive) + 1e-6).all()


@given(
    st.sampled_from(BOX),
    st.sampled_from(CODERS),
    tensors(1, A, 4, tables=(SIGNED, WILD)),
    boxes(A, A, (QUARTERS, WILD)),
    boxes(A, A, (STEPS, REAL, WILD), ordered=False),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_box_losses_are_finite_for_any_boxes(
    loss: BoxLoss, coder: Coder, deltas: Tensor, priors: Tensor, some: Tensor, dtype: torch.dtype
) -> None:
    """Priors and boxes from nothing to 1e9 pixels, boxes also inverted. Beside such a prior a true gradient may be
    beyond float16, so that its outputs here have one of the other types."""
    x = deltas.clamp(-60000, 60000).to(dtype).requires_grad_()
    priors, some = priors.clamp(-1e9, 1e9), some.clamp(-1e9, 1e9)
    value, _ = value_and_gradient(loss(x, priors[None], some[None], coder), x)
    assert (value >= -1e-5).all()


@given(
    st.sampled_from(CODERS[:1] + CODERS[2:]),
    tensors(1, A, 4, tables=(SIGNED,)),
    sized_boxes(A, A, smallest=2.0),
    sized_boxes(A, A),
)
def test_losses_of_the_iou_family_have_their_bounds(coder: Coder, deltas: Tensor, priors: Tensor, some: Tensor) -> None:
    linear, giou, diou, ciou = (
        loss(deltas, priors[None], some[None], coder) for loss in (IoU(), GIoU(), DIoU(), CIoU())
    )
    near = 1e-4
    assert ((linear >= -near) & (linear <= 1 + near)).all()
    assert ((giou >= linear - near) & (giou <= 2 + near)).all()
    assert ((diou >= linear - near) & (diou <= 2 + near)).all()
    assert (ciou >= diou - near).all()


@given(st.sampled_from(BOX), sized_boxes(A, A, smallest=4.0), sized_boxes(A, A, smallest=4.0))
def test_the_loss_of_the_encoded_box_is_zero(loss: BoxLoss, priors: Tensor, some: Tensor) -> None:
    """Within the reach of the coder's clamp."""
    deltas = Delta().encode(some, priors)[None]
    value = loss(deltas, priors[None], some[None], Delta())
    reached = (deltas[..., 2:] < Delta().clamp).all(-1)
    assert (value[reached].abs() < 2e-3).all()


@given(tensors(1, A, 4, tables=(SIGNED, REAL)), sized_boxes(A, A), sized_boxes(A, A))
def test_smooth_l1_lies_below_l1_by_at_most_half_of_beta(deltas: Tensor, priors: Tensor, some: Tensor) -> None:
    smooth, plain = (loss(deltas, priors[None], some[None], Delta()) for loss in (SmoothL1(0.5), L1()))
    assert (smooth <= plain * (1 + 1e-5) + 1e-5).all() and (plain - smooth <= 4 * 0.25 + plain * 1e-5).all()


@given(flags(2, A), flags(2, A), flags(2, A))
def test_normalizers_are_one_over_their_counts(sampled: Tensor, positive: Tensor, other: Tensor) -> None:
    weight, both = sampled.float(), (sampled & positive).sum(1)
    expected = {
        Sampled(): 1 / max(1, int(sampled.sum())),
        Positives(): 1 / max(1, int(both.sum())),
        PerImage(): 0.5,
        Fixed(4.0): 0.25,
    }
    for normalizer, factor in expected.items():
        made = normalizer(weight, positive)
        assert made.shape == (2, 1)
        assert [float(v) for v in made.flatten()] == pytest.approx([factor] * 2)
    each = PositivesPerImage()(weight, positive).flatten()
    assert [float(v) for v in each] == pytest.approx([1 / (2 * max(1, int(n))) for n in both])


@given(boxes(A, A, (QUARTERS, STEPS)), sized_boxes(A, A, (QUARTERS, STEPS)))
def test_centerness_is_the_formula(cells: Tensor, some: Tensor) -> None:
    made = centerness(cells[None], some[None])[0].tolist()
    for value, (a, b, c, d), (x1, y1, x2, y2) in zip(made, cells.tolist(), some.tolist(), strict=True):
        x, y = (a + c) / 2, (b + d) / 2
        across, down = (x - x1, x2 - x), (y - y1, y2 - y)
        inside = min(*across, *down) > 0
        expected = (min(across) / max(across) * min(down) / max(down)) ** 0.5 if inside else 0.0
        assert value == pytest.approx(expected, abs=1e-6)


@st.composite
def scenes(draw: Any) -> tuple[Priors, Targets, Match, Tensor]:
    """Priors, objects, any match among them, and what is sampled."""
    some = draw(sized_boxes(A, A, (QUARTERS, STEPS)))
    objects = draw(sized_boxes(1, 3, (QUARTERS, STEPS)))
    targets = Targets.pad([Target(objects, torch.zeros(len(objects), dtype=torch.int64))])
    positive, ignored, sampled = draw(flags(3, 1, A)).unbind()
    match = Match(draw(labels(1, A, classes=len(objects))), positive, ignored & ~positive)
    return Priors(some, (A,)), targets, match, (sampled & ~match.ignored).float()


@given(
    scenes(),
    st.sampled_from(
        [Centerness(), Objectness(), Objectness("squared", "iou", 0.3), Objectness("linear", ignore=0.6, above="iou")]
    ),
    tensors(1, A, tables=(SIGNED, WILD)),
    boxes(A, A, (QUARTERS, WILD)),
    DTYPES,
)
def test_quality_losses_are_finite_and_only_for_what_is_sampled(
    scene: Any, quality: Any, outputs: Tensor, predicted: Tensor, dtype: torch.dtype
) -> None:
    priors, targets, match, sampled = scene
    x = outputs.clamp(-60000, 60000).to(dtype).requires_grad_()
    loss = quality.loss(x, predicted[None], priors, targets, match, sampled)
    _, (gradient,) = value_and_gradient(loss, x)
    assert loss >= 0 and not gradient[sampled == 0].any()
