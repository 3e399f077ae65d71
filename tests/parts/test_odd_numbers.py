"""Every public function of boxes, coders, matching, NMS, samplers, pooling, losses and masks takes odd numbers: nothing
at all, every dtype, areas beyond float16, boxes without area, coordinates of 1e20, another default dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from foveal.boxes import area, pairwise_iou
from foveal.errors import FovealError, UsageError
from foveal.parts.postprocess import NMS
from tests.helpers.odd_calls import KINDS, Odd, arrays, calls, public

CALLS = calls()


@pytest.fixture
def default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def test_every_public_function_is_called() -> None:
    """A new one needs an entry in ``tests/helpers/odd_calls.py``."""
    assert {name for name, _ in public()} == set(CALLS)


def test_a_far_box_does_not_change_what_nms_removes() -> None:
    """Groups are told apart by shifts of their boxes: one box at 1e20 made all others points, which overlap nothing."""
    boxes = torch.tensor([[[0.0, 0.0, 1e20, 1e20], [5.0, 5.0, 9.0, 9.0], [5.0, 5.0, 9.0, 9.1], [30.0, 5.0, 39.0, 9.0]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0, 1, 1, 1]])
    kept = NMS(per="class")(
        boxes, scores, labels, torch.zeros(4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
    )
    assert kept.rows is not None and kept.rows[kept.valid].tolist() == [0, 1, 3]


def test_areas_beyond_float16_and_of_integers() -> None:
    """A box of 300 x 300 has 90,000 pixels, float16 ends at 65,504."""
    box = torch.tensor([[0, 0, 300, 300], [0, 0, 300, 150]])
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.float64):
        assert area(box.to(dtype)).tolist() == [90_000, 45_000]
        assert pairwise_iou(box.to(dtype), box.to(dtype))[0].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_odd_numbers(name: str, kind: str, default_dtype: None) -> None:
    """A result without NaN, and finite input to a gradient without NaN; or one clear refusal."""
    if kind == "default float64":
        torch.set_default_dtype(torch.float64)
    try:
        result = CALLS[name](Odd(kind))
    except (FovealError, UsageError) as refused:
        assert str(refused)
        return
    assert not any(np.isnan(values).any() for values in arrays(result))
