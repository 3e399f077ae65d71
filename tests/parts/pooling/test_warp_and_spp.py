"""R-CNN's warp and SPP-Net's pool: numbers worked by hand, and reference loops over random boxes.

The hand-worked boxes are those of the overview article in section 8 of the facts (E22): [64, 64, 192, 192] and
[128, 128, 384, 400] on a map of stride 16.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.errors import UsageError
from foveal.parts.pooling.roi_align import CropResize, RoIAlign, RoIPool, nearest_scale
from foveal.parts.pooling.spp import SPP
from foveal.parts.pooling.warp import Warp
from tests.parts.pooling.test_roi_align import random_boxes

WORKED = torch.tensor([[[64.0, 64, 192, 192], [128, 128, 384, 400]]])


def ramp(height: int = 50, width: int = 50) -> Tensor:
    """Row y, column x holds 100 y + x: a maximum is its bin's last cell, a mean its middle."""
    return (torch.arange(height)[:, None] * 100.0 + torch.arange(width)).expand(1, 1, -1, -1)


# ------------------------------------------------------------------------------------- the boxes of the article
def test_roi_pool_on_the_worked_boxes() -> None:
    """64 / 16 = 4 to 192 / 16 = 12: nine cells. Bin i ends before 4 + ceil(9 (i + 1) / 7): cells 5 6 7 9 10 11 12."""
    out = RoIPool(7)([ramp()], WORKED, (16,))
    last = torch.tensor([5.0, 6, 7, 9, 10, 11, 12])
    assert torch.equal(out[0, 0], last[:, None] * 100 + last)
    # 8 to 24 is 17 cells across: ceil(17 (i + 1) / 7) = 3 5 8 10 13 15 17; 8 to 25 is 18 down: 3 6 8 11 13 16 18
    across, down = torch.tensor([3.0, 5, 8, 10, 13, 15, 17]) + 7, torch.tensor([3.0, 6, 8, 11, 13, 16, 18]) + 7
    assert torch.equal(out[1, 0], down[:, None] * 100 + across)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_on_the_worked_boxes(aligned: bool) -> None:
    """The mean of a bin of a ramp is its middle: 4 + (i + .5) 8 / 7, half a cell less in the aligned form."""
    out = RoIAlign(7, 2, aligned=aligned)([ramp()], WORKED, (16,))
    bins = torch.arange(7) + 0.5
    for row, (low, across, down) in zip(out, ((4, 8, 8), (8, 16, 17)), strict=True):
        x, y = low + bins * across / 7 - 0.5 * aligned, low + bins * down / 7 - 0.5 * aligned
        assert (row[0] - (y[:, None] * 100 + x)).abs().max() < 2e-3


def test_crop_resize_on_the_worked_boxes() -> None:
    """Fourteen samples from corner to corner of cells 0..49 over 800 pixels; the later of each pair is the maximum."""
    out = CropResize(7, 2)([ramp()], WORKED, (16,))
    for row, box in zip(out, WORKED[0], strict=True):
        x, y = ((low + torch.arange(1, 14, 2) * (high - low) / 13) / 800 * 49 for low, high in box.view(2, 2).T)
        assert (row[0] - (y[:, None] * 100 + x)).abs().max() < 2e-2


def test_spp_cells_of_the_worked_boxes() -> None:
    """Paper: floor(64 / 16) + 1 = 5 to ceil(192 / 16) - 1 = 11; code: floor(4.5) = 4 to ceil(11.5) = 12, which are the
    article's [4, 4, 12, 12] and [8, 8, 24, 25]."""
    paper = SPP().cells(WORKED, 16, (50, 50))
    assert paper.tolist() == [[[5, 5, 11, 11], [9, 9, 23, 24]]]
    code = SPP(corners="code").cells(WORKED, 16, (50, 50))
    assert code.tolist() == [[[4, 4, 12, 12], [8, 8, 24, 25]]]


def test_spp_cells_that_vanish_or_leave_the_map() -> None:
    boxes = torch.tensor([[[65.0, 65, 75, 75], [-40, -40, 10, 10], [780, 780, 900, 900]]])
    # floor(65 / 16) + 1 = 5 > ceil(75 / 16) - 1 = 4: both become floor(4.5); outside, the nearest cell of the map
    assert SPP().cells(boxes, 16, (50, 50)).tolist() == [[[4, 4, 4, 4], [0, 0, 0, 0], [49, 49, 49, 49]]]
    sizes = torch.tensor([[400, 480]])  # beyond 25 rows and 30 columns the map is padding
    assert SPP().cells(boxes, 16, (50, 50), sizes)[0, 2].tolist() == [29, 24, 29, 24]


