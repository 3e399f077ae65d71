"""Anchors against torchvision, py-faster-rcnn's printed numbers and the counts of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from foveal.errors import UsageError
from foveal.parts.priors.anchors import Anchors, octaves
from foveal.types import Images, Priors

PAPER = Anchors(sizes=((128, 256, 512),), rounding="stride", center=0.5)  # py-faster-rcnn
RETINA = Anchors(sizes=octaves((32, 64, 128, 256, 512), 3), order="size-major", center=0.5)


def images(height: int, width: int, sizes: list[tuple[int, int]] | None = None) -> Images:
    n = torch.tensor(sizes or [(height, width)])
    return Images(torch.empty(1, 3, height, width, device="meta"), n, torch.zeros(len(n), 4), n)


def features(*maps: tuple[int, int]) -> list[Tensor]:
    return [torch.zeros(1, 1, h, w) for h, w in maps]


def pyramid(height: int, width: int, strides: tuple[int, ...]) -> list[Tensor]:
    """Every level is half of the previous one, rounded up."""
    return features(*((-(-height // s), -(-width // s)) for s in strides))


def made(anchors: Anchors, height: int, width: int, strides: tuple[int, ...]) -> Priors:
    return anchors(images(height, width), pyramid(height, width, strides), strides)


@pytest.mark.parametrize(
    ("sizes", "strides"),
    [
        (((32,), (64,), (128,), (256,), (512,)), (4, 8, 16, 32, 64)),
        (
            tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)),
            (8, 16, 32, 64, 128),
        ),
    ],
)
@pytest.mark.parametrize("canvas", [(800, 1344), (416, 320), (224, 1344)])
def test_equal_to_torchvision(
    sizes: tuple[tuple[int, ...], ...], strides: tuple[int, ...], canvas: tuple[int, int]
) -> None:
    maps = pyramid(*canvas, strides)
    theirs = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)(ImageList(torch.zeros(1, 3, *canvas), [canvas]), maps)[0]
    ours = Anchors(sizes=sizes, rounding="corners", grid="floor")(images(*canvas), maps, strides)
    assert torch.equal(ours.boxes, theirs)
    assert ours.boxes.dtype == torch.float32
    assert tuple(len(s) * 3 for s in sizes) == Anchors(sizes=sizes).per_location


def test_torchvision_pitch_differs_from_the_stride() -> None:
    """systems.md, section 4: at 800 x 1344 torchvision's pitches are 8, 16, 32, (61, 64), (114, 122)."""
    strides = (8, 16, 32, 64, 128)
    for grid, expected in (
        ("floor", [(8, 8), (16, 16), (32, 32), (61, 64), (114, 122)]),
        ("stride", [(s, s) for s in strides]),
    ):
        one = Anchors(sizes=((32,),) * 5, ratios=(1.0,), grid=grid)  # type: ignore[arg-type]
        maps = pyramid(800, 1344, strides)
        levels = one(images(800, 1344), maps, strides).boxes.split([m.shape[2] * m.shape[3] for m in maps])
        pitch = [(int(b[m.shape[3], 1] - b[0, 1]), int(b[1, 0] - b[0, 0])) for b, m in zip(levels, maps, strict=True)]
        assert pitch == expected


def test_the_papers_nine_shapes_and_first_box() -> None:
    boxes = made(PAPER, 608, 1008, (16,)).boxes
    inclusive = boxes[0] - torch.tensor([0.0, 0, 1, 1])  # theirs are pixel-inclusive
    assert inclusive.tolist() == [-84, -40, 99, 55]
    sides = [(int(b[2] - b[0]), int(b[3] - b[1])) for b in boxes[:9]]
    assert sides == [
        *((184, 96), (368, 192), (736, 384)),
        *((128, 128), (256, 256), (512, 512)),
        *((88, 176), (176, 352), (352, 704)),
    ]
    assert (boxes[9] - boxes[0]).tolist() == [16, 0, 16, 0]  # then along x


def test_anchors_without_rounding_match_chainercv() -> None:
    """ChainerCV's first, (y1, x1, y2, x2): (-37.2548, -82.5097, 53.2548, 98.5097)."""
    box = made(Anchors(sizes=((128, 256, 512),), center=0.5), 600, 1000, (16,)).boxes[0]
    assert box.tolist() == pytest.approx([-82.5097, -37.2548, 98.5097, 53.2548], abs=1e-4)


