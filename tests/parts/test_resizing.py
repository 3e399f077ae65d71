"""The resize rules against torchvision's transform and Darknet's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from foveal.errors import FovealError, UsageError
from foveal.files.aliases import ImageArray
from foveal.parts.resizing import Input, Letterbox, Resize, Stretch
from foveal.types import Images

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def sample_image(height: int, width: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "sizes",
    [[(48, 64)], [(50, 41), (77, 30)], [(30, 300), (33, 97), (64, 64)], [(1, 7)]],
)
def test_resize_equals_torchvisions_transform(sizes: list[tuple[int, int]]) -> None:
    arrays = [sample_image(h, w, i) for i, (h, w) in enumerate(sizes)]
    peer = GeneralizedRCNNTransform(80, 133, MEAN, STD).eval()
    tensors = [torch.from_numpy(a).permute(2, 0, 1).float() / 255 for a in arrays]
    theirs, _ = peer([t.clone() for t in tensors])
    rule = Resize(80, 133)
    for ours in (rule.batch(arrays), rule.batch_tensors(tensors)):
        assert ours.pixels.shape == theirs.tensors.shape and ours.pixels.dtype == torch.float32
        assert ours.pixels.is_contiguous(memory_format=torch.channels_last)
        assert (ours.pixels - theirs.tensors).abs().max() <= 1e-6
        assert [tuple(s) for s in ours.sizes.tolist()] == theirs.image_sizes
        assert [tuple(s) for s in ours.original.tolist()] == sizes
    scale = [(w2 / w, h2 / h, 0, 0) for (h, w), (h2, w2) in zip(sizes, theirs.image_sizes, strict=True)]
    assert torch.allclose(ours.frame, torch.tensor(scale, dtype=torch.float32))


def test_sizes_equal_torchvisions_at_800() -> None:
    """floor(side * scale) in double precision, thousands of sizes."""
    rng = np.random.default_rng(1)
    rule = Resize(800, 1333)
    for h, w in rng.integers(1, 3000, (3000, 2)).tolist():
        scale = min(800 / min(h, w), 1333 / max(h, w))
        assert rule.size(h, w) == (max(1, int(np.floor(h * scale))), max(1, int(np.floor(w * scale))))
    assert rule.size(480, 640) == (800, 1066)
    assert rule.size(375, 500) == (800, 1066)
    assert rule.canvas([(800, 1066), (1201, 800)]) == (1216, 1088)


def test_inputs_of_the_caller_are_not_modified() -> None:
    array = sample_image(20, 30)
    array.setflags(write=False)
    before = array.copy()
    tensor = torch.rand(3, 20, 30)
    kept = tensor.clone()
    Resize(20, 30, multiple=1).batch([array])
    Resize(20, 30, multiple=1).batch_tensors([tensor])
    assert (array == before).all() and torch.equal(tensor, kept)


def test_array_views_are_accepted() -> None:
    array = sample_image(20, 30)
    flipped = Resize(20, 30, multiple=1).batch([array[:, ::-1]]).pixels
    assert torch.equal(flipped, Resize(20, 30, multiple=1).batch([array[:, ::-1].copy()]).pixels)


def test_stretch_equals_torchvisions_fixed_size() -> None:
    arrays = [sample_image(33, 57), sample_image(90, 20, 1)]
    peer = GeneralizedRCNNTransform(1, 1, MEAN, STD, size_divisible=1, fixed_size=(48, 32)).eval()
    theirs, _ = peer([torch.from_numpy(a).permute(2, 0, 1).float() / 255 for a in arrays])
    ours = Stretch(48, 32).batch(arrays)
    assert ours.pixels.shape == (2, 3, 32, 48)
    assert (ours.pixels - theirs.tensors).abs().max() <= 1e-6
    assert torch.allclose(ours.frame, torch.tensor([[48 / 57, 32 / 33, 0, 0], [48 / 20, 32 / 90, 0, 0]]))


@pytest.mark.parametrize(
    ("height", "width", "placed"),
    [
        (424, 640, (275, 416, 70, 0)),  # 424 * 416 / 640 = 275.6; (416 - 275) / 2 = 70.5
        (500, 333, (416, 277, 0, 69)),
        (100, 100, (416, 416, 0, 0)),
    ],
)
def test_letterbox_matches_darknet(height: int, width: int, placed: tuple[int, int, int, int]) -> None:
    rule = Letterbox(416, 416, mean=(0, 0, 0), std=(1, 1, 1))
    assert rule.placement(height, width) == placed
    images = rule.batch([np.full((height, width, 3), 255, np.uint8)])
    h, w, y, x = placed
    expected = torch.full((3, 416, 416), 0.5)
    expected[:, y : y + h, x : x + w] = 1
    assert torch.allclose(images.pixels[0], expected)
    corners = torch.tensor([[[0.0, 0, width, height]]])
    assert images.to_network(corners)[0, 0].tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-3)
    assert torch.allclose(images.to_original(images.to_network(corners)), corners, atol=1e-3)
    assert rule.fill == (128, 128, 128) and images.sizes.tolist() == [[416, 416]]


def test_normalize_equals_the_float_path_and_clears_the_padding() -> None:
    rule = Resize(32, 64)
    arrays = [sample_image(32, 40), sample_image(32, 64, 1)]
    raw = torch.full((2, 3, 32, 64), 200, dtype=torch.uint8)
    for i, a in enumerate(arrays):
        raw[i, :, : a.shape[0], : a.shape[1]] = torch.from_numpy(a).permute(2, 0, 1)
    floats = rule.batch(arrays)
    images = Images(raw, floats.sizes, floats.frame, floats.original)
    done = rule.normalize(images)
    assert done.pixels.is_contiguous(memory_format=torch.channels_last)
    assert (done.pixels - floats.pixels).abs().max() < 2e-6
    assert done.pixels[0, :, :, 40:].abs().max() == 0
    assert raw.dtype == torch.uint8 and images.pixels is raw
    half = rule.normalize(images, torch.bfloat16).pixels
    assert half.dtype == torch.bfloat16 and torch.equal(half, done.pixels.bfloat16())


def test_fill_is_the_nearest_color_to_the_mean() -> None:
    assert Resize().fill == (124, 116, 104)
    assert all(abs(v / 255 - m) <= 0.5 / 255 for v, m in zip(Resize().fill, Resize().pixels[0], strict=True))


def test_explicit_or_default_size() -> None:
    assert Stretch().like(Letterbox(416, 320, mean=(0, 0, 0), std=(1, 1, 1))) == Stretch(
        416, 320, mean=(0, 0, 0), std=(1, 1, 1)
    )
    assert Stretch(100, 90).like(Letterbox(416, 320)) == Stretch(100, 90)
    assert Letterbox().like(Resize(600, 1000)).canvas([]) == (600, 600)
    with pytest.raises(UsageError, match="needs a size"):
        Stretch().placement(10, 10)


@pytest.mark.parametrize("array", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 3))])
def test_invalid_images_are_rejected(array: ImageArray) -> None:
    with pytest.raises(FovealError, match="expected"):
        Resize().batch([array])


def test_empty_batch_is_rejected() -> None:
    with pytest.raises(FovealError, match="at least one"):
        Resize().batch([])


@pytest.mark.parametrize("rule", [Resize(64, 64), Stretch(64, 64), Letterbox(64, 64)])
def test_coordinate_frames_round_trip_boxes(rule: Input) -> None:
    images = rule.batch([sample_image(37, 81), sample_image(81, 37)])
    boxes = torch.tensor([[[3.0, 5, 30, 31]], [[3.0, 5, 30, 31]]])
    assert torch.allclose(images.to_original(images.to_network(boxes)), boxes, atol=1e-4)


def test_sides_rounded_to_the_nearest_pixel() -> None:
    """Detectron2's and MMDetection's: 480 x 640 at 800 is 1066.67 wide."""
    assert Resize(800, 1333).size(480, 640) == (800, 1066)
    assert Resize(800, 1333, nearest=True).size(480, 640) == (800, 1067)
    assert Resize(800, 1333, nearest=True).size(427, 640) == (800, 1199)
