"""Random edits of small YOLO sets: none changes the number of objects without a finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.data_sets import image, yolo
from tests.helpers.fuzz_files import silent_changes

LINE = "0 0.50000000 0.50000000 0.25000000 0.25000000\n"


def folders(root: Path) -> Path:
    """``images/train`` with ``labels/train``; every image has objects."""
    yolo(root)
    (root / "labels" / "val" / "c.txt").write_text(LINE)
    return root


def roboflow(root: Path) -> Path:
    """``train/images`` with ``train/labels``."""
    for split, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for k, name in enumerate(names):
            image(root / split / "images" / f"{name}.jpg")
            label = root / split / "labels" / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(LINE + f"1 0.30000000 0.40000000 0.{k + 1}0000000 0.20000000\n")
    splits = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (root / "data.yaml").write_text(splits + "nc: 2\nnames: ['cat', 'dog']\n")
    return root


def beside(root: Path) -> Path:
    """Lists of images with their label files beside them."""
    for name in "abcd":
        image(root / "obj" / f"{name}.jpg")
        (root / "obj" / f"{name}.txt").write_text(LINE)
    (root / "train.txt").write_text("obj/a.jpg\nobj/b.jpg\n")
    (root / "val.txt").write_text("obj/c.jpg\nobj/d.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n")
    return root


def polygons(root: Path) -> Path:
    yolo(root)
    for k, name in enumerate(("train/a", "train/b", "val/c", "val/d")):
        line = f"0 0.10000000 0.2{k}000000 0.60000000 0.20000000 0.50000000 0.80000000\n"
        (root / "labels" / f"{name}.txt").write_text(line)
    return root


@pytest.mark.parametrize(("make", "seed"), [(folders, 11), (roboflow, 12), (beside, 13), (polygons, 14)])
def test_no_edit_loses_objects_in_silence(tmp_path: Path, make: object, seed: int) -> None:
    root = make(tmp_path / "set")  # type: ignore[operator]
    assert silent_changes(root, 175, seed) == []