@pytest.mark.parametrize(
    ("anchors", "canvas", "map_size", "total", "inside"),
    [
        (PAPER, (600, 1000), (38, 63), 21_546, 8_151),
        (PAPER, (800, 800), (50, 50), 22_500, 9_132),
        (Anchors(sizes=((128, 256, 512),), center=0.5), (800, 800), (50, 50), 22_500, 8_940),
    ],
)
def test_counts_inside_the_image(
    anchors: Anchors, canvas: tuple[int, int], map_size: tuple[int, int], total: int, inside: int
) -> None:
    made = Anchors(**{**vars(anchors), "inside": True})(images(*canvas), features(map_size), (16,))
    assert made.counts == (total,) and made.boxes.shape == (total, 4)
    assert made.valid is not None and made.valid.shape == (1, total)
    assert int(made.valid.sum()) == inside
    assert anchors(images(*canvas), features(map_size), (16,)).valid is None


def test_inside_mask_is_computed_per_image() -> None:
    two = images(96, 96, [(96, 96), (96, 40)])
    anchors = Anchors(sizes=((32,),), ratios=(1.0,), center=0.5, inside=True)
    valid = anchors(two, features((3, 3)), (32,)).valid
    assert valid is not None
    assert valid.tolist() == [[True] * 9, [True, False, False] * 3]


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(800, 800, 159_882), (800, 1344, 268_569)],
)
def test_counts_of_the_pyramid(height: int, width: int, count: int) -> None:
    anchors = Anchors()
    assert anchors.per_location == (3,) * 5
    assert sum(made(anchors, height, width, (4, 8, 16, 32, 64)).counts) == count


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        *((320, 320, 19_206), (500, 500, 47_961), (600, 600, 67_995), (640, 640, 76_725)),
        *((800, 800, 120_087), (800, 1344, 201_600)),
    ],
)
def test_counts_of_retinanet(height: int, width: int, count: int) -> None:
    assert RETINA.per_location == (9,) * 5
    assert sum(made(RETINA, height, width, (8, 16, 32, 64, 128)).counts) == count


def test_order_of_detectrons_retinanet() -> None:
    """Octave first, then ratio: the first three have the area 32^2, the last three 50.8^2."""
    boxes = made(RETINA, 640, 640, (8, 16, 32, 64, 128)).boxes
    w, h = (boxes[:9, 2:] - boxes[:9, :2]).unbind(1)
    assert (w * h).tolist() == pytest.approx([32.0**2 * 4 ** (o / 3) for o in (0, 0, 0, 1, 1, 1, 2, 2, 2)], rel=1e-5)
    assert (h / w).tolist() == pytest.approx([0.5, 1, 2] * 3, rel=1e-5)
    assert octaves((512,), 3)[0][2] == pytest.approx(812.75, abs=0.01)
    largest = boxes[-9:]
    assert float((largest[:, 2:] - largest[:, :2]).prod(1).sqrt().max()) == pytest.approx(812.75, abs=0.01)


def test_luminoths_twelve() -> None:
    """Base 256, scales .25 .5 1 2, ratios .5 1 2; ratio-major."""
    anchors = Anchors(sizes=((64, 128, 256, 512),))
    assert anchors.per_location == (12,)
    boxes = made(anchors, 600, 1024, (16,)).boxes[:12]
    w, h = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    assert (h / w).tolist() == pytest.approx([0.5] * 4 + [1] * 4 + [2] * 4, rel=1e-5)
    assert (w * h).sqrt().tolist() == pytest.approx([64, 128, 256, 512] * 3, rel=1e-5)


def test_priors_are_cached_and_usable_after_inference_mode() -> None:
    anchors = Anchors(sizes=((17,),))
    with torch.inference_mode():
        first = anchors(images(64, 64), features((4, 4)), (16,))
    again = anchors(images(64, 64), features((4, 4)), (16,))
    assert first.boxes is again.boxes and not again.boxes.is_inference()
    assert anchors(images(64, 48), features((4, 3)), (16,)).counts == (36,)


def test_impossible_anchors_are_rejected() -> None:
    with pytest.raises(UsageError, match="5 levels"):
        Anchors()(images(64, 64), features((4, 4)), (16,))
    with pytest.raises(UsageError, match="order"):
        Anchors(order="size")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="above 0"):
        Anchors(sizes=((0,),))