def test_spp_bins_of_13_and_10_cells() -> None:
    """E21. 13 cells, n = 3: [0, 5), [4, 9), [8, 13); n = 2: [0, 7), [6, 13). 10 cells: [0, 4), [3, 7), [6, 10)."""
    for cells, n, ends in ((13, 3, [5, 9, 13]), (13, 2, [7, 13]), (10, 3, [4, 7, 10]), (10, 6, [2, 4, 5, 7, 9, 10])):
        # half a cell more on each side, so that the centers 0..cells-1 lie strictly inside
        box = torch.tensor([[[-8.0, -8, cells * 16 - 8, cells * 16 - 8]]])
        out = SPP((n,))([ramp(cells, cells)], box, (16,)).view(n, n)
        last = torch.tensor(ends) - 1.0
        assert torch.equal(out, last[:, None] * 100 + last)


# ------------------------------------------------------------------------------------------------ SPP on any box
def plain_spp(feature: Tensor, cells: Tensor, levels: tuple[int, ...]) -> Tensor:
    """One box, one bin at a time: level by level, channel by channel, row by row."""
    x1, y1, x2, y2 = cells.int().tolist()
    h, w, out = y2 - y1 + 1, x2 - x1 + 1, []
    for n in levels:
        for channel in feature:
            for i in range(n):
                for j in range(n):
                    rows = slice(y1 + i * h // n, y1 - (-(i + 1) * h // n))
                    columns = slice(x1 + j * w // n, x1 - (-(j + 1) * w // n))
                    out.append(max(0.0, float(channel[rows, columns].max())))
    return torch.tensor(out)


@pytest.mark.parametrize("corners", ["paper", "code"])
def test_spp_matches_a_reference_loop(corners: str) -> None:
    feature = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    boxes, pool = random_boxes(2, 40), SPP((6, 3, 2, 1), corners=corners)  # type: ignore[arg-type]
    out = pool([feature], boxes, (16,))
    assert out.shape == (80, 150, 1, 1) and pool.channels(3) == 150
    cells = pool.cells(boxes, 16, (16, 20)).flatten(0, 1)
    for row, own, image in zip(out, cells, feature.repeat_interleave(40, 0), strict=True):
        assert torch.equal(row.flatten(), plain_spp(image, own, pool.levels))


def test_spp_is_adaptive_pooling_of_the_boxes_own_map() -> None:
    """PyTorch's AdaptiveMaxPool2d takes the same bins; on features after a ReLU the zero start changes nothing."""
    feature = torch.rand(1, 4, 60, 90, generator=torch.Generator().manual_seed(0))
    boxes, pool = random_boxes(1, 60) * 4, SPP()
    out = pool([feature], boxes, (16,)).flatten(1)
    for row, (x1, y1, x2, y2) in zip(out, pool.cells(boxes, 16, (60, 90))[0].int().tolist(), strict=True):
        own = feature[:, :, y1 : y2 + 1, x1 : x2 + 1]
        assert torch.equal(row, torch.cat([F.adaptive_max_pool2d(own, n).flatten() for n in (6, 3, 2, 1)]))


def test_spp_takes_each_box_from_the_scale_nearest_224() -> None:
    """At 1200 as given, 864, 688, 576, 480: a box of side s has side s * scale / 1200; 224 belongs to 1200 itself."""
    scales = (1200, 864, 688, 576, 480)
    strides = [16 * 1200 / s for s in scales]
    side = torch.tensor([10.0, 224, 280, 391, 467, 560, 2000])
    boxes = torch.stack([side * 0, side * 0, side, side], -1)[None]
    nearest = [min(range(5), key=lambda i: abs((s * scales[i] / 1200) ** 2 - 224**2)) for s in side.tolist()]
    assert nearest == [0, 0, 1, 2, 3, 4, 4]
    assert nearest_scale(boxes, strides, 224).tolist() == [nearest]
    maps = [torch.rand(1, 2, round(60 * s / 1200), round(80 * s / 1200)) for s in scales]
    out = SPP()(maps, boxes / 2, strides)
    for row, box, at in zip(out, boxes[0] / 2, nearest_scale(boxes / 2, strides, 224)[0].tolist(), strict=True):
        assert torch.equal(row, SPP()([maps[at]], box.view(1, 1, 4), [strides[at]])[0])


def test_roi_pool_uses_the_scale_of_each_box_on_request() -> None:
    strides, boxes = [16.0, 20.0, 40.0], random_boxes(2, 40)
    maps = [torch.rand(2, 3, round(640 / s), round(800 / s)).requires_grad_() for s in strides]
    at = nearest_scale(boxes, strides, 64)
    assert at.unique().tolist() == [0, 1, 2]
    out = RoIPool(3, area=64)(maps, boxes, strides)
    images = [0] * 40 + [1] * 40
    for row, box, image, scale in zip(out, boxes.flatten(0, 1), images, at.flatten().tolist(), strict=True):
        own = maps[scale][image : image + 1]
        assert torch.equal(row, RoIPool(3)([own], box.view(1, 1, 4), strides[scale : scale + 1])[0])
    out.sum().backward()
    assert all(m.grad is not None and m.grad.any() for m in maps)
    assert torch.equal(RoIPool(3)(maps, boxes, strides), RoIPool(3, area=64)(maps[:1], boxes, strides))


def test_spp_gradients_go_to_the_maxima() -> None:
    feature = torch.rand(1, 2, 16, 20, requires_grad=True)
    SPP()([feature], random_boxes(1, 5), (16,)).sum().backward()
    assert feature.grad is not None and feature.grad.sum() == pytest.approx(5 * 2 * 50)


# ---------------------------------------------------------------------------------------------------- Warp
def plain_warp(image: Tensor, box: list[float], pool: Warp) -> Tensor:
    """One box, as in the released code: enlarge, round, clip, resize the clipped part, paste it into zeros."""

    def whole(v: float) -> int:
        return int(math.copysign(math.floor(abs(v) + 0.5), v))

    size, scale = pool.size, pool.size / (pool.size - 2 * pool.context)
    cx, cy, half_w, half_h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    if pool.mode == "square":
        half_w = half_h = max(half_w, half_h)
    x1, x2 = whole(cx - half_w * scale), whole(cx + half_w * scale)
    y1, y2 = whole(cy - half_h * scale), whole(cy + half_h * scale)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    height, width = image.shape[-2:]
    left, right, top, bottom = (min(max(v, 0), m) for v, m in ((x1, width), (x2, width), (y1, height), (y2, height)))
    out = torch.zeros(3, size, size)
    if right <= left or bottom <= top:
        return out
    px, py = whole((left - x1) * size / (x2 - x1)), whole((top - y1) * size / (y2 - y1))
    w = min(whole((right - left) * size / (x2 - x1)), size - px)
    h = min(whole((bottom - top) * size / (y2 - y1)), size - py)
    if w > 0 and h > 0:
        part = image[None, :, top:bottom, left:right]
        out[:, py : py + h, px : px + w] = F.interpolate(part, (h, w), mode="bilinear", align_corners=False)[0]
    return out


@pytest.mark.parametrize("pool", [Warp(), Warp(64, 0), Warp(96, 7, "square")], ids=repr)
def test_warp_matches_a_reference_loop(pool: Warp) -> None:
    pixels = torch.randn(2, 3, 256, 320, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(2, 24).round(decimals=2)
    crops = pool([pixels], boxes, (1,))
    assert crops.shape == (48, 3, pool.size, pool.size) and crops.is_contiguous(memory_format=torch.channels_last)
    for crop, box, image in zip(crops, boxes.flatten(0, 1).tolist(), pixels.repeat_interleave(24, 0), strict=True):
        assert (crop - plain_warp(image, box, pool)).abs().max() < 2e-3


def test_warp_of_a_box_by_hand() -> None:
    """195 x 195 pixels grow by 16 on each side: 227 x 227, read as they are. At the border the missing part is zero."""
    pixels = torch.randn(1, 3, 300, 400)
    crop = Warp()([pixels], torch.tensor([[[50.0, 40, 245, 235], [0, 0, 195, 195]]]), (1,))
    assert (crop[0] - pixels[0, :, 24:251, 34:261]).abs().max() < 1e-3
    assert crop[1, :, :16].abs().max() == 0 and crop[1, :, :, :16].abs().max() == 0
    assert (crop[1, :, 16:, 16:] - pixels[0, :, :211, :211]).abs().max() < 1e-3


def test_warp_of_a_crop_is_that_crop() -> None:
    """The loader's windows rely on it: the box without its border, in its own crop, warps to the crop itself."""
    for pool in (Warp(), Warp(96, 8, "square")):
        box = torch.tensor([[[30.0, 20, 130, 70]]])
        inner = pool.inner(box)
        crop = pool([torch.randn(1, 3, 200, 200)], box, (1,))
        assert (pool([crop], inner, (1,)) - crop).abs().max() < 1e-3
    assert Warp().inner(box).tolist() == [[[16, 16, 211, 211]]]
    assert Warp(96, 8, "square").inner(box).tolist() == [[[8, 28, 88, 68]]]


def test_warp_is_clipped_to_the_image() -> None:
    """An image in a larger batch gives the crops that it gives alone."""
    alone = torch.randn(1, 3, 100, 120)
    padded = F.pad(alone, (0, 40, 0, 60), value=9.0)
    boxes = random_boxes(1, 20) / 2
    sizes = torch.tensor([[100, 120]])
    assert torch.allclose(Warp(64, 4)([padded], boxes, (1,), sizes), Warp(64, 4)([alone], boxes, (1,)), atol=1e-3)


def test_warp_of_degenerate_boxes() -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [-90, -90, -20, -20], [500, 500, 600, 600]]])
    crops = Warp(32, 4)([torch.ones(1, 3, 50, 50)], boxes, (1,))
    assert torch.isfinite(crops).all() and crops[0].max() == 1 and crops[1:].abs().max() == 0


@pytest.mark.parametrize("call", [lambda: Warp(32, 16), lambda: replace(Warp(), mode="w"), lambda: SPP(())])
def test_nonsensical_settings_are_rejected(call: object) -> None:
    with pytest.raises(UsageError):
        call()  # type: ignore[operator]
