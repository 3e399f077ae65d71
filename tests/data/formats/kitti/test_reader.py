"""KITTI's label files: regions to ignore, two cameras, lists of splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.data.convert import convert
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import BOXES, image

REST = "1.5 1.6 3.7 1.0 2.0 20.0 0.1"


def kitti(root: Path, labels: str = "label_2", images: str = "image_2", extra: str = "") -> None:
    for k, boxes in enumerate(BOXES.values()):
        image(root / images / f"{k:06}.png")
        path = root / labels / f"{k:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{c} 0.00 0 -1.57 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} {REST}" for c, x1, y1, x2, y2 in boxes]
        path.write_text("\n".join([*lines, *([extra] if k == 0 and extra else [])]) + "\n")


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


def test_the_layout_of_kitti(tmp_path: Path) -> None:
    """The images of the right camera have the same names, and those for testing have no labels."""
    kitti(tmp_path / "training")
    image(tmp_path / "training" / "image_3" / "000000.png")
    image(tmp_path / "testing" / "image_2" / "000000.png")
    dataset = open_dataset(tmp_path)
    assert dataset.format == "kitti" and dataset.classes == ("cat", "dog") and dataset.splits == ("train",)
    assert [len(r) for r in dataset.records] == [2, 1, 0, 2] and codes(dataset) == ["note attributes-ignored"]
    assert dataset.records[0].boxes.tolist() == [[4, 5, 20, 30], [10, 10, 40, 40]]
    assert all("image_2" in r.path.parts and "training" in r.path.parts for r in dataset.records)


def test_regions_to_ignore_are_crowd_in_every_class(tmp_path: Path) -> None:
    kitti(tmp_path, extra="DontCare -1 -1 -10 50 5 60 40 -1 -1 -1 -1000 -1000 -1000 -10")
    dataset = open_dataset(tmp_path)
    record = dataset.records[0]
    assert dataset.classes == ("cat", "dog") and record.labels.tolist() == [0, 1, 0, 1]
    assert record.crowd.tolist() == [False, False, True, True]
    assert codes(dataset) == ["note attributes-ignored", "note region-ignored"]
    written = convert(tmp_path, tmp_path.parent / f"{tmp_path.name}-coco", "coco")
    assert open_dataset(written.path).records[0].crowd.tolist() == record.crowd.tolist()


@pytest.mark.parametrize(("labels", "images"), [("labels", "images"), (".", "."), ("label_2", "photos")])
def test_other_folders(tmp_path: Path, labels: str, images: str) -> None:
    kitti(tmp_path, labels, images)
    assert [len(r) for r in open_dataset(tmp_path).records] == [2, 1, 0, 2]


def test_lists_of_splits(tmp_path: Path) -> None:
    kitti(tmp_path / "training")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("000000\n000001\n000002\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("000003\n")
    (tmp_path / "ImageSets" / "trainval.txt").write_text("000000\n000001\n000002\n000003\n")
    assert open_dataset(tmp_path).splits == ("train", "val") and len(open_dataset(tmp_path, split="val")) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("cat 0.00 0 -1.57 1 2 3 4", "error line-columns"),
        (f"cat 0.00 0 -1.57 1 two 3 4 {REST}", "warning box-not-number"),
        (f"cat 0.00 0 -1.57 1 2 3 4 {REST} 0.7", "warning scores-ignored"),
        (f"cat 0.00 0 -1.57 9 2 3 4 {REST}", "warning box-inverted"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path: Path, line: str, code: str) -> None:
    kitti(tmp_path, extra=line)
    assert code in codes(open_dataset(tmp_path))


def test_an_image_without_labels_is_told(tmp_path: Path) -> None:
    kitti(tmp_path)
    image(tmp_path / "image_2" / "000009.png")
    (tmp_path / "label_2" / "000001.txt").unlink()
    (tmp_path / "label_2" / "000077.txt").write_text(f"cat 0.00 0 -1.57 1 2 3 4 {REST}\n")
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["note attributes-ignored", "warning annotation-missing", "warning image-missing"]
    assert "2 images" in next(f for f in dataset.findings if f.code == "annotation-missing").message


def test_a_type_may_have_spaces(tmp_path: Path) -> None:
    kitti(tmp_path, extra=f"Person sitting 0.00 0 -1.57 1 2 3 4 {REST}")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("Person sitting", "cat", "dog") and len(dataset.records[0]) == 3


def test_the_same_names_in_two_folders(tmp_path: Path) -> None:
    for n, drive in enumerate(("drive_1", "drive_2")):
        kitti(tmp_path / drive)
        for path in (tmp_path / drive).rglob("*.png"):
            image(path, seed=n)
    assert [len(r) for r in open_dataset(tmp_path).records] == [2, 1, 0, 2] * 2
