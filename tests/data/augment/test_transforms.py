"""Transforms: boxes are checked against pixels. A rectangle of one color is drawn where the box is; after the
transform the color's extent must be the box."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foveal.data.augment.color import adjust_hsv, apply_table, lookup_table
from foveal.data.augment.geometry import resample, resize
from foveal.data.augment.transforms import (
    Expand,
    FixedCrop,
    FlipScaleColor,
    HorizontalFlip,
    IoUCrop,
    Jitter,
    MultiScale,
    PhotometricDistortion,
    ResizedCrop,
    Sample,
    ScaleJitter,
    Transform,
    expanded,
)
from foveal.data.loader.batches import collate, prepare
from foveal.errors import UsageError
from foveal.masks.rle import Masks
from foveal.parts.resizing import Letterbox, Resize, Stretch

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
GEOMETRY: list[Transform] = [
    HorizontalFlip(1.0),
    Expand(p=1.0),
    Expand(ratio=2.0, p=1.0, fill=(9, 9, 9)),
    IoUCrop(),
    IoUCrop(options=(0.0,)),
    ScaleJitter(1.0, 2.0),
    ScaleJitter(0.3, 1.0),
    FixedCrop(60, 50),
    Jitter(0.3),
    FixedCrop(200, 90),
    ResizedCrop((80, 100), 60, 90, p=1.0),
]


def sample(
    boxes: Sequence[Sequence[int]] = ((5, 10, 35, 50), (50, 20, 90, 60)), size: tuple[int, int] = (80, 120)
) -> Sample:
    """A gray image with colored rectangles, their boxes and masks."""
    image = np.full((*size, 3), 90, dtype=np.uint8)
    masks = np.zeros((len(boxes), *size), dtype=np.bool_)
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = COLORS[k]
        masks[k, y1:y2, x1:x2] = True
    return Sample(
        image,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.arange(len(boxes)),
        np.zeros(len(boxes), dtype=np.bool_),
        Masks.of_dense(masks),
    )


def extent(mask: NDArray[Any]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_boxes_on_pixels(pixels: NDArray[np.uint8], got: Sample, tolerance: float = 1.0) -> None:
    """The extent of each object's color, where it covers at least half of a pixel, equals its box; masks likewise."""
    assert got.masks is not None
    for box, label, mask in zip(got.boxes, got.labels, got.masks.extents(), strict=True):
        distance = np.abs(pixels.astype(int) - np.array(COLORS[label])).max(-1)
        np.testing.assert_allclose(extent(distance < 128), box, atol=tolerance)
        np.testing.assert_allclose(mask, box, atol=tolerance)


@pytest.mark.parametrize("transform", GEOMETRY, ids=repr)
def test_boxes_follow_the_pixels(transform: Transform) -> None:
    before, changed, kept = sample(), 0, 0
    for seed in range(25):
        after = transform(before, np.random.default_rng(seed))
        canvas = after.render()
        assert canvas.shape == (*after.canvas, 3)
        assert len(after.boxes) == len(after.labels) == len(after.ignore) == len(after.masks)  # type: ignore[arg-type]
        placed = resample(after, torch.empty((*after.canvas, 3), dtype=torch.uint8), (*after.canvas, 0, 0))
        assert_boxes_on_pixels(canvas, placed, 0)  # nothing was resampled: exact
        np.testing.assert_array_equal(placed.boxes, after.boxes)
        changed += canvas.shape != before.image.shape or not np.array_equal(canvas, before.image)
        kept += len(after)
    assert changed > 15 and kept > 10
    np.testing.assert_array_equal(before.image, sample().image)  # pure


