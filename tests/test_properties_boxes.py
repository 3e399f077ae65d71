"""Properties of box arithmetic, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.boxes import area, array_iou, computable, iou, pairwise_giou, pairwise_iou
from tests.helpers.properties import ORDINARY, QUARTERS, STEPS, WILD, boxes, sized_boxes

EXACT = (STEPS, QUARTERS)
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int16, torch.uint8)


def _exact(a: list[float], b: list[float]) -> tuple[Fraction, Fraction, Fraction]:
    """Shared area, union and the area around both, in fractions."""
    p, q = [Fraction(v) for v in a], [Fraction(v) for v in b]
    shared = max(Fraction(0), min(p[2], q[2]) - max(p[0], q[0])) * max(Fraction(0), min(p[3], q[3]) - max(p[1], q[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (p, q)]
    hull = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
    return shared, sum(areas) - shared, hull


@given(boxes(tables=EXACT, ordered=False))
def test_area_is_the_product_of_sides_and_0_for_inverted_boxes(some: Tensor) -> None:
    expected = [max(0.0, x2 - x1) * max(0.0, y2 - y1) for x1, y1, x2, y2 in some.tolist()]
    assert area(some).tolist() == expected


@given(boxes(1, 1, EXACT), boxes(1, 1, EXACT))
def test_iou_is_the_fraction(a: Tensor, b: Tensor) -> None:
    shared, union, _ = _exact(a[0].tolist(), b[0].tolist())
    assert float(iou(a, b)) == pytest.approx(float(shared / union) if union else 0.0, rel=1e-6)


@given(boxes(1, 1, EXACT), boxes(1, 1, EXACT))
def test_giou_is_the_fraction(a: Tensor, b: Tensor) -> None:
    shared, union, hull = _exact(a[0].tolist(), b[0].tolist())
    expected = (float(shared / union) if union else 0.0) - (float((hull - union) / hull) if hull else 0.0)
    assert float(pairwise_giou(a, b)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(boxes(1, 4, (*ORDINARY, WILD)), boxes(1, 4, (*ORDINARY, WILD)))
def test_iou_is_symmetric_and_from_0_to_1_for_any_boxes(a: Tensor, b: Tensor) -> None:
    overlaps = pairwise_iou(a, b)
    assert torch.equal(overlaps, pairwise_iou(b, a).T)
    assert ((overlaps >= 0) & (overlaps <= 1 + 1e-5)).all()  # false for NaN


@given(boxes(1, 4, (*ORDINARY, WILD)), boxes(1, 4, (*ORDINARY, WILD)))
def test_giou_is_from_minus_1_to_1_and_at_most_iou_for_any_boxes(a: Tensor, b: Tensor) -> None:
    wide, plain = pairwise_giou(a, b), pairwise_iou(a, b)
    assert ((wide >= -1 - 1e-5) & (wide <= plain + 1e-5)).all()


@given(sized_boxes(smallest=1e-3))
def test_a_box_covers_itself_alone_fully(some: Tensor) -> None:
    assert torch.allclose(iou(some, some), torch.ones(len(some)))
    moved = some + (some[:, 2:] - some[:, :2]).repeat(1, 2) * 1.01  # beside it, diagonally
    assert not iou(some, moved).any()


@given(boxes(1, 4, EXACT), boxes(1, 4, EXACT), st.integers(-64, 64), st.sampled_from([0.25, 0.5, 2.0, 16.0]))
def test_iou_of_moved_and_scaled_boxes_is_the_same(a: Tensor, b: Tensor, shift: int, scale: float) -> None:
    assert torch.equal(pairwise_iou(a, b), pairwise_iou((a + shift) * scale, (b + shift) * scale))


@given(boxes(tables=(STEPS, QUARTERS)), boxes(tables=(STEPS, QUARTERS)), st.sampled_from(DTYPES))
def test_iou_of_any_dtype_is_that_of_the_same_numbers_in_fp64(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    a, b = a.to(dtype), b.to(dtype)
    overlaps = pairwise_iou(a, b)
    assert overlaps.dtype in (torch.float32, torch.float64) and overlaps.shape == (len(a), len(b))
    np.testing.assert_allclose(overlaps, array_iou(a.double().numpy(), b.double().numpy()), rtol=1e-6)


def test_what_boxes_are_computed_in() -> None:
    """Coordinates within 2.3e18 pixels in float32, 1.7e153 in float64; integers in the default dtype."""
    for dtype, limit in ((torch.float32, 2.3058e18), (torch.bfloat16, 2.3058e18), (torch.float64, 1.6760e153)):
        far = computable(torch.tensor([-torch.inf, 0, 1, torch.inf], dtype=dtype))
        assert far.tolist() == pytest.approx([-limit, 0, 1, limit], rel=1e-4)
    whole = torch.tensor([0, 0, 3, 5])
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            assert area(whole).dtype == dtype and area(whole.to(torch.float16)).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
