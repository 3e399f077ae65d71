"""Label files in any capitals, by Darknet's and Ultralytics' rules, and by the normal forms of names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from foveal.data.open import check_trainable, open_dataset
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import codes
from tests.helpers.data_sets import image

LINE = "1 0.5 0.25 0.5 0.25\n"


def one(root: Path, picture: str, label: str, entry: str = "") -> Dataset:
    """One image with one label file."""
    image(root / picture)
    (root / label).parent.mkdir(parents=True, exist_ok=True)
    (root / label).write_text(LINE)
    (root / "data.yaml").write_text(f"train: {entry or Path(picture).parent}\nnames: [cat, dog]\n")
    return open_dataset(root)


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/train/a.jpg", "labels/train/a.TXT"),
        ("images/train/a.jpg", "labels/train/a.Txt"),
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("Images/train/a.jpg", "labels/train/a.txt"),
        ("images/train/a.jpg", "LABELS/train/a.txt"),
        ("IMAGES/a.JPG", "LABELS/a.TXT"),
        ("JPEGImages/a.jpg", "labels/a.txt"),
        ("jpegimages/a.jpg", "labels/a.txt"),
        ("images/Train/a.jpg", "labels/train/a.txt"),
        ("images/train/x/a.jpg", "labels/train/x/a.txt"),
        ("image/a.jpg", "label/a.txt"),
        ("img/a.jpg", "labels/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),  # the last one counts
        ("obj/a.jpg", "obj/a.txt"),
        ("obj/a.jpg", "obj/a.TXT"),
        ("images/a.jpg", "images/a.txt"),  # beside it, although there might be a folder labels
        ("images/a.b.jpg", "labels/a.b.txt"),
        ("images/a.jpg", "labels/a.jpg.txt"),
    ],
)
def test_where_label_files_are(tmp_path: Path, picture: str, label: str) -> None:
    dataset = one(tmp_path, picture, label)
    assert [len(r) for r in dataset.records] == [1] and not dataset.findings


@pytest.mark.parametrize(
    ("picture", "label", "code"),
    [
        ("IMG_1.jpg", "img_1.txt", "name-capitals"),
        ("caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.txt"), "name-unicode"),
        ("a b.jpg", "a%20b.txt", "name-decoded"),
        ("a b.jpg", "a_b.txt", "name-separators"),
        ("1a2b3c4d-a.jpg", "a.txt", "name-upload"),
    ],
)
def test_other_spellings_are_counted(tmp_path: Path, picture: str, label: str, code: str) -> None:
    dataset = one(tmp_path, f"images/{picture}", f"labels/{label}")
    assert [len(r) for r in dataset.records] == [1] and codes(dataset) == [f"note {code}"]
    assert "1 label file was found" in dataset.findings[0].message and label in dataset.findings[0].message


def test_two_label_files_for_one_image(tmp_path: Path) -> None:
    one(tmp_path, "images/a.jpg", "labels/a.txt")
    (tmp_path / "labels" / "a.TXT").write_text("0 0.5 0.5 0.1 0.1\n")
    dataset = open_dataset(tmp_path)
    if len(list((tmp_path / "labels").iterdir())) == 1:
        pytest.skip("a file system without capitals")
    assert codes(dataset)[:1] == ["warning label-ambiguous"] and "a.TXT" in dataset.findings[0].message
    assert dataset.records[0].labels.tolist() == [1]
    (tmp_path / "labels" / "a.TXT").rename(tmp_path / "labels" / "A-.txt")
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "labels" / "A_.txt")
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "A .jpg")
    dataset = open_dataset(tmp_path)
    error = next(f for f in dataset.findings if f.severity == "error")
    assert error.code == "label-ambiguous" and "A-.txt" in error.message and "A_.txt" in error.message


def test_two_images_with_one_label_file(tmp_path: Path) -> None:
    one(tmp_path, "images/a.jpg", "labels/a.txt")
    image(tmp_path / "images" / "a.png")
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["warning label-shared"] and "a.jpg and to a.png" in dataset.findings[0].message


def test_half_of_the_training_set_in_other_capitals(tmp_path: Path) -> None:
    for folder, images, labels in (("a", "images", "labels"), ("b", "Images", "Labels"), ("c", "JPEGImages", "LABELS")):
        image(tmp_path / folder / images / f"{folder}.jpg")
        (tmp_path / folder / labels).mkdir()
        (tmp_path / folder / labels / f"{folder}.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text("train: [a/images, b/Images]\nval: c/JPEGImages\nnames: [cat, dog]\n")
    dataset = open_dataset(tmp_path)
    assert [len(r) for r in dataset.records] == [1, 1, 1] and not dataset.findings


@pytest.mark.parametrize("place", ["annotations", "labelTxt", "labels_old", "txt"])
def test_labels_in_unknown_folders_are_missed_aloud(tmp_path: Path, place: str) -> None:
    dataset = one(tmp_path, "images/a.jpg", f"{place}/a.txt")
    assert codes(dataset) == ["warning labels-missing"] and "none of the 1 images" in dataset.findings[0].message
    with pytest.raises(FovealError, match="has no box"):
        check_trainable(dataset)


def test_a_list_of_images_in_other_capitals(tmp_path: Path) -> None:
    one(tmp_path, "images/a.jpg", "labels/a.txt", "train.txt")
    (tmp_path / "train.txt").write_text("./images/A.JPG\n")
    dataset = open_dataset(tmp_path)
    assert [len(r) for r in dataset.records] == [1] and codes(dataset) == ["note name-capitals"]
