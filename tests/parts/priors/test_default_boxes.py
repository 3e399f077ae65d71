"""SSD's default boxes: numbers, sizes and order, from the papers and the released code (systems.md 3.14, 3.15)."""

from __future__ import annotations

import math

import pytest
import torch

from foveal import presets
from foveal.errors import UsageError
from foveal.parts.priors.default_boxes import DefaultBoxes, PyramidBoxes, boxes_at
from foveal.types import Images, Priors


def laid_out(boxes: DefaultBoxes, maps: tuple[int, ...], side: int, width: int | None = None) -> Priors:
    size = torch.tensor([[side, width or side]])
    images = Images(torch.empty(1, 3, side, width or side), size, torch.ones(1, 4), size)
    return boxes(images, [torch.empty(1, 1, m, m) for m in maps], (1,) * len(maps))


def cxcywh(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


@pytest.mark.parametrize(
    ("name", "maps", "count"),
    [
        ("ssd300_vgg16", (38, 19, 10, 5, 3, 1), 8_732),
        ("ssd300_vgg16_paper", (38, 19, 10, 5, 3, 1), 8_732),
        ("ssd300_vgg16_coco_paper", (38, 19, 10, 5, 3, 1), 8_732),
        ("ssd512_vgg16", (64, 32, 16, 8, 4, 2, 1), 24_564),
        ("ssd512_vgg16_paper", (64, 32, 16, 8, 4, 2, 1), 24_564),
        ("ssdlite320_mobilenet_v3_large", (20, 10, 5, 3, 2, 1), 3_234),
        ("ssd321_r101", (40, 20, 10, 5, 3, 1), 17_080),
        ("dssd321_r101", (40, 20, 10, 5, 3, 1), 17_080),
        ("ssd513_r101", (64, 32, 16, 8, 4, 2, 1), 43_688),
        ("dssd513_r101", (64, 32, 16, 8, 4, 2, 1), 43_688),
    ],
)
def test_numbers_of_the_papers(name: str, maps: tuple[int, ...], count: int) -> None:
    """The feature map sizes are those of the network of the preset."""
    with torch.device("meta"):
        detector = presets.get(name).build(["a"]).eval()
        side = detector.spec.input.canvas(())[0]
        features = detector.neck(detector.backbone(torch.empty(1, 3, side, side)))
    assert tuple((f.shape[2], f.shape[3]) for f in features) == tuple((m, m) for m in maps)
    assert len(laid_out(detector.priors, maps, side).boxes) == count


def test_sizes_and_order_at_a_location() -> None:
    """SSD300 on VOC, second map (19 x 19, step 16): min 60, max 111, ratios 2 and 3, cell in row 4, column 7."""
    priors = laid_out(presets.ssd300_vgg16_paper.priors, (38, 19, 10, 5, 3, 1), 300)
    start = 38 * 38 * 4 + (4 * 19 + 7) * 6
    found = cxcywh(priors.boxes[start : start + 6])
    x, y = 7.5 * 16, 4.5 * 16
    r2, r3, mean = math.sqrt(2), math.sqrt(3), math.sqrt(60 * 111)
    by_hand = [(60, 60), (mean, mean), (60 * r2, 60 / r2), (60 / r2, 60 * r2), (60 * r3, 60 / r3), (60 / r3, 60 * r3)]
    torch.testing.assert_close(found, torch.tensor([(x, y, w, h) for w, h in by_hand]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [  # per cent of the side: 20 + 17 k for VOC, one more level before it
        ("ssd300_vgg16_paper", (30, 60, 111, 162, 213, 264), (60, 111, 162, 213, 264, 315)),
        ("ssd300_vgg16_coco_paper", (21, 45, 99, 153, 207, 261), (45, 99, 153, 207, 261, 315)),
        ("ssd512_vgg16_paper", (35, 76, 153, 230, 307, 384, 460), (76, 153, 230, 307, 384, 460, 537)),
        ("ssd512_vgg16_coco_paper", (20, 51, 133, 215, 296, 378, 460), (51, 133, 215, 296, 378, 460, 542)),
        # 10, 20, 38, ... and 4, 10, 27, ... per cent of 321 and 513
        ("ssd321_r101", (32, 64, 121, 179, 237, 295), (64, 121, 179, 237, 295, 353)),
        ("ssd513_r101", (20, 51, 138, 225, 312, 400, 487), (51, 138, 225, 312, 400, 487, 574)),
    ],
)
def test_caffe_truncates_sizes_to_whole_pixels(name: str, low: tuple[int, ...], high: tuple[int, ...]) -> None:
    boxes = presets.get(name).priors
    for level, (a, b) in enumerate(zip(low, high, strict=True)):
        sides = cxcywh(boxes.cell(level))[:2, 2]
        assert sides.tolist() == pytest.approx([a, math.sqrt(a * b)], rel=1e-6)


def test_torchvision_sizes_are_not_truncated() -> None:
    sides = cxcywh(presets.ssd512_vgg16.priors.cell(0))[:2, 2]
    assert sides.tolist() == pytest.approx([20.48, math.sqrt(20.48 * 51.2)])


def test_centers_of_dssd() -> None:
    """start + i step, systems.md 3.15; the eight of a location: 1, 1, 1.6, 1/1.6, 2, 1/2, 3, 1/3."""
    priors = laid_out(presets.ssd321_r101.priors, (40, 20, 10, 5, 3, 1), 321)
    first = 0
    for count, side, start, step in zip(
        priors.counts, (40, 20, 10, 5, 3, 1), (2.5, 2.5, 10.5, 26.5, 90.5, 160.5), (8, 16, 32, 64, 64, 321), strict=True
    ):
        level = cxcywh(priors.boxes[first : first + count]).view(side, side, 8, 4)
        assert level[0, 0, 0, :2].tolist() == [start, start]
        assert level[-1, 0, 0, :2].tolist() == [start, start + (side - 1) * step]
        ratios = (level[0, 0, :, 2] / level[0, 0, :, 3]).tolist()
        assert ratios == pytest.approx([1, 1, 1.6, 1 / 1.6, 2, 1 / 2, 3, 1 / 3], rel=1e-5)
        first += count


def test_clip_bounds_sides_not_corners() -> None:
    boxes = DefaultBoxes((100, 100), ((4.0,),), truncate=False, clip=True)
    found = cxcywh(laid_out(boxes, (2,), 150, 120).boxes.view(2, 2, 4, 4)[0, 1])  # the upper right cell
    # ratio 4: 200 x 50 and 50 x 200, on a canvas 150 high and 120 wide; the cells are 60 x 75
    assert found.tolist() == [[90, 37.5, 100, 100]] * 2 + [[90, 37.5, 120, 50], [90, 37.5, 50, 150]]


def test_pyramid_follows_the_strides() -> None:
    boxes = PyramidBoxes(2.0, (3.0,)).at((4, 8, 32))
    assert boxes == DefaultBoxes((8, 16, 64, 128), ((3.0,),) * 3, steps=(4, 8, 32), truncate=False)
    assert cxcywh(laid_out(boxes, (3, 1, 1), 16).boxes)[4 * 4, :2].tolist() == [6, 6]  # row 1, column 1


def test_priors_are_cached_and_detached() -> None:
    with torch.inference_mode():
        first = laid_out(DefaultBoxes((11, 22), ((),)), (3,), 33).boxes
    assert not first.is_inference()
    assert laid_out(DefaultBoxes((11, 22), ((),)), (3,), 33).boxes is first


def test_inconsistent_settings_are_rejected() -> None:
    for settings in (
        {"sizes": (30, 60)},
        {"steps": (8,)},
        {"starts": (4, 8)},
        {"sizes": (0, 60, 111, 162, 213, 264, 315)},
        {"steps": (8, 16, 32, 64, 100, 0)},
    ):
        with pytest.raises(UsageError, match="DefaultBoxes"):
            DefaultBoxes(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"6 levels, but there are 3.*PyramidBoxes"):
        boxes_at(DefaultBoxes(), (8, 16, 32))
    with pytest.raises(UsageError, match="6 levels, but there are 2"):
        laid_out(DefaultBoxes(), (3, 1), 30)
