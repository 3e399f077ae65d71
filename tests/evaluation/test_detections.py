"""Reading and writing detections: errors name the file and the record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foveal.errors import FovealError, UsageError
from foveal.evaluation import (
    DetectionTable,
    GroundTruth,
    read_detections,
    read_text_detections,
    save_detections,
    score_detections,
)

GOOD = {"image_id": 9, "category_id": 18, "bbox": [1.5, 2.0, 10.0, 20.0], "score": 0.5}


@pytest.fixture
def truth() -> GroundTruth:
    boxes = [[0, 0, 10, 10], [5, 5, 30, 40]]
    sizes = [(40, 60), (40, 60), (40, 60)]
    return GroundTruth.build([9, 25, 30], ["cat", "big cat"], [0, 1], [0, 1], boxes, sizes=sizes, category_ids=(18, 3))


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


# ---------------------------------------------------------------------------------------------------- COCO
def test_coco_uses_the_original_category_ids(tmp_path: Path, truth: GroundTruth) -> None:
    rows = [GOOD, {**GOOD, "image_id": 25, "category_id": 3, "score": 1, "segmentation": {}}]
    found = read_detections(write(tmp_path / "d.json", rows), truth)
    assert found.image.tolist() == [0, 1] and found.label.tolist() == [0, 1]
    assert found.box.tolist() == [[1.5, 2.0, 11.5, 22.0]] * 2 and found.score.tolist() == [0.5, 1.0]
    assert found.pixels().tolist() == [200.0, 200.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": float("nan")}, "score is nan"),
        ({"score": "0.5"}, "score is '0.5'"),
        ({"score": None}, "score is None"),
        ({"score": True}, "score is True"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "four finite numbers"),
        ({"bbox": {"x": 1}}, "four finite numbers"),
        ({"bbox": "1234"}, "four finite numbers"),
        ({"category_id": ["cat"]}, r"category_id is \['cat'\]"),
        ({"category_id": "cow"}, "unknown class 'cow'; 1 unknown in all: cow.*dataset: cat, big cat"),
        ({"category_id": 99}, "unknown category id 99"),
        ({"image_id": None}, "image_id is None"),
        ({"image_id": [9]}, r"image_id is \[9\]"),
        ({"image_id": 7}, "1 of 2 image ids are not in the dataset: 7.*3 images: 9, 25, 30"),
    ],
)
def test_coco_errors_name_file_and_record(tmp_path: Path, truth: GroundTruth, change: Any, words: str) -> None:
    path = write(tmp_path / "some.json", [GOOD, {**GOOD, **change}])
    with pytest.raises(FovealError, match=words) as e:
        read_detections(path, truth)
    assert "some.json" in str(e.value)
    assert "image ids" in words or "record 1" in str(e.value)


@pytest.mark.parametrize("key", list(GOOD))
def test_coco_missing_keys(tmp_path: Path, truth: GroundTruth, key: str) -> None:
    path = write(tmp_path / "some.json", [GOOD, GOOD, {k: v for k, v in GOOD.items() if k != key}])
    with pytest.raises(FovealError, match=f"record 2: '{key}' is missing"):
        read_detections(path, truth)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{]", "line 1, column"),
        ('{"images": []}', "expected a list of detections, got dict"),
        ("3", "got int"),
        ("[3]", "record 0: expected an object, got 3"),
        ("[" * 100_000, "cannot be read|not JSON"),
        ("", "not JSON"),
        ("9" * 5000, "cannot be read"),
    ],
)
def test_invalid_coco_files(tmp_path: Path, truth: GroundTruth, text: str, words: str) -> None:
    with pytest.raises(FovealError, match=words) as e:
        read_detections(write(tmp_path / "some.json", text), truth)
    assert "some.json" in str(e.value)


def test_binary_and_missing_files(tmp_path: Path, truth: GroundTruth) -> None:
    (tmp_path / "some.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(FovealError, match=r"some\.json"):
        read_detections(tmp_path / "some.json", truth)
    with pytest.raises(FovealError, match="no such file"):
        read_detections(tmp_path / "none.json", truth)


def test_no_detections_are_accepted(tmp_path: Path, truth: GroundTruth) -> None:
    found = read_detections(write(tmp_path / "d.json", []), truth)
    results = score_detections(truth, found)
    assert len(found) == 0 and results.headline == 0.0 and "no detections at all" in results.notes[0]
    assert score_detections(truth, found, "voc07").headline == 0.0


def test_unknown_classes_are_dropped_on_request(tmp_path: Path, truth: GroundTruth) -> None:
    path = write(tmp_path / "d.json", [GOOD, {**GOOD, "category_id": 44}])
    assert len(read_detections(path, truth, unknown_classes="drop")) == 1


def test_numeric_strings_as_ids(tmp_path: Path) -> None:
    """VOC and YOLO datasets identify images by file name; tools write 9 for 000000000009."""
    truth = GroundTruth.build(["000000000009", "2007_000032"], ["cat"], [0], [0], [[0, 0, 10, 10]])
    row = {**GOOD, "category_id": 1}
    path = write(tmp_path / "d.json", [row, {**row, "image_id": "2007_000032"}])
    assert read_detections(path, truth).image.tolist() == [0, 1]
    with pytest.raises(FovealError, match="not in the dataset: 2007000032"):
        read_detections(write(tmp_path / "d.json", [{**row, "image_id": 2007000032}]), truth)
    with pytest.raises(FovealError, match="numbered from 1"):
        read_detections(write(tmp_path / "d.json", [{**row, "category_id": 0}]), truth)


# ----------------------------------------------------------------------------------------------------- VOC
def voc(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


def test_voc_boxes_are_1_based(tmp_path: Path) -> None:
    truth = GroundTruth.build(["2007_000001", "img"], ["cat", "big_cat"], [0], [0], [[0, 0, 10, 10]])
    voc(tmp_path, "comp3_det_test_cat.txt", "2007_000001 0.5 1 1 10 10\n\nimg 0.25 2.5 3 4 5\n")
    voc(tmp_path, "comp3_det_test_big_cat.txt", "img 1e-3 1 2 3 4\n")
    found = read_detections(tmp_path, truth)
    assert found.label.tolist() == [1, 0, 0] and found.image.tolist() == [1, 0, 1]
    assert found.box.tolist() == [[0, 1, 3, 4], [0, 0, 10, 10], [1.5, 2, 4, 5]]
    assert score_detections(truth, found, "voc10").per_class["cat"]["AP"] == 1.0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("comp4_det_val_cat.txt", "img 0.5 1 1 10\n", "comp4_det_val_cat.txt: line 1: got 'img 0.5 1 1 10'"),
        ("comp4_det_val_cat.txt", "img 0.5 1 1 10 9\nimg nan 1 1 10 9\n", "line 2"),
        ("comp4_det_val_cat.txt", "img x 1 1 10 9\n", "line 1"),
        ("comp4_det_val_cat.txt", "other 0.5 1 1 10 9\n", "not in the dataset: other.*1 images: img"),
        ("comp4_det_val_dog.txt", "", "does not end with a class"),
        ("results.txt", "", "no comp3_det"),
    ],
)
def test_voc_errors(tmp_path: Path, name: str, text: str, words: str) -> None:
    truth = GroundTruth.build(["img"], ["cat"], [0], [0], [[0, 0, 10, 10]])
    with pytest.raises(FovealError, match=words):
        read_detections(voc(tmp_path, name, text), truth)


def test_voc_two_files_of_one_class(tmp_path: Path) -> None:
    truth = GroundTruth.build(["img"], ["cat"], [0], [0], [[0, 0, 10, 10]])
    voc(tmp_path, "comp3_det_val_cat.txt", "")
    assert len(read_detections(tmp_path, truth)) == 0  # an empty file is fine
    voc(tmp_path, "comp4_det_val_dog.txt", "img 0.5 1 1 10 9\n")
    assert len(read_detections(tmp_path, truth, unknown_classes="drop")) == 0
    voc(tmp_path, "comp4_det_val_cat.txt", "")
    with pytest.raises(FovealError, match="second file for class 'cat'"):
        read_detections(tmp_path, truth, unknown_classes="drop")


# ------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("format", ["coco", "voc"])
def test_written_detections_round_trip(tmp_path: Path, truth: GroundTruth, format: Any) -> None:
    rng = np.random.default_rng(0)
    low = rng.random((40, 2)) * 30
    box = np.concatenate([low, low + rng.random((40, 2)) * 30], 1)
    found = DetectionTable.build(rng.integers(0, 3, 40), np.sort(rng.integers(0, 2, 40)), box, rng.random(40))
    path = tmp_path / "deep" / ("d.json" if format == "coco" else "results")
    save_detections(found, truth, path, format)
    back = read_detections(path, truth)
    back = back[np.argsort(back.label, kind="stable")]  # VOC: a file a class, in the order of the names
    assert back.image.tolist() == found.image.tolist() and back.score.tolist() == found.score.tolist()
    np.testing.assert_allclose(back.box, found.box, rtol=0, atol=1e-12)


def test_output_formats(tmp_path: Path, truth: GroundTruth) -> None:
    found = DetectionTable.build([1], [1], [[0, 1, 10, 20]], [0.5])
    save_detections(found, truth, tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text()) == [
        {"image_id": 25, "category_id": 3, "bbox": [0.0, 1.0, 10.0, 19.0], "score": 0.5}
    ]
    save_detections(found, truth, tmp_path, "voc", split="test", competition=3)
    assert (tmp_path / "comp3_det_test_big cat.txt").read_text() == "25 0.5 1.0 2.0 10.0 20.0\n"
    assert (tmp_path / "comp3_det_test_cat.txt").read_text() == ""
    with pytest.raises(UsageError, match="coco or voc"):
        save_detections(found, truth, tmp_path / "x", "yolo")  # type: ignore[arg-type]
    spaced = GroundTruth.build(["a b"], ["x"], [], [], [])
    with pytest.raises(FovealError, match="'a b' has a space"):
        save_detections(DetectionTable.build([], [], [], []), spaced, tmp_path, "voc")


# ---------------------------------------------------------------------------------------------------- text
def test_ids_that_are_not_utf_8(tmp_path: Path) -> None:
    truth = GroundTruth.build(["a\udcff"], ["x"], [0], [0], [[0, 0, 5, 5]])
    found = DetectionTable.build([0], [0], [[0, 0, 5, 5]], [0.5])
    with pytest.raises(FovealError, match=r"not UTF-8"):
        save_detections(found, truth, tmp_path / "voc", "voc")
    save_detections(found, truth, tmp_path / "found.json")
    assert read_detections(tmp_path / "found.json", truth).image.tolist() == [0]


def test_text_errors(tmp_path: Path, truth: GroundTruth) -> None:
    with pytest.raises(FovealError, match=r"no \.txt file"):
        read_text_detections(tmp_path, truth)
    voc(tmp_path, "9.txt", "cat 0.5 0 0 10 10\n")
    voc(tmp_path, "25.txt", "")
    assert read_text_detections(tmp_path, truth).image.tolist() == [0]
    with pytest.raises(FovealError, match=r"9\.txt: line 1: unknown class 'cow'"):
        read_text_detections(voc(tmp_path, "9.txt", "cow 0.5 0 0 10 10\n"), truth)
    with pytest.raises(FovealError, match=r"7\.txt.*not in the dataset: 7"):
        read_text_detections(voc(tmp_path, "7.txt", ""), truth)


# -------------------------------------------------------------------------------------------------- arrays
def test_detection_table_from_objects_with_arrays() -> None:
    def answer(n: int) -> SimpleNamespace:
        return SimpleNamespace(
            boxes=np.ones((n, 4), np.float32), scores=np.full(n, 0.5, np.float32), labels=np.arange(n)
        )

    found = DetectionTable.of([answer(2), answer(0), answer(1)])
    assert found.image.tolist() == [0, 0, 2] and found.label.tolist() == [0, 1, 0]
    assert found.box.dtype == np.float64 and len(DetectionTable.of([])) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DetectionTable.build([0], [0], [[0, 0, 1, 1]], [float("nan")]), "score of row 0 is nan"),
        (lambda: DetectionTable.build([0], [0], [[0, 0, 1, float("inf")]], [1]), "box of row 0"),
        (lambda: DetectionTable.build([0], [0, 1], [[0, 0, 1, 1]], [1]), r"label has shape \(2,\)"),
        (lambda: GroundTruth.build([1, 2, 1], ["x"], [], [], []), "image id 1 occurs twice"),
        (lambda: GroundTruth.build([1], ["x"], [0], [1], [[0, 0, 1, 1]]), r"label 1 \(row 0\) is not in 0..0"),
        (lambda: GroundTruth.build([1], ["x"], [-1], [0], [[0, 0, 1, 1]]), "image -1"),
        (lambda: GroundTruth.build([1], ["x"], [], [], [], sizes=[(1, 1)] * 2), "2 sizes for 1 images"),
        (lambda: GroundTruth.build([1], ["x"], [], [], [], category_ids=[1, 2]), "2 category ids for 1 classes"),
    ],
)
def test_arrays_are_checked(make: Any, words: str) -> None:
    with pytest.raises(FovealError, match=words):
        make()


def test_detections_must_match_the_ground_truth(truth: GroundTruth) -> None:
    with pytest.raises(FovealError, match="image of a detection 3"):
        score_detections(truth, DetectionTable.build([3], [0], [[0, 0, 1, 1]], [1]))
    with pytest.raises(FovealError, match="label of a detection 2"):
        score_detections(truth, DetectionTable.build([0], [2], [[0, 0, 1, 1]], [1]))


def test_torch_is_never_imported() -> None:
    code = "import sys, foveal.evaluation; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_classes_that_differ_in_capitals_on_a_disk_that_does_not_tell_them_apart(tmp_path: Path) -> None:
    """The second file would replace the first one."""
    truth = GroundTruth.build([1], ["Cat", "cat"], [0, 0], [0, 1], [[0, 0, 9, 9], [3, 3, 8, 8]])
    found = DetectionTable.build([0, 0], [0, 1], [[0, 0, 9, 9], [3, 3, 8, 8]], [0.9, 0.8])
    save_detections(found, truth, tmp_path / "exact", "voc")
    assert sorted(path.name[-8:] for path in (tmp_path / "exact").iterdir()) == ["_Cat.txt", "_cat.txt"]
    (tmp_path / "folding").mkdir()
    (tmp_path / "folding" / ".CASE-PROBE").touch()  # as if the probe had this name too
    with pytest.raises(FovealError, match="'Cat' and 'cat' would be one file here"):
        save_detections(found, truth, tmp_path / "folding", "voc")