@pytest.mark.parametrize("rule", [Resize(100, 150, 32), Stretch(96, 64), Letterbox(128, 128)], ids=repr)
def test_boxes_follow_the_pixels_through_resizing(rule: Any) -> None:
    recipe: list[Transform] = [Expand(p=0.7), IoUCrop(), HorizontalFlip()]
    for seed in range(30):
        prepared = prepare(sample(), recipe, np.random.default_rng(seed))
        images, targets = collate([prepared], rule)
        n = int(targets.valid.sum())
        pixels = images.pixels[0].permute(1, 2, 0).numpy()
        after = replace(
            prepared.sample,
            boxes=targets.boxes[0, :n].double().numpy(),
            labels=targets.labels[0, :n].numpy(),
            masks=None,
        )
        assert targets.masks is not None
        for box, label, runs in zip(after.boxes, after.labels, targets.masks[0, :n].numpy(), strict=True):
            if (box[2:] - box[:2]).min() < 4:
                continue  # a sliver: no pixel need be covered by half
            distance = np.abs(pixels.astype(int) - np.array(COLORS[label])).max(-1)
            half = (255 - 90) / 2  # halfway to the gray around it
            np.testing.assert_allclose(extent(distance < half), box, atol=1.01)
            x, top, bottom = runs[runs[:, 2] > runs[:, 1]].T
            np.testing.assert_allclose([x.min(), top.min(), x.max() + 1, bottom.max()], box, atol=1.01)


def test_resize_equals_float_interpolation_to_one_level() -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for size in ((200, 260), (50, 300), (97, 131), (31, 40)):
        want = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False).round()
        got = resize(image, *size).permute(2, 0, 1)[None].float()
        assert (got - want).abs().max() <= 1
    # A crop is not contiguous, and a frozen array not writable.
    part = image[10:60, 20:90]
    part.flags.writeable = False
    assert torch.equal(resize(part, 33, 44), resize(part.copy(), 33, 44))


def test_flip_by_hand() -> None:
    after = HorizontalFlip(1.0)(sample(), np.random.default_rng(0))
    np.testing.assert_array_equal(after.boxes, [[85, 10, 115, 50], [30, 20, 70, 60]])  # 120 - x2, 120 - x1
    assert HorizontalFlip(0.0)(sample(), np.random.default_rng(0)) is not after
    flips = [
        not np.array_equal(HorizontalFlip()(sample(), np.random.default_rng(s)).boxes, sample().boxes)
        for s in range(200)
    ]
    assert 70 < sum(flips) < 130  # 100 and four standard deviations


def test_expand_pads_with_the_fill_color() -> None:
    after = Expand(p=1.0, fill=(1, 2, 3))(sample(), np.random.default_rng(5))
    height, width = after.canvas
    assert 80 < height <= 320 and 120 < width <= 480
    outside = after.render()[0, 0]
    assert outside.tolist() == [1, 2, 3]
    sides = after.boxes[:, 2:] - after.boxes[:, :2]
    np.testing.assert_allclose(sides, [[30, 40], [40, 40]])


