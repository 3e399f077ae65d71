"""Properties of the pools: torchvision's values for any boxes, means of planes, gradients, batch and order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from foveal.parts.pooling.roi_align import CropResize, Pool, RoIAlign, RoIPool, near_boxes, with_image
from foveal.parts.pooling.spp import SPP
from tests.helpers.properties import QUARTERS, REAL, SIGNED, STEPS, WILD, boxes, sized_boxes, tensors

STRIDE, H, W, P = 4.0, 6, 8, 3
POOLS: tuple[Pool, ...] = (
    RoIAlign(2),
    RoIAlign(3, aligned=True),
    RoIAlign(2, ratio=0),
    RoIPool(2),
    CropResize(2),
    SPP(),
)
ALIGNS = (RoIAlign(2), RoIAlign(3, 1), RoIAlign(2, 3, aligned=True))
MAPS = tensors(2, 4, H, W, tables=(SIGNED,))
SIZES = torch.tensor([[H * 4, W * 4], [H * 4, W * 4]])


def pooled(pool: Pool, features: Tensor, some: Tensor) -> Tensor:
    """Boxes (2 P, 4) -> (2, P, ...)."""
    return pool([features], some.view(2, -1, 4), [STRIDE], SIZES).unflatten(0, (2, -1))


@given(st.sampled_from(ALIGNS), MAPS, boxes(2 * P, 2 * P, (QUARTERS, STEPS, REAL, WILD), ordered=False))
def test_roi_align_is_torchvisions_for_any_boxes(pool: RoIAlign, features: Tensor, some: Tensor) -> None:
    near = near_boxes([features], some.view(2, P, 4), [STRIDE])
    expected = roi_align(features, with_image(near), pool.size, 1 / STRIDE, pool.ratio, pool.aligned)
    torch.testing.assert_close(pooled(pool, features, some).flatten(0, 1), expected, rtol=1e-4, atol=1e-4)


@given(tensors(3, tables=(SIGNED,)), sized_boxes(2 * P, 2 * P, (STEPS, QUARTERS), smallest=1.0))
def test_roi_align_of_a_plane_is_its_value_in_the_middle_of_a_bin(plane: Tensor, some: Tensor) -> None:
    """With ``aligned`` and inside the map, where nothing is clamped."""
    c, dx, dy = plane.tolist()
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    features = (c + dx * x + dy * y).expand(2, 1, H, W)
    some = torch.stack([s.clamp(2.0, side - 2) for s, side in zip(some.unbind(1), (W * 4, H * 4) * 2, strict=True)], 1)
    made = pooled(RoIAlign(2, 2, aligned=True), features, some).view(-1, 2, 2)
    for box, bins in zip((some / STRIDE).tolist(), made, strict=True):
        w, h = box[2] - box[0], box[3] - box[1]
        middle = [[c + dx * (box[0] + w * u) + dy * (box[1] + h * v) for u in (0.25, 0.75)] for v in (0.25, 0.75)]
        torch.testing.assert_close(bins, torch.tensor(middle), rtol=1e-4, atol=1e-3)


@given(st.sampled_from(POOLS), MAPS, boxes(2 * P, 2 * P, (QUARTERS, WILD), ordered=False))
def test_pools_return_finite_values_within_those_of_the_map(pool: Pool, features: Tensor, some: Tensor) -> None:
    """RoIAlign is 0 outside the map, and so is an empty bin of RoIPool."""
    made = pooled(pool, features, some)
    assert made.isfinite().all()
    assert made.amax() <= max(0.0, float(features.amax())) + 1e-5
    assert made.amin() >= min(0.0, float(features.amin())) - 1e-5


@given(st.sampled_from(POOLS), MAPS, sized_boxes(2 * P, 2 * P), st.permutations(range(P)))
def test_each_box_is_pooled_by_itself(pool: Pool, features: Tensor, some: Tensor, order: list[int]) -> None:
    """Whatever its place, the other boxes and the other image."""
    both = pooled(pool, features, some)
    torch.testing.assert_close(pooled(pool, features, some.view(2, P, 4)[:, order].reshape(-1, 4)), both[:, order])
    alone = pool([features[1:]], some[None, P:], [STRIDE], SIZES[1:])
    torch.testing.assert_close(alone, both[1])


@given(st.sampled_from(ALIGNS), MAPS, boxes(2 * P, 2 * P, (QUARTERS, REAL, WILD)))
def test_the_gradient_of_roi_align_is_its_transpose(pool: RoIAlign, features: Tensor, some: Tensor) -> None:
    """It is linear: the output by any weights is the map by the gradient."""
    x = features.double().requires_grad_()
    made = pooled(pool, x, some)
    weights = torch.linspace(-1, 1, made.numel(), dtype=torch.float64).view(made.shape)
    value = (made * weights).sum()
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close((gradient * x).sum(), value, rtol=1e-5, atol=1e-5)


@given(st.sampled_from(POOLS), MAPS, sized_boxes(2 * P, 2 * P))
def test_pools_answer_in_the_dtype_of_the_maps(pool: Pool, features: Tensor, some: Tensor) -> None:
    half = pooled(pool, features.bfloat16(), some)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), pooled(pool, features.bfloat16().float(), some), rtol=0.02, atol=0.05)
