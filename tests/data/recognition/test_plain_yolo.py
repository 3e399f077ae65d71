"""YOLO labels without a yaml: as LabelImg, makesense, Label Studio, Roboflow and CVAT write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError
from tests.helpers.data_sets import BOXES, image, yolo_line

NAMES = "cat\ndog\n"


def labeled(
    images: Path, labels: Path, names: str = "abcd", classes: Path | None = None, text: str | None = NAMES
) -> None:
    """The images ``names`` in one folder and their label files in another, and a list of classes."""
    for name in names:
        image(images / f"{name}.jpg")
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{name}.txt").write_text("".join(map(yolo_line, BOXES[name])))
    if classes is not None and text is not None:
        classes.write_text(text)


def counts(dataset: Dataset) -> dict[str, int]:
    return {str(r.id): len(r) for r in dataset.records}


def codes(dataset: Dataset) -> list[str]:
    return [f"{f.severity} {f.code}" for f in dataset.findings]


@pytest.mark.parametrize("place", ["labels/classes.txt", "classes.txt", "obj.names", "labels/Classes.TXT", "voc.names"])
@pytest.mark.parametrize("layout", [("images", "labels"), (".", "."), ("photos", "annotations"), ("images", "txt")])
def test_a_list_of_classes_replaces_the_yaml(tmp_path: Path, place: str, layout: tuple[str, str]) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    if layout[1] == "labels" or "/" not in place:
        labeled(tmp_path / layout[0], tmp_path / layout[1], classes=tmp_path / place)
    else:
        labeled(tmp_path / layout[0], tmp_path / layout[1], classes=tmp_path / layout[1] / Path(place).name)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "yolo" and dataset.classes == ("cat", "dog") and not dataset.findings
    assert counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2} and dataset.splits == ()
    assert dataset.records[0].boxes.round(4).tolist() == [[4, 5, 20, 30], [10, 10, 40, 40]]


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("words", [("train", "val"), ("train", "valid"), ("Train", "Test"), ("training", "validation")])
def test_folders_are_splits(tmp_path: Path, above: bool, words: tuple[str, str]) -> None:
    for word, names in zip(words, ("ab", "cd"), strict=True):
        places = [f"{word}/images", f"{word}/labels"] if above else [f"images/{word}", f"labels/{word}"]
        labeled(tmp_path / places[0], tmp_path / places[1], names)
    (tmp_path / "classes.txt").write_text(NAMES)
    dataset = open_dataset(tmp_path)
    assert not dataset.findings and set(dataset.splits) == {"train", "val" if words[1] != "Test" else "test"}
    assert counts(open_dataset(tmp_path, split="train")) == {"a": 2, "b": 1} and len(dataset) == 4


def test_lists_of_images_are_splits(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt")
    (tmp_path / "train.txt").write_text("images/a.jpg\n./images/b.jpg\n")
    (tmp_path / "val.txt").write_text("/elsewhere/set/images/c.jpg\n")
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and counts(dataset) == {"a": 2, "b": 1, "c": 0}
    assert codes(dataset) == ["warning images-unlisted"] and "d.jpg" in dataset.findings[0].message


def test_label_studio(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels")
    notes = {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {"year": 2024}}
    (tmp_path / "notes.json").write_text(json.dumps(notes))
    assert open_dataset(tmp_path).classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text(NAMES)
    assert not open_dataset(tmp_path).findings
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert codes(open_dataset(tmp_path)) == ["error classes-ambiguous"]


def test_roboflows_darknet_export(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        labeled(tmp_path / split, tmp_path / split, names, tmp_path / split / "_darknet.labels")
    dataset = open_dataset(tmp_path)
    assert (
        set(dataset.splits) == {"train", "val", "test"} and not dataset.findings and dataset.classes == ("cat", "dog")
    )


def test_lists_in_every_folder_must_agree(tmp_path: Path) -> None:
    """LabelImg appends to the classes.txt of each folder in the order in which classes are used."""
    labeled(tmp_path / "train", tmp_path / "train", "ab", tmp_path / "train" / "classes.txt")
    labeled(tmp_path / "val", tmp_path / "val", "cd", tmp_path / "val" / "classes.txt", "cat\n")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog") and codes(dataset) == ["note classes-shorter"]
    (tmp_path / "val" / "classes.txt").write_text("dog\ncat\n")
    broken = open_dataset(tmp_path)
    assert codes(broken)[0] == "error classes-ambiguous" and str(tmp_path / "train") in broken.findings[0].message


def test_without_a_list_the_classes_are_numbered(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("class_0", "class_1") and codes(dataset) == ["warning classes-missing"]
    assert "class_0 to class_1" in dataset.findings[0].message and "classes.txt" in dataset.findings[0].fix
    for path in (tmp_path / "labels").iterdir():
        path.write_text("")
    with pytest.raises(FovealError, match="holds no dataset"):
        open_dataset(tmp_path)


def test_a_yaml_with_names_alone_lists_the_classes(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "names.yaml").write_text("names:\n  0: cat\n  1: dog\n")
    assert open_dataset(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "names", "code"),
    [
        ('["cat", "dog"]', ("cat", "dog"), "note classes-form"),
        ("['cat', 'dog']", ("cat", "dog"), "note classes-form"),
        ('{"0": "cat", "1": "dog"}', ("cat", "dog"), "note classes-form"),
        ('{"cat": 0, "dog": 1}', ("cat", "dog"), "note classes-form"),
        ("0: cat\n1: dog\n", ("cat", "dog"), "note classes-form"),
        ("0 cat\n1 dog\n", ("cat", "dog"), "note classes-form"),
        ("1. cat\n2. dog\n", ("cat", "dog"), "note classes-form"),
        ("1 euro\n2 euro\n", ("1 euro", "2 euro"), "note classes-form"),
        ("0 euro\n1 euro\n", ("0 euro", "1 euro"), "note classes-form"),
        ("cat, dog", ("cat", "dog"), "warning classes-form"),
        ("cat\n\ndog\n", ("cat", "dog"), "warning classes-blank"),
        ("\ufeffcat\r\ndog\r\n", ("cat", "dog"), ""),
        ("cat\ndog\ntraffic light, red\n", ("cat", "dog", "traffic light, red"), ""),
        ("[1, 2]", ("class_0", "class_1"), "warning classes-unreadable"),
    ],
)
def test_how_classes_are_listed(tmp_path: Path, text: str, names: tuple[str, ...], code: str) -> None:
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt", text=text)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == names and codes(dataset)[:1] == ([code] if code else [])


def test_folders_that_are_not_used_are_told(tmp_path: Path) -> None:
    labeled(tmp_path / "images" / "train", tmp_path / "labels" / "train", "ab", tmp_path / "classes.txt")
    image(tmp_path / "images" / "test" / "x.jpg")
    (tmp_path / "labels" / "old").mkdir()
    (tmp_path / "labels" / "old" / "z.txt").write_text("0 .5 .5 .5 .5\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"a": 2, "b": 1} and codes(dataset) == [
        "warning labels-missing",
        "warning images-missing",
    ]


def test_labels_given_alone_and_images_elsewhere(tmp_path: Path) -> None:
    labeled(
        tmp_path / "set" / "images", tmp_path / "set" / "labels", classes=tmp_path / "set" / "labels" / "classes.txt"
    )
    assert counts(open_dataset(tmp_path / "set" / "labels")) == {"a": 2, "b": 1, "c": 0, "d": 2}
    shutil.move(tmp_path / "set" / "images", tmp_path / "photos")
    dataset = open_dataset(tmp_path / "set", images=tmp_path / "photos")
    assert counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2} and not dataset.findings
    with pytest.raises(FovealError, match=r"the images of the YOLO labels are missing.*--images DIR"):
        open_dataset(tmp_path / "set")
    image(tmp_path / "set" / "other.jpg")
    with pytest.raises(FovealError, match="no image belongs to the YOLO labels"):
        open_dataset(tmp_path / "set")


def test_other_folders_of_images_are_no_negatives(tmp_path: Path) -> None:
    """Drawings below the folder of the images have no labels and must not become images without objects."""
    labeled(tmp_path, tmp_path, classes=tmp_path / "classes.txt")
    image(tmp_path / "drawn" / "x.jpg")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 4 and codes(dataset) == ["warning labels-missing"]


def test_the_field_case(shared: Path) -> None:
    dataset = open_dataset(shared / "field" / "09-label-studio-yolo" / "data")
    assert counts(dataset) == dict.fromkeys([f"img_00{k}" for k in range(6)], 2) and not dataset.findings


def test_images_in_folders_and_labels_in_one(tmp_path: Path) -> None:
    labeled(tmp_path / "images" / "train", tmp_path / "labels", "ab")
    labeled(tmp_path / "images" / "val", tmp_path / "labels", "cd", tmp_path / "classes.txt")
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and counts(dataset) == {"a": 2, "b": 1, "c": 0, "d": 2}
    assert not dataset.findings and not open_dataset(tmp_path, split="train").findings


@pytest.mark.parametrize(
    ("train", "code"), [("ab", "error labels-ambiguous"), ("abd", "error labels-divided"), ("abcd", "")]
)
def test_labels_in_folders_and_images_in_one(tmp_path: Path, train: str, code: str) -> None:
    """Without the error half of the images would be negatives."""
    labeled(tmp_path / "images", tmp_path / "labels" / "train", train)
    labeled(tmp_path / "images", tmp_path / "labels" / "val", "cd", tmp_path / "classes.txt")
    assert codes(open_dataset(tmp_path))[0] == (code or "warning images-missing")


def test_the_same_names_in_several_places(tmp_path: Path) -> None:
    for n, camera in enumerate(("cam1", "cam2")):
        labeled(tmp_path / camera / "rgb", tmp_path / camera / "boxes", "ab")
        (tmp_path / camera / "boxes" / "b.txt").write_text("0 .5 .5 .5 .5\n" * (n + 1))
    (tmp_path / "classes.txt").write_text(NAMES)
    dataset = open_dataset(tmp_path)
    assert {str(r.path.relative_to(tmp_path)): len(r) for r in dataset.records} == {
        **{f"cam{n}/rgb/a.jpg": 2 for n in (1, 2)},
        **{f"cam{n}/rgb/b.jpg": 1 for n in (1, 2)},
    }
    assert codes(dataset) == ["warning object-repeated"]
