"""Darknet's .data files, and CVAT's YOLO 1.1 export, which has one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foveal.data.open import open_dataset
from foveal.errors import FovealError
from tests.data.recognition.test_plain_yolo import codes, counts, labeled


def darknet(
    root: Path, data: str = "classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\n"
) -> None:
    """``data/obj/*.jpg`` with labels beside them, as Darknet's instructions have it."""
    labeled(root / "data" / "obj", root / "data" / "obj", classes=root / "data" / "obj.names")
    (root / "data" / "obj.data").write_text(data)
    (root / "data" / "train.txt").write_text("data/obj/a.jpg\ndata/obj/b.jpg\n")
    (root / "data" / "test.txt").write_text("data/obj/c.jpg\ndata/obj/d.jpg\n")


@pytest.mark.parametrize("given", [".", "data", "data/obj.data"])
def test_darknet(tmp_path: Path, given: str) -> None:
    darknet(tmp_path)
    dataset = open_dataset(tmp_path / given)
    assert dataset.splits == ("train", "val") and not dataset.findings and dataset.classes == ("cat", "dog")
    assert counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2}
    assert counts(open_dataset(tmp_path / given, split="val")) == {"c": 0, "d": 2}


def test_paths_of_the_machine_where_darknet_ran(tmp_path: Path) -> None:
    darknet(tmp_path)
    data = tmp_path / "data"
    (data / "obj.data").rename(tmp_path / "voc.data")
    text = "train=/home/u/darknet/data/train.txt\nvalid=C:\\darknet\\data\\test.txt\nnames=build/x64/data/obj.names\n"
    (tmp_path / "voc.data").write_text(text)
    (data / "train.txt").write_text("/home/u/darknet/data/obj/a.jpg\nC:\\darknet\\data\\obj\\b.jpg\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2}


def test_cvats_yolo_export(tmp_path: Path) -> None:
    """Its paths begin with data/, which is not in the archive."""
    labeled(tmp_path / "obj_train_data", tmp_path / "obj_train_data", classes=tmp_path / "obj.names")
    text = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(text)
    (tmp_path / "train.txt").write_text("".join(f"data/obj_train_data/{name}.jpg\n" for name in "abcd"))
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train",) and counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2} and not dataset.findings


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("train = data/train.txt\n", "error classes-missing"),
        ("train = data/train.txt\nnames = data/none.names\n", "error classes-missing"),
        ("train = data/none.txt\nnames = data/obj.names\n", "error split-missing"),
        ("names = data/obj.names\n", "error split-missing"),
        ("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n", "warning class-count"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, data: str, code: str) -> None:
    darknet(tmp_path, data)
    assert code in codes(open_dataset(tmp_path / "data" / "obj.data"))


def test_the_names_of_files_in_capitals(tmp_path: Path) -> None:
    darknet(tmp_path)
    os.rename(tmp_path / "data" / "obj.data", tmp_path / "data" / "OBJ.DATA")
    assert len(open_dataset(tmp_path / "data" / "OBJ.DATA")) == 4


def test_the_same_list_for_both_splits_is_told(tmp_path: Path) -> None:
    from foveal.data.open import split_pair

    darknet(tmp_path, "train = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\n")
    _, valid, _ = split_pair(tmp_path)
    assert codes(valid) == ["warning image-in-two-splits"] * 2


def test_a_data_file_of_another_kind_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "model.data").write_bytes(bytes(range(256)))
    with pytest.raises(FovealError, match="holds no dataset"):
        open_dataset(tmp_path)
