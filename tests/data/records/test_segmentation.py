"""Masks from files: reading, findings, and the path to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal import presets
from foveal.data.augment.transforms import HorizontalFlip
from foveal.data.convert import convert
from foveal.data.loader.loader import Loader, targets_of
from foveal.data.open import open_dataset
from foveal.data.records import segmentation
from foveal.data.records.dataset import IndexedMask
from foveal.data.records.segmentation import check_masks, masks_of, validate_mask
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError
from foveal.parts.resizing import Letterbox, Resize
from foveal.training.run import train
from tests.helpers.data_sets import HEIGHT, WIDTH, coco, coco_doc

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        ([[]], "polygon-invalid", "has 0 numbers"),
        ([[1, 2, 3, 4]], "polygon-invalid", "at least three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon-invalid", "has 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon-invalid", "not finite"),
        ([[1, 2, 3, 4, 5, 10**400]], "polygon-invalid", "too large"),
        ([[1, 2, 3, 4, 5, "6"]], "polygon-invalid", "a list of numbers"),
        ([[70, 2, 90, 4, 80, 40]], "mask-outside", "outside the image of 64 x 48"),
        ([[1, 2, 1e7, 4, 5, 6]], "mask-outside", "over the edge"),
        ([1, 2, 3, 4, 5, 6], "mask-invalid", "expected a list of polygons"),
        ("text", "mask-invalid", "expected a list of polygons"),
        ({"size": [48, 64], "counts": [100]}, "mask-invalid", "sum to 100, expected 48 x 64 = 3072"),
        ({"size": [48, 64], "counts": [3000, -5, 77]}, "mask-invalid", "one of them is -5"),
        ({"size": [48, 64], "counts": [1.5]}, "mask-invalid", "cannot be read"),
        ({"size": [48, 64], "counts": "~~"}, "mask-invalid", "cannot be read"),
        ({"size": [64, 48], "counts": [3072]}, "mask-size-mismatch", "48 x 64, the image 64 x 48"),
        ({"size": 3, "counts": [3072]}, "mask-invalid", "the size 3"),
    ],
)
def test_invalid_masks_are_reported(value: Any, code: str, words: str) -> None:
    used, problems = validate_mask(value, WIDTH, HEIGHT)
    assert used is None and problems[0][0] == code and words in problems[0][1]


def test_usable_masks_are_retained() -> None:
    assert validate_mask(None, 64, 48) == (None, []) == validate_mask([], 64, 48) == validate_mask({}, 64, 48)
    assert validate_mask([SQUARE], 64, 48) == ([SQUARE], [])
    used, problems = validate_mask([SQUARE, [1, 2]], 64, 48)
    assert used == [SQUARE] and [p[0] for p in problems] == ["polygon-invalid"]
    used, problems = validate_mask([[10, 10, 70, 10, 70, 30]], 64, 48)
    assert used is not None and [p[0] for p in problems] == ["mask-over-edge"]
    empty = {"size": [48, 64], "counts": [3072]}
    assert validate_mask(empty, 64, 48) == (empty, [])  # as in the file
    # the square's rows and columns 10 to 29, and the same as run lengths
    coded = {"size": [48, 64], "counts": [490, *[20, 28] * 19, 20, 48 * 64 - 490 - 48 * 19 - 20]}
    masks = masks_of([[SQUARE], coded, None, empty], 64, 48)
    assert masks.area().tolist() == [400, 400, 0, 0]
    assert masks.extents().tolist() == [[10, 10, 30, 30]] * 2 + [[0] * 4] * 2


def test_reader_reports_invalid_masks(tmp_path: Path) -> None:
    doc = coco_doc()
    for annotation, value in zip(
        doc["annotations"], ([SQUARE], [[1, 2]], None, {"size": [1, 1], "counts": [1]}), strict=False
    ):
        annotation["segmentation"] = value
    dataset = open_dataset(coco(tmp_path, doc))
    assert dataset.records[0].masks == [[SQUARE], None] and dataset.records[1].masks is None
    found = {(f.code, f.where.split(" (")[0]) for f in dataset.findings}
    expected = {("polygon-invalid", "annotation id 2"), ("mask-missing", "annotation id 2")}
    assert found == expected | {("mask-size-mismatch", "annotation id 4")}
    assert "warning: 4 of 5 objects of the dataset have no mask" in check_masks(dataset)


@pytest.mark.parametrize(
    ("value", "pixels"),
    [
        ([[10, 10, 10, 10, 10, 10]], 0),  # a point
        ([[10, 10, 30, 10, 20, 10]], 0),  # a line
        ({"size": [48, 64], "counts": [3072]}, 0),
        ({"size": [48, 64], "counts": [3071, 1]}, 1),
        ([[10, 10, 10, 10, 10, 10], [20, 20, 22, 20, 22, 21, 20, 21]], 2),
        ([[60, 10, 80, 10, 80, 30, 60, 30]], 80),  # over the edge
        ([[10, 10, 40, 10, 40, 10.2, 10, 10.2]], 0),  # an area of 6, and between two rows
    ],
)
def test_empty_mask_is_reported(value: Any, pixels: int, tmp_path: Path) -> None:
    assert masks_of([value], WIDTH, HEIGHT).area().tolist() == [pixels]
    doc = coco_doc()
    doc["annotations"][0]["segmentation"] = value
    dataset = open_dataset(coco(tmp_path, doc))
    named = [f for f in dataset.findings if f.code == "mask-empty"]
    assert [(f.severity, f.where.split(" (")[0]) for f in named] == [("warning", "annotation id 1")] * (not pixels)
    assert dataset.records[0].masks is not None and dataset.records[0].masks[0] == value  # it is scored as it is


def test_voc_masks_are_stored_as_images(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"splits": {"train": 5}, "size": (96, 80), "seed": 2}
    voc = make_shapes(tmp_path / "voc", **sizes).path
    coco_path = make_shapes(tmp_path / "coco", format="coco", **sizes).path
    first, second = open_dataset(voc, split="train"), open_dataset(coco_path)
    again = open_dataset(convert(voc, tmp_path / "again", "coco").path)
    assert check_masks(first) == check_masks(second) == "" and not first.findings
    for a, b, c in zip(first.records, second.records, again.records, strict=True):
        dense = [masks_of(r.masks or [], r.width, r.height).dense() for r in (a, b, c)]
        np.testing.assert_array_equal(dense[0], dense[1])
        np.testing.assert_array_equal(dense[0], dense[2])
        np.testing.assert_array_equal(masks_of(a.masks or [], 96, 80).extents().reshape(-1, 4), a.boxes)
    loader = Loader(first, Resize(80, 120), (), 5, 0, masks=True, shuffle=False)
    other = Loader(second, Resize(80, 120), (), 5, 0, masks=True, shuffle=False)
    assert (next(loader.epoch(0)).targets.masks == next(other.epoch(0)).targets.masks).all()  # type: ignore[union-attr]
    broken = next(r for r in first.records if len(r))
    Image.new("P", (9, 9)).save(voc / "SegmentationObject" / f"{broken.id}.png")
    with pytest.raises(FovealError, match="is no longer 96 x 80"):
        masks_of(broken.masks or [], 96, 80)
    segmentation._bad_image.cache_clear()
    codes = {f.code for f in open_dataset(voc, split="train").findings}
    assert codes == {"mask-size-mismatch"}


def test_boxes_without_masks_are_rejected(tmp_path: Path) -> None:
    path = coco(tmp_path / "data")
    with pytest.raises(FovealError, match="5 boxes and no mask"):
        check_masks(open_dataset(path))
    with pytest.raises(FovealError, match=r"(?s)no mask.*segmentation"):
        train(presets.mask_rcnn_mini, data=path, val=path, out=tmp_path / "run", epochs=1, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rule", [Resize(120, 200), Letterbox(160, 160)], ids=repr)
def test_masks_are_aligned_with_their_boxes(rule: Any, tmp_path: Path) -> None:
    """The boxes of the generated dataset bound its masks, also after every transform."""
    path = make_shapes(tmp_path / "shapes", splits={"train": 6}, size=(96, 80), format="coco", seed=3).path
    dataset = open_dataset(path)
    loader = Loader(dataset, rule, (HorizontalFlip(),), 3, 0, masks=True)
    for batch in loader.epoch(0):
        targets = batch.targets
        assert targets.masks is not None and targets.masks.shape[:2] == targets.boxes.shape[:2]
        for box, runs in zip(targets.boxes[targets.valid], targets.masks[targets.valid].numpy(), strict=True):
            x, top, bottom = runs[runs[:, 2] > runs[:, 1]].T
            np.testing.assert_allclose([x.min(), top.min(), x.max() + 1, bottom.max()], box, atol=1.01)
    bare = next(iter(Loader(dataset, rule, (), 3, 0).epoch(0)))
    assert bare.targets.masks is None
    record = next(r for r in dataset.records if len(r))
    target = targets_of(record, (2.0, 1.5, 3.0, 4.0), masks=True)
    assert target.masks is not None and target.masks.size == (80 * 3 // 2 + 4, 96 * 2 + 3)
    np.testing.assert_allclose(target.masks.extents(), target.boxes, atol=0.51)


def test_an_indexed_mask_prints_as_in_earlier_versions() -> None:
    """The fingerprints of stored runs are computed from this text: a run must still recognize its data."""
    assert repr(IndexedMask("a.png", 3)) == "Drawn(picture='a.png', object=3)"