@pytest.mark.parametrize("least", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_iou_crop_satisfies_its_constraints(least: float) -> None:
    big, found = sample(((10, 10, 110, 70), (50, 20, 60, 30))), 0
    crop = IoUCrop(options=(least,))
    for seed in range(40):
        after = crop(big, np.random.default_rng(seed))
        if after is big:
            continue  # none of 50 windows is valid
        found += 1
        height, width = after.canvas
        assert 0.3 * 80 * 0.5 <= height <= 80 and 0.3 * 120 * 0.5 <= width <= 120
        assert 0.5 - 0.05 <= (width / 120) / (height / 80) <= 2 + 0.2  # rounding to whole pixels
        # The image is the window, so its corner follows from the clipped box of any remaining object.
        windows = crop.windows(big.canvas, _generator_at_windows(seed))
        x1, y1, x2, y2 = next(
            w for w in windows.tolist() if _iou_with_any(w, big.boxes) >= least and _holds(w, big.boxes)
        )
        assert (width, height) == (x2 - x1, y2 - y1)
        np.testing.assert_array_equal(after.render(), big.image[y1:y2, x1:x2])
        centers = (big.boxes[:, :2] + big.boxes[:, 2:]) / 2
        inside = ((centers > [x1, y1]) & (centers < [x2, y2])).all(1)
        np.testing.assert_array_equal(after.labels, np.flatnonzero(inside))
    assert found >= 3


def _generator_at_windows(seed: int) -> np.random.Generator:
    rng = np.random.default_rng(seed)
    rng.permutation(np.zeros(1))
    return rng


def _iou_with_any(window: list[int], boxes: NDArray[Any]) -> float:
    best = 0.0
    for x1, y1, x2, y2 in boxes.tolist():
        w = max(0.0, min(x2, window[2]) - max(x1, window[0]))
        h = max(0.0, min(y2, window[3]) - max(y1, window[1]))
        area = (window[2] - window[0]) * (window[3] - window[1]) + (x2 - x1) * (y2 - y1)
        best = max(best, w * h / (area - w * h))
    return best


def _holds(window: list[int], boxes: NDArray[Any]) -> bool:
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return bool(((x > window[0]) & (x < window[2]) & (y > window[1]) & (y < window[3])).any())


def test_cropped_out_objects_are_removed_and_slivers_ignored() -> None:
    after = FixedCrop(30, 80)(sample(((0, 0, 30, 10), (0, 20, 120, 40), (100, 50, 120, 60))), _Fixed(0.0))
    assert after.labels.tolist() == [0, 1]  # the third lies beyond x = 30
    assert after.ignore.tolist() == [False, False]  # 30 of 120 is the quarter that counts as visible
    after = FixedCrop(29, 80)(sample(((0, 0, 30, 10), (0, 20, 120, 40), (100, 50, 120, 60))), _Fixed(0.0))
    assert after.ignore.tolist() == [False, True]


class _Fixed(np.random.Generator):
    """A generator that always returns one number."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.value if size is None else np.full(size, self.value)


@pytest.mark.parametrize("transform", [*GEOMETRY, PhotometricDistortion(p=1.0), MultiScale()], ids=repr)
def test_transforms_without_objects(transform: Transform) -> None:
    empty = sample(())
    for seed in range(10):
        after = transform(empty, np.random.default_rng(seed))
        assert after.boxes.shape == (0, 4) and min(after.canvas) >= 1
        assert after.render().shape == (*after.canvas, 3)


@pytest.mark.parametrize("transform", [*GEOMETRY, PhotometricDistortion(p=1.0)], ids=repr)
def test_transforms_depend_only_on_the_generator(transform: Transform) -> None:
    one, two, other = (transform(sample(), np.random.default_rng(s)).render() for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    if not isinstance(transform, HorizontalFlip) and transform != FixedCrop(200, 90):  # these two draw nothing here
        assert one.shape != other.shape or not np.array_equal(one, other)


def test_zoom_by_hand() -> None:
    """Half size: the canvas is twice the image, which lies at .5 of the 80 and 120 pixels that are left."""
    after = ScaleJitter(0.5, 0.5)(sample(), _Fixed(0.5))
    assert after.canvas == (160, 240) and after.offset == (40, 60)
    assert after.boxes.tolist() == [[65, 50, 95, 90], [110, 60, 150, 100]]
    placed = resample(after, torch.empty((80, 120, 3), dtype=torch.uint8), (80, 120, 0, 0))
    assert placed.boxes.tolist() == [[32.5, 25, 47.5, 45], [55, 30, 75, 50]]
    # Twice the size: the middle 40 x 60; of the first 5 of 30 columns and 30 of 40 rows remain, an eighth: ignored.
    after = ScaleJitter(2, 2)(sample(), _Fixed(0.5))
    assert after.canvas == (40, 60) and after.boxes.tolist() == [[0, 0, 5, 30], [20, 0, 60, 40]]
    assert after.ignore.tolist() == [True, False]
    placed = resample(after, torch.empty((80, 120, 3), dtype=torch.uint8), (80, 120, 0, 0))
    assert placed.boxes.tolist() == [[0, 0, 10, 60], [40, 0, 120, 80]]


def test_large_scale_jitter_covers_its_range() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([ScaleJitter(0.1, 2.0)(sample(), rng).canvas[0] for _ in range(1000)])
    assert 40 <= sides.min() < 42 and 600 < sides.max() <= 800
    # smaller than the image in (1 - .1) / (2 - .1) = .474 of the cases, .004 of them less than half a pixel; +-4 sd
    assert abs((sides > 80).mean() - 0.470) < 0.063
    with pytest.raises(UsageError, match="0 < low <= high"):
        ScaleJitter(0, 2)


def test_one_strength_for_flip_zoom_and_color() -> None:
    assert FlipScaleColor(0).parts == (HorizontalFlip(),)
    assert FlipScaleColor(1).parts == (HorizontalFlip(), ScaleJitter(0.5, 2.0), PhotometricDistortion())
    half = PhotometricDistortion(16, (0.75, 1.25), (0.75, 1.25), 9)
    assert FlipScaleColor(0.5).parts == (HorizontalFlip(), ScaleJitter(2 / 3, 1.5), half)
    assert expanded((FlipScaleColor(0), Expand())) == (HorizontalFlip(), Expand())
    for seed in range(20):
        want = sample()
        rng = np.random.default_rng(seed)
        for part in FlipScaleColor(1.5).parts:
            want = part(want, rng)
        got = FlipScaleColor(1.5)(sample(), np.random.default_rng(seed))
        np.testing.assert_array_equal(got.render(), want.render())
    with pytest.raises(UsageError, match="strength must lie in"):
        FlipScaleColor(-1)


def test_table_by_hand() -> None:
    assert lookup_table(10, 1.5)[[0, 100, 200, 250]].tolist() == [15, 165, 255, 255]
    assert lookup_table(-20, 0.5)[[0, 10, 100]].tolist() == [0, 0, 40]
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(apply_table(image, lookup_table(3, 1.0)), image + 3)
    assert apply_table(image, lookup_table(0, 1.0)) is image


@pytest.mark.parametrize(("saturation", "hue"), [(1.4, 0), (0.5, 0), (1, 18), (1, -18), (1.3, 7.5), (0.6, -170)])
def test_hue_and_saturation_equal_the_standard_library(saturation: float, hue: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image[0] = image[0, :, :1]  # grays
    image[1] = rng.choice(np.array([0, 255], np.uint8), (30, 3))  # ties and corners
    got = adjust_hsv(image, saturation, hue)
    for before, after in zip(image.reshape(-1, 3) / 255, got.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        want = 255 * np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v))
        np.testing.assert_allclose(after, want, atol=0.501)


def test_large_images_are_jittered_in_chunks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 130, 3), dtype=np.uint8)  # 26,000 pixels: two chunks
    whole = adjust_hsv(image, 1.2, 9)
    np.testing.assert_array_equal(whole[:50], adjust_hsv(image[:50], 1.2, 9))
    np.testing.assert_array_equal(whole[150:], adjust_hsv(image[150:], 1.2, 9))


def test_photometric_limits() -> None:
    gray = replace(sample(()), image=np.full((8, 8, 3), 100, np.uint8), masks=None)
    means = []
    for seed in range(300):
        after = PhotometricDistortion(p=1.0)(gray, np.random.default_rng(seed)).image
        assert (after == after[0, 0, 0]).all()  # gray stays gray under any hue
        means.append(int(after[0, 0, 0]))
    assert 34 <= min(means) < 45 and 180 < max(means) <= 198  # (100 -+ 32) x 0.5 and x 1.5
    same = PhotometricDistortion(p=0.0)(gray, np.random.default_rng(0)).image
    np.testing.assert_array_equal(same, gray.image)


def test_color_jitter_runs_on_the_smaller_image() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(Transform):
        color = True  # type: ignore[misc]

        def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
            seen.append(sample.image.shape[:2])
            return sample

    for rule in (Stretch(60, 40), Stretch(240, 160)):
        collate([prepare(sample(), [Spy()], np.random.default_rng(0))], rule)
    assert seen == [(40, 60), (80, 120)]


def test_color_jitter_does_not_change_the_fill() -> None:
    recipe = [PhotometricDistortion(p=1.0), Expand(p=1.0, fill=(7, 8, 9))]
    for size in (40, 400):
        images, _ = collate([prepare(sample(), recipe, np.random.default_rng(3))], Stretch(size, size))
        corners = images.pixels[0, :, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
        assert [7, 8, 9] in corners


def test_multi_scale_draws_from_its_sides() -> None:
    drawn = {MultiScale((10, 20, 30)).choose(np.random.default_rng(s)) for s in range(40)}
    assert drawn == {10, 20, 30}


def test_repr_is_a_constructor_call() -> None:
    for transform in [*GEOMETRY, PhotometricDistortion(), MultiScale()]:
        assert eval(repr(transform)) == transform
