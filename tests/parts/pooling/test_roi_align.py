"""RoI pooling against torchvision's kernels, and Luminoth's crop against TensorFlow's formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from foveal.errors import UsageError
from foveal.parts.pooling.roi_align import CropResize, Pool, RoIAlign, RoIPool

STRIDES = (4, 8, 16, 32)


def features(*strides: int, channels: int = 8, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(batch, channels, 256 // s, 320 // s, generator=rng).to(dtype) for s in strides]
    return [m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in maps]


def random_boxes(batch: int, count: int, seed: int = 1) -> Tensor:
    """From tiny boxes to larger than the image, some across its border."""
    rng = torch.Generator().manual_seed(seed)
    center = torch.rand(batch, count, 2, generator=rng) * torch.tensor([320.0, 256.0])
    side = torch.exp(torch.rand(batch, count, 2, generator=rng) * 7.5) / 2
    return torch.cat([center - side / 2, center + side / 2], -1)


def compare(ours: Tensor, theirs: Tensor, maps: list[Tensor]) -> None:
    """Same values and, for a random gradient, the same gradients of every map."""
    assert ours.shape == theirs.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - theirs).abs().max() < 1e-4
    grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2)).to(theirs)
    a = torch.autograd.grad(ours, maps, grad.to(ours), allow_unused=True)
    b = torch.autograd.grad(theirs, maps, grad, allow_unused=True)
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            assert (x - y).abs().max() < 2e-4


def rois(boxes: Tensor) -> Tensor:
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    return torch.cat([image[:, None].float(), boxes.flatten(0, 1)], 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("size", "ratio"), [(7, 2), (14, 2), (3, 1), (5, 3)])
def test_one_level_equals_torchvision(size: int, ratio: int, aligned: bool) -> None:
    maps = features(16, dtype=torch.float32)
    boxes = random_boxes(2, 60)
    ours = RoIAlign(size, ratio, aligned=aligned)(maps, boxes, (16,))
    compare(ours, roi_align(maps[0], rois(boxes), size, 1 / 16, ratio, aligned), maps)


def test_adaptive_sampling_matches_torchvision() -> None:
    maps = features(16, dtype=torch.float32)
    boxes = random_boxes(2, 20)
    ours = RoIAlign(14, ratio=0, aligned=True)(maps, boxes, (16,))
    compare(ours, roi_align(maps[0], rois(boxes), 14, 1 / 16, -1, True), maps)


@pytest.mark.parametrize("extra", [0, 1])
def test_pyramid_equals_torchvision(extra: int) -> None:
    maps = features(*STRIDES, *((64,) * extra), dtype=torch.float32)
    boxes = random_boxes(2, 150)
    assert set(RoIAlign().level(boxes).unique().tolist()) == {0, 1, 2, 3}
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs = peer({str(i): m for i, m in enumerate(maps[:4])}, list(boxes), [(256, 320)] * 2)
    compare(RoIAlign(7, 2)(maps, boxes, STRIDES + (64,) * extra), theirs, maps)


def test_gpu_implementation_matches_the_cpu_one() -> None:
    maps = features(*STRIDES, dtype=torch.float32)
    boxes, pool = random_boxes(2, 80), RoIAlign(7, 2)
    kernel = pool._kernel(maps, boxes, [1 / s for s in STRIDES], pool.level(boxes))
    compare(pool(maps, boxes, STRIDES), kernel, maps)


def test_levels_of_the_fpn_paper() -> None:
    """sqrt(w h) of 112, 223, 224, 448 map to P3, P3, P4, P5; larger and smaller boxes are clamped."""
    side = torch.tensor([0.0, 1, 112, 223, 224, 447.9, 448, 5000])
    level = RoIAlign().level(torch.stack([side * 0, side * 0, side, side], 1))
    assert (level + 2).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    wide = RoIAlign().level(torch.tensor([[0.0, 0, 896, 56]]))
    assert (wide + 2).tolist() == [4]


def test_half_precision_error_is_only_the_input_rounding() -> None:
    maps = features(*STRIDES, dtype=torch.float32)
    boxes = random_boxes(2, 100)
    exact = RoIAlign()(maps, boxes, STRIDES)
    half = [m.detach().bfloat16().requires_grad_() for m in maps]
    ours = RoIAlign()(half, boxes, STRIDES)
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).abs().max() < 0.03 and (ours.float() - exact).abs().mean() < 2e-3
    grad = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    for x, y in zip(
        torch.autograd.grad(ours, half, grad.bfloat16()), torch.autograd.grad(exact, maps, grad), strict=True
    ):
        assert x.dtype == torch.bfloat16
        assert (x.float() - y).norm() < 0.01 * y.norm()


def test_gradients_reach_maps_that_no_box_uses() -> None:
    """A level without boxes has a zero gradient, not None: every parameter of a neck gets one in each iteration."""
    maps = features(*STRIDES, dtype=torch.float32)
    RoIAlign()(maps, torch.tensor([[[0.0, 0, 20, 20]]] * 2), STRIDES).sum().backward()
    assert [m.grad is not None and bool(m.grad.any()) for m in maps] == [True, False, False, False]
    assert all(m.grad is not None for m in maps)


def test_boxes_get_no_gradient_and_may_be_invalid() -> None:
    maps = features(16, dtype=torch.float32)
    boxes = torch.tensor([[[5.0, 5, 5, 5], [50, 50, 10, 10], [-900, -900, -800, -800]]] * 2, requires_grad=True)
    out = RoIAlign()(maps, boxes, (16,))
    assert torch.isfinite(out).all() and out[2].abs().max() == 0
    out.sum().backward()
    assert boxes.grad is None
    RoIAlign()(maps, torch.full((2, 1, 4), torch.nan), (16,))  # diverged: no crash


def test_roi_pool_matches_torchvision() -> None:
    maps = features(16, dtype=torch.float32)
    boxes = random_boxes(2, 40)
    compare(RoIPool(7)(maps, boxes, (16,)), roi_pool(maps[0], rois(boxes), 7, 1 / 16), maps)


def test_crop_resize_matches_the_tensorflow_formula() -> None:
    """in_y = y1 / H (cells - 1) + i (y2 - y1) / H (cells - 1) / (crop - 1), bilinear, then the maximum of 2 x 2."""
    cells = torch.arange(20, dtype=torch.float32)
    ramp = (cells[:16, None] * 100 + cells).expand(1, 1, 16, 20)  # linear, so that bilinear sampling is exact
    box = torch.tensor([[[32.0, 16, 288, 240]]])
    out = CropResize(7, 2)([ramp], box, (16,))
    x = 32 / 320 * 19 + torch.arange(14) * (288 - 32) / 320 * 19 / 13
    y = 16 / 256 * 15 + torch.arange(14) * (240 - 16) / 256 * 15 / 13
    expected = y[1::2, None] * 100 + x[1::2]  # it rises both ways: the maximum is the last of each pair
    assert out.shape == (1, 1, 7, 7)
    assert (out[0, 0] - expected).abs().max() < 1e-3


def test_crop_resize_keeps_images_and_boxes_apart() -> None:
    maps = features(16, dtype=torch.float32)
    boxes = random_boxes(2, 5).clamp(0, 256)
    out = CropResize(4, 2)(maps, boxes, (16,))
    one = CropResize(4, 2)([maps[0][1:]], boxes[1:, 3:4], (16,))
    assert out.shape == (10, 8, 4, 4) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out[8], one[0], atol=1e-5)
    out.sum().backward()
    assert maps[0].grad is not None and bool(maps[0].grad.any())


@pytest.mark.parametrize("pool", [RoIAlign(7), RoIPool(7), CropResize(7)])
def test_size_is_the_side_of_the_output(pool: Pool) -> None:
    maps = features(16, dtype=torch.float32)
    assert pool(maps, random_boxes(2, 3), (16,)).shape == (6, 8, pool.size, pool.size)


def test_too_few_maps_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"\(2, 5\)"):
        RoIAlign()(features(4, 8), random_boxes(2, 3), (4, 8))
