"""Lists of images with their boxes, as keras-yolo3 and its descendants train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import BOXES, CLASSES
from tests.helpers.tool_formats import images


def lines(prefix: str, names: str = "abcd") -> str:
    found = []
    for name in names:
        boxes = "".join(f" {x1},{y1},{x2},{y2},{CLASSES.index(c)}" for c, x1, y1, x2, y2 in BOXES[name])
        found.append(f"{prefix}{name}.jpg{boxes}\n")
    return "".join(found)


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


@pytest.mark.parametrize("prefix", ["", "images/", "/home/u/VOC 2007/JPEGImages/", "C:\\my data\\"])
def test_lists(tmp_path: Path, prefix: str) -> None:
    images(tmp_path, "images")
    (tmp_path / "2007_train.txt").write_text(lines(prefix, "ab"))
    (tmp_path / "2007_val.txt").write_text(lines(prefix, "cd"))
    (tmp_path / "model_data").mkdir()
    (tmp_path / "model_data" / "voc_classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path)
    assert dataset.format == "list" and dataset.splits == ("train", "val") and dataset.classes == ("cat", "dog")
    assert [len(r) for r in dataset.records] == [2, 1, 0, 2]
    assert dataset.records[0].boxes.tolist() == [[4, 5, 20, 30], [10, 10, 40, 40]]
    assert not [f for f in dataset.findings if f.severity != "note"]


def test_boxes_that_cannot_be_read(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "train.txt").write_text(lines("").replace("4,5,20,30,0", "4,5,20,30").replace("1,2,3,4,0", "1,2,,4,0"))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["note classes-numbered", "warning box-not-number", "warning box-not-number"]
    assert dataset.classes == ("0", "1") and [len(r) for r in dataset.records] == [1, 1, 0, 1]


def test_one_list_given_alone(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "train.txt").write_text(lines(""))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path / "train.txt")
    assert dataset.classes == ("cat", "dog") and [len(r) for r in dataset.records] == [2, 1, 0, 2]
