"""LabelMe's files: shapes, groups, embedded images, names."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.data.records.segmentation import masks_of
from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH, image
from tests.helpers.tool_formats import labelme, labelme_doc


def one(root: Path, shapes: list[Any], **more: Any) -> Dataset:
    image(root / "a.jpg")
    (root / "a.json").write_text(json.dumps({**labelme_doc("a", []), "shapes": shapes, **more}))
    return open_dataset(root)


def shape(kind: str, points: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def codes(dataset: Dataset) -> list[str]:
    return [f"{f.severity} {f.code}" for f in dataset.findings]


def test_polygons_have_masks(tmp_path: Path) -> None:
    dataset = one(tmp_path, [shape("polygon", [[4, 5], [20, 5], [20, 30.5]]), shape("rectangle", [[1, 2], [3, 4]])])
    (record,) = dataset.records
    assert record.boxes.tolist() == [[4, 5, 20, 30.5], [1, 2, 3, 4]] and not dataset.findings
    assert record.masks == [[[4, 5, 20, 5, 20, 30.5]], None]


def test_circles_are_boxes_with_masks(tmp_path: Path) -> None:
    (record,) = one(tmp_path, [shape("circle", [[30, 20], [33, 24]])]).records
    assert record.boxes.tolist() == [[25, 15, 35, 25]]
    area = int(masks_of(record.masks or [], WIDTH, HEIGHT).area()[0])
    assert abs(area - np.pi * 25) < 4


def test_masks_are_bitmaps(tmp_path: Path) -> None:
    bits = np.zeros((5, 4), np.uint8)
    bits[1:4, 1:3] = 255
    file = io.BytesIO()
    Image.fromarray(bits).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    dataset = one(
        tmp_path, [shape("mask", [[10, 20], [13, 24]], mask=text), shape("mask", [[10, 20], [13, 24]], mask="x")]
    )
    (record,) = dataset.records
    assert record.boxes.tolist() == [[11, 21, 13, 24]] and codes(dataset) == ["warning shape-invalid"]
    dense = masks_of(record.masks or [], WIDTH, HEIGHT).dense()[0]
    assert dense[21:24, 11:13].all() and dense.sum() == 6


def test_a_group_of_polygons_is_one_object(tmp_path: Path) -> None:
    parts = [shape("polygon", [[x, 5], [x + 5, 5], [x + 5, 10]], group_id=1) for x in (4, 20)]
    boxes = [shape("rectangle", [[1, 2], [3, 4]], group_id=1), shape("rectangle", [[6, 2], [9, 4]], group_id=1)]
    other = shape("polygon", [[40, 5], [45, 5], [45, 10]], "dog", group_id=1)
    dataset = one(tmp_path, [*parts, *boxes, other])
    (record,) = dataset.records
    assert record.boxes.tolist() == [[4, 5, 25, 10], [1, 2, 3, 4], [6, 2, 9, 4], [40, 5, 45, 10]]
    assert codes(dataset) == ["note shapes-grouped"] and record.masks is not None and len(record.masks[0]) == 2  # type: ignore[arg-type]


def test_shapes_that_are_no_objects_are_told(tmp_path: Path) -> None:
    shapes = [shape("point", [[1, 2]]), shape("point", [[1, 3]]), shape("linestrip", [[1, 2], [3, 4]])]
    shapes += [shape("polygon", [[1, 2], [3, 4]]), shape("rectangle", [[1, "x"], [3, 4]]), shape("rectangle", None), 7]  # type: ignore[list-item]
    shapes += [shape("rectangle", [[5, 5], [9, 9]], label) for label in (None, "", 3)]
    dataset = one(tmp_path, shapes)
    (record,) = dataset.records
    assert len(record) == 1 and dataset.classes == ("3",)
    assert sorted(codes(dataset)) == [
        *("warning annotation-invalid", "warning class-missing", "warning class-missing", "warning shape-invalid"),
        *("warning shape-invalid", "warning shape-invalid", "warning shape-without-area", "warning shape-without-area"),
    ]
    assert "2 shapes of the kind 'point'" in " ".join(f.message for f in dataset.findings)


def test_the_first_versions_have_polygons_without_a_kind(tmp_path: Path) -> None:
    old = {"label": "cat", "line_color": None, "fill_color": None, "points": [[4, 5], [20, 5], [20, 30]]}
    (record,) = one(tmp_path, [old], imageHeight=None, imageWidth=None).records
    assert record.boxes.tolist() == [[4, 5, 20, 30]]


def test_flags_and_four_corners(tmp_path: Path) -> None:
    """X-AnyLabeling writes the four corners of a rectangle, and ``difficult``."""
    shapes = [
        shape("rectangle", [[1, 2], [9, 2], [9, 8], [1, 8]], difficult=True),
        shape("rectangle", [[11, 2], [19, 8]], flags={"crowd": True, "difficult": False}),
        shape("rotation", [[30, 10], [35, 15], [30, 20], [25, 15]], direction=0.78),
    ]
    (record,) = one(tmp_path, shapes).records
    assert record.boxes.tolist() == [[1, 2, 9, 8], [11, 2, 19, 8], [25, 10, 35, 20]]
    assert record.difficult.tolist() == [True, False, False] and record.crowd.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("a.jpg", ""),
        ("..\\photos\\a.jpg", ""),
        ("/home/u/a.jpg", ""),
        ("A.JPG", "note name-"),
        ("a.png", "note name-"),
        ("old.jpg", "warning image-renamed"),
        ("", ""),
        (None, ""),
    ],
)
def test_how_the_image_is_found(tmp_path: Path, named: str | None, code: str) -> None:
    dataset = one(tmp_path, [shape("rectangle", [[1, 2], [3, 4]])], imagePath=named)
    assert [len(r) for r in dataset.records] == [1]
    assert (codes(dataset) or [""])[0].startswith(code) and len(codes(dataset)) == bool(code)


def test_annotations_beside_the_images(tmp_path: Path) -> None:
    labelme(tmp_path / "set")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "photos").mkdir()
    for path in sorted((tmp_path / "set").iterdir()):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace('"imagePath": "', '"imagePath": "../photos/'))
            shutil.move(path, tmp_path / "set" / "labels")
        elif path.suffix == ".jpg":
            shutil.move(path, tmp_path / "set" / "photos")
    for given in ("set", "set/labels", "set/labels/a.json"):
        dataset = open_dataset(tmp_path / given)
        assert len(dataset) == (1 if given.endswith("json") else 4) and not dataset.findings


def test_a_size_that_is_another_images(tmp_path: Path) -> None:
    dataset = one(tmp_path, [shape("rectangle", [[1, 2], [3, 4]])], imageWidth=100)
    assert not dataset.records and codes(dataset) == ["warning image-size-mismatch"]
    dataset = one(tmp_path, [shape("rectangle", [[1, 2], [3, 4]])], imageWidth="wide")
    assert len(dataset) == 1 and codes(dataset) == ["warning size-invalid"]


def test_two_files_of_one_image(tmp_path: Path) -> None:
    labelme(tmp_path)
    shutil.copy(tmp_path / "a.json", tmp_path / "a (copy).json")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == len(BOXES) and codes(dataset) == ["warning image-repeated"]


def test_splits_are_folders(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("val", "cd")):
        (tmp_path / split).mkdir()
        for name in names:
            image(tmp_path / split / f"{name}.jpg")
            (tmp_path / split / f"{name}.json").write_text(json.dumps(labelme_doc(name, BOXES[name])))
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and len(dataset) == 4 and not dataset.findings
    assert [r.id for r in open_dataset(tmp_path, split="val").records] == ["c", "d"]


def test_a_file_beside_an_image_that_is_none(tmp_path: Path) -> None:
    labelme(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    assert codes(open_dataset(tmp_path)) == ["error annotation-unreadable"]
    (tmp_path / "a.json").write_text("")
    assert codes(open_dataset(tmp_path)) == ["error annotation-unreadable"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    labelme(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_bytes(path.read_text().replace("dog", "Köter").encode(encoding))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("Köter", "cat") and len(dataset) == 4 and not dataset.findings


def test_flags_that_are_not_kept_are_told(tmp_path: Path) -> None:
    shapes = [
        shape("rectangle", [[1, 2], [9, 8]], flags={"occluded": True, "blurred": False}),
        shape("rectangle", [[20, 2], [29, 8]], flags={"difficult": "perhaps"}),
    ]
    dataset = one(tmp_path, shapes)
    assert sorted(codes(dataset)) == ["note attributes-ignored", "warning flag-invalid"]
    assert "occluded" in dataset.findings[1].message and "blurred" not in dataset.findings[1].message
