"""Properties of coders: they are inverses, never invert a box, and follow scale and position."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.parts.coders import LTRB, Coder, Delta, GridCoder, ImageRelative
from tests.helpers.properties import QUARTERS, SIGNED, WILD, boxes, sized_boxes, tensors

WEIGHTS = ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (0.5, 3.0, 0.1, 20.0))
CODERS: tuple[Coder, ...] = (*map(Delta, WEIGHTS), LTRB(), LTRB(normalize=False), ImageRelative())
GRIDS = tuple(GridCoder(logistic, sides) for logistic in (True, False) for sides in ("exp", "square", "logistic"))
EPS = torch.finfo(torch.float32).eps


@st.composite
def grid_priors(draw: Any, n: int) -> Tensor:
    """(n, 9): priors in the middle of cells, with the sides of cell and canvas, and ``scale_xy``."""
    cell = draw(st.sampled_from([8.0, 13.0, 32.0]))
    across, down, scale = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.sampled_from([1.0, 1.05, 2.0]))
    middle = (draw(tensors(n, 2, tables=(QUARTERS,))).long() % torch.tensor([across, down]) + 0.5) * cell
    side = draw(tensors(n, 2, tables=(QUARTERS,))) + 1
    rest = torch.tensor([cell, cell, across * cell, down * cell, scale]).expand(n, 5)
    return torch.cat([middle - side / 2, middle + side / 2, rest], 1)


def _near(a: Tensor, b: Tensor, size: Tensor, eps: float = 64 * EPS) -> bool:
    """Equal up to rounding of numbers of ``size``."""
    return bool(((a - b).abs() <= eps * (size + 1)).all())


@given(st.sampled_from(CODERS[:3]), sized_boxes(4, 4), sized_boxes(4, 4))
def test_delta_decodes_what_it_encodes(coder: Delta, some: Tensor, priors: Tensor) -> None:
    side, anchor = (b[:, 2:] - b[:, :2] for b in (some, priors))
    some = torch.cat([some[:, :2], some[:, :2] + torch.minimum(side, 60 * anchor)], 1)  # within the clamp
    size = some.abs().amax() + priors.abs().amax()
    assert _near(coder.decode(coder.encode(some, priors), priors), some, size, 256 * EPS)


@given(st.sampled_from(CODERS[3:]), boxes(4, 4), sized_boxes(4, 4))
def test_linear_coders_decode_what_they_encode_empty_boxes_too(coder: Coder, some: Tensor, priors: Tensor) -> None:
    size = some.abs().amax() + priors.abs().amax()
    assert _near(coder.decode(coder.encode(some, priors), priors), some, size)


@given(st.sampled_from(GRIDS), st.data())
def test_grid_coder_decodes_what_it_encodes(coder: GridCoder, data: st.DataObject) -> None:
    priors = data.draw(grid_priors(3))
    cell, anchor = priors[:, 4:6] * priors[:, 8:], priors[:, 2:4] - priors[:, :2]
    offset = data.draw(tensors(3, 2, tables=(SIGNED,))).sigmoid() * 0.98 + 0.01  # the center is in its cell
    center = (priors[:, :2] + priors[:, 2:4]) / 2 + (offset - 0.5) * cell
    side = anchor * (data.draw(tensors(3, 2, tables=(SIGNED,))).sigmoid() * 3.8 + 0.05)  # below four anchors
    some = torch.cat([center - side / 2, center + side / 2], 1)
    # the inverse logistic amplifies rounding at the borders, by 1 / (p (1 - p))
    assert _near(coder.decode(coder.encode(some, priors), priors), some, some.abs().amax() + priors.abs().amax(), 1e-4)


@given(st.sampled_from(CODERS[:3]), tensors(4, 4, tables=(SIGNED,)), sized_boxes(4, 4, smallest=4.0))
def test_delta_encodes_what_it_decodes(coder: Delta, deltas: Tensor, priors: Tensor) -> None:
    """A delta of the center is in units of the prior; the rounding of the position counts against its side."""
    wanted = torch.cat([deltas[:, :2], deltas[:, 2:].clamp(-3, 3) * min(1.0, *coder.weights)], 1)
    made = coder.decode(wanted, priors).double()
    again = coder.encode(made, priors.double())
    smallest = torch.minimum(made[:, 2:] - made[:, :2], priors[:, 2:] - priors[:, :2].double()).amin()
    tolerance = 16 * EPS * (made.abs().amax() + priors.abs().amax()) / smallest + 1e-4
    assert ((again - wanted).abs() <= tolerance * max(coder.weights)).all()


@given(st.sampled_from((*CODERS, *GRIDS)), tensors(3, 4, tables=(SIGNED, WILD)), st.data())
def test_no_coder_decodes_an_inverted_box_from_any_deltas(coder: Coder, deltas: Tensor, data: st.DataObject) -> None:
    priors = data.draw(grid_priors(3) if isinstance(coder, GridCoder) else boxes(3, 3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    made = coder.decode(deltas.clamp(-60000, 60000).to(dtype), priors)
    assert made.dtype == torch.float32
    assert (made[:, 2:] >= made[:, :2]).all()  # false for NaN


@given(
    st.sampled_from(CODERS),
    sized_boxes(3, 3, (QUARTERS,)),
    sized_boxes(3, 3, (QUARTERS,)),
    st.integers(-32, 32),
    st.sampled_from([0.5, 2.0, 8.0]),
)
def test_deltas_of_moved_and_scaled_boxes_are_the_same(
    coder: Coder, some: Tensor, priors: Tensor, shift: int, scale: float
) -> None:
    """All numbers are multiples of an eighth, so nothing is rounded before the division."""
    deltas, moved = coder.encode(some, priors), coder.encode((some + shift) * scale, (priors + shift) * scale)
    in_pixels = isinstance(coder, LTRB) and not coder.normalize
    assert torch.equal(deltas * (scale if in_pixels else 1.0), moved)


@given(st.sampled_from(CODERS), boxes(3, 3), sized_boxes(3, 3), st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_encoded_as_the_same_numbers_in_fp32(
    coder: Coder, some: Tensor, priors: Tensor, dtype: torch.dtype
) -> None:
    some, priors = some.to(dtype), priors.to(dtype)
    made = coder.encode(some, priors)
    assert made.dtype == torch.float32 and torch.equal(made, coder.encode(some.float(), priors.float()))
    assert made.isfinite().all()
