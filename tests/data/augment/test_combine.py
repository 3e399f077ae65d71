"""Mosaic, mix-up and copy-paste: boxes and masks against numbers worked out by hand, and against the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foveal.data.augment.combine import Combination, CopyPaste, MixUp, Mosaic
from foveal.data.augment.transforms import HorizontalFlip, Sample, ScaleJitter, Transform
from foveal.data.loader.batches import prepare
from foveal.errors import UsageError
from foveal.masks.rle import Masks

SIZE = (80, 120)
LEVELS = (40, 80, 120, 160)  # of the four images, gray; objects are 15 levels lighter


class Fixed(np.random.Generator):
    """Draws one number, whatever is asked for."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.value if size is None else np.full(size, self.value)

    def beta(self, *args: Any) -> Any:
        return self.value


def gray(level: int, box: tuple[int, int, int, int], size: tuple[int, int] = SIZE, *, ignore: bool = False) -> Sample:
    """An image of one level with one object."""
    image = np.full((*size, 3), level, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = level + 15
    mask = np.zeros((1, *size), np.bool_)
    mask[0, y1:y2, x1:x2] = True
    flags = np.array([ignore])
    return Sample(image, np.array([box], float), np.array([LEVELS.index(level)]), flags, Masks.of_dense(mask))


def four(box: tuple[int, int, int, int]) -> tuple[Sample, list[Sample]]:
    first, *others = (gray(level, box) for level in LEVELS)
    return first, others


def extents(after: Sample) -> np.ndarray[Any, Any]:
    assert after.masks is not None
    return after.masks.extents()


def test_mosaic_of_crops_by_hand() -> None:
    # Divided in the middle; every tile is the middle 40 x 60 of its image, which starts at row 20 and column 30.
    after = Mosaic(low=1, high=1, center=0.5).combine(*four((35, 25, 65, 45)), Fixed(0.5))
    want = [[5, 5, 35, 25], [65, 5, 95, 25], [5, 45, 35, 65], [65, 45, 95, 65]]
    assert after.boxes.tolist() == want and after.labels.tolist() == [0, 1, 2, 3] and not after.ignore.any()
    assert extents(after).tolist() == want and after.canvas == SIZE
    pixels = after.render()
    assert pixels[[0, 0, 79, 79], [0, 119, 0, 119], 0].tolist() == list(LEVELS)  # the corners
    for (x1, y1, x2, y2), level in zip(want, LEVELS, strict=True):
        assert (pixels[y1:y2, x1:x2] == level + 15).all() and (pixels[y1 - 1, x1:x2] == level).all()


def test_mosaic_of_whole_images_by_hand() -> None:
    # At half size each image fills its tile, and boxes are halved.
    after = Mosaic(low=0.5, high=0.5, center=0.5).combine(*four((20, 40, 60, 60)), Fixed(0.3))
    assert after.boxes.tolist() == [[10, 20, 30, 30], [70, 20, 90, 30], [10, 60, 30, 70], [70, 60, 90, 70]]
    # At a quarter it is 20 x 30 and touches the middle; the rest of the tile is fill.
    after = Mosaic(low=0.25, high=0.25, center=0.5).combine(*four((0, 0, 120, 80)), Fixed(0.3))
    assert after.boxes.tolist() == [[30, 20, 60, 40], [60, 20, 90, 40], [30, 40, 60, 60], [60, 40, 90, 60]]
    pixels = after.render()
    assert pixels[0, 0].tolist() == list(after.fill) and pixels[25, 35, 0] == LEVELS[0] + 15
    # Images of other sizes count by how they fit: 160 x 240 at a quarter of what fits is 20 x 30 too.
    first, others = four((0, 0, 120, 80))
    others[0] = gray(80, (0, 0, 240, 160), (160, 240))
    after = Mosaic(low=0.25, high=0.25, center=0.5).combine(first, others, Fixed(0.3))
    assert after.boxes[1].tolist() == [60, 20, 90, 40]


def test_mosaic_keeps_the_rule_for_what_is_cut_off() -> None:
    # The tile shows columns 30..90 and rows 20..60 of the image.
    first, others = four((20, 30, 35, 40))  # 5 of 15 columns remain: a third
    others[0] = gray(80, (20, 30, 33, 40))  # 3 of 13: less than a quarter
    others[1] = gray(120, (0, 30, 30, 40))  # nothing
    others[2] = gray(160, (40, 30, 50, 40), ignore=True)
    after = Mosaic(low=1, high=1, center=0.5).combine(first, others, Fixed(0.5))
    assert after.labels.tolist() == [0, 1, 3] and after.ignore.tolist() == [False, True, True]
    assert after.boxes.tolist() == [[0, 10, 5, 20], [60, 10, 63, 20], [70, 50, 80, 60]]


def test_mix_up_by_hand() -> None:
    first, second = gray(40, (10, 10, 30, 30)), gray(160, (0, 0, 40, 40), (40, 40))
    # The second fits as 80 x 80, at the middle of the 40 columns that are left: its left edge is column 20.
    after = MixUp().combine(first, [second], Fixed(0.5))
    assert after.boxes.tolist() == [[10, 10, 30, 30], [20, 0, 100, 80]] and after.labels.tolist() == [0, 3]
    assert extents(after).tolist() == after.boxes.tolist()
    pixels = after.render()[..., 0]
    assert pixels[0, 0] == 40 and pixels[15, 15] == 55  # the first alone
    assert pixels[15, 25] == 115 and pixels[50, 50] == 108  # (55 + 175) / 2, (40 + 175) / 2 rounded to even
    assert MixUp().combine(first, [second], Fixed(0.75)).render()[50, 50, 0] == 74  # 30 + 175 / 4 = 73.75


def test_copy_paste_by_hand() -> None:
    first, second = gray(40, (10, 10, 50, 50)), gray(160, (30, 0, 70, 80))
    after = CopyPaste(share=1).combine(first, [second], Fixed(0.5))
    # What remains of the first are its columns 10 to 30: half of it.
    assert after.boxes.tolist() == [[10, 10, 30, 50], [30, 0, 70, 80]] and not after.ignore.any()
    assert extents(after).tolist() == after.boxes.tolist()
    assert after.masks is not None and after.masks.area().tolist() == [20 * 40, 40 * 80]
    pixels = after.render()[..., 0]
    assert pixels[20, 29] == 55 and pixels[20, 30] == 175 and pixels[0, 0] == 40 and pixels[0, 100] == 40
    assert CopyPaste(share=1, visible=0.51).combine(first, [second], Fixed(0.5)).ignore.tolist() == [True, False]
    hidden = CopyPaste(share=1).combine(gray(40, (35, 10, 50, 50)), [second], Fixed(0.5))
    assert hidden.labels.tolist() == [3]  # covered completely


def test_copy_paste_leaves_what_it_should() -> None:
    first, second = gray(40, (10, 10, 50, 50)), gray(160, (30, 0, 70, 80))
    rng = np.random.default_rng(0)
    for nothing in (CopyPaste(share=0), CopyPaste()):
        other = second if nothing.share == 0 else replace(second, ignore=np.array([True]))
        assert nothing.combine(first, [other], rng) is first
    for bare in (replace(second, masks=None), replace(second, masks=Masks.empty(SIZE, 1))):
        assert CopyPaste(share=1).combine(first, [bare], rng) is first
    crowd = replace(first, ignore=np.array([True]))
    after = CopyPaste(share=1).combine(crowd, [second], Fixed(0.5))
    assert after.boxes[0].tolist() == [10, 10, 50, 50] and after.ignore.tolist() == [True, False]


@pytest.mark.parametrize("transform", [Mosaic(), MixUp(), CopyPaste(share=1)], ids=repr)
def test_masks_and_boxes_follow_each_other(transform: Combination) -> None:
    """After a crop, with images that do not cover their canvas; no sample is modified, and only ``rng`` decides."""
    before: list[Transform] = [ScaleJitter(0.4, 1.6), HorizontalFlip()]
    boxes = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        samples = [gray(level, (20 + seed, 10, 80, 70)) for level in LEVELS]
        first, *others = (prepare(sample, before, rng).sample for sample in samples)
        others = others[: transform.others]
        copies = [each.render() for each in (first, *others)]
        after, again = (transform.combine(first, others, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(after.render(), again.render())
        for each, pixels in zip((first, *others), copies, strict=True):
            np.testing.assert_array_equal(each.render(), pixels)
        assert after.canvas == after.image.shape[:2] == first.canvas
        some = extents(after)[:, 2] > 0
        np.testing.assert_allclose(extents(after)[some], after.boxes[some], atol=1.01)
        assert ((after.boxes >= 0) & (after.boxes <= np.tile(np.array(after.canvas)[::-1], 2))).all()
        boxes += len(after)
    assert boxes > 30


@pytest.mark.parametrize("transform", [Mosaic(p=1), MixUp(p=1), CopyPaste(p=1)], ids=repr)
def test_without_other_images_or_objects(transform: Combination) -> None:
    alone = gray(40, (10, 10, 50, 50))
    for given in (transform(alone, np.random.default_rng(0)), prepare(alone, [transform], np.random.default_rng(0))):
        assert (given if isinstance(given, Sample) else given.sample) is alone
    empty = alone.select(np.zeros(1, np.bool_))
    after = transform.combine(empty, [empty] * 3, np.random.default_rng(0))
    assert after.boxes.shape == (0, 4) and after.render().shape == (*SIZE, 3)
    speck = Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    assert transform.combine(speck, [alone] * transform.others, np.random.default_rng(0)).canvas == (1, 1)


def test_proposals_come_along() -> None:
    first, others = four((35, 25, 65, 45))
    samples = [replace(s, proposals=s.boxes + 1) for s in (first, *others)]
    after = Mosaic(low=1, high=1, center=0.5).combine(samples[0], samples[1:], Fixed(0.5))
    assert after.proposals is not None and after.proposals.tolist() == (after.boxes + 1).tolist()


@pytest.mark.parametrize(
    "make", [lambda: Mosaic(low=0), lambda: Mosaic(p=2), lambda: MixUp(alpha=0), lambda: CopyPaste(until=-1)]
)
def test_invalid_settings_are_rejected(make: Any) -> None:
    with pytest.raises(UsageError, match=r"expected p and until in \[0, 1\]"):
        make()
