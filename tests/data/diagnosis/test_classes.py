"""What is told about the classes of a set: nearly equal names, no objects, numbers that start at 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveal.data.diagnosis.classes import alike, name_difference
from foveal.data.doctor.examine import examine
from foveal.data.open import check_trainable, open_dataset, split_pair
from foveal.errors import FovealError
from tests.helpers.data_sets import BOXES, coco, coco_doc, image, voc, xml, yolo


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        ("Cat", "cat", "capitals"),
        ("CAT", "cat", "capitals"),
        ("traffic light", "traffic_light", "spaces, underscores or hyphens"),
        ("traffic-light", "trafficlight", "spaces, underscores or hyphens"),
        ("cat ", "cat", "spaces, underscores or hyphens"),
        ("cat\u00a0", "cat", "spaces, underscores or hyphens"),
        ("caf\u00e9", "cafe\u0301", "the Unicode form"),
        ("Traffic_Light", "traffic light", "capitals, spaces, underscores, hyphens or the Unicode form"),
        ("\uff43at", "cat", "capitals, spaces, underscores, hyphens or the Unicode form"),  # a full-width letter
        ("stra\u00dfe", "strasse", "capitals"),
    ],
)
def test_nearly_equal_names(a: str, b: str, what: str) -> None:
    assert alike([a, "dog", b]) == [[a, b]] and name_difference(a, b) == what


def test_different_names_are_not_alike() -> None:
    assert alike(["cat", "cats", "dog", "c a r", "cart", "1", "10", "cat2", "\u732b"]) == []


def test_in_one_set(tmp_path: Path) -> None:
    path = voc(tmp_path)
    (path / "Annotations" / "b.xml").write_text(xml([("Cat", 0, 0, 9, 9)], name="b.jpg"))
    report = examine(path)
    similar = [f for f in report.findings if f.code == "classes-similar"]
    assert len(similar) == 1 and report.status() == 0
    assert "'Cat' (1 object in train)" in similar[0].message and "'cat' (3 objects in train, val)" in similar[0].message
    assert [f for f in split_pair(path)[0].findings if f.code == "classes-similar"] == similar


def test_between_train_and_val(tmp_path: Path) -> None:
    train, val = tmp_path / "annotations" / "train.json", tmp_path / "annotations" / "val.json"
    coco(tmp_path).unlink()
    doc = coco_doc(["c", "d"])
    doc["categories"][0]["name"] = "Cat"
    train.write_text(json.dumps(coco_doc(["a", "b"])))
    val.write_text(json.dumps(doc))
    for findings in (examine(tmp_path).findings, [f for part in split_pair(tmp_path)[:2] for f in part.findings]):
        told = [f for f in findings if f.code in ("classes-similar", "class-unknown")]
        assert [f.code for f in told] == ["classes-similar"]
        assert "'cat' (1 object in train) and 'Cat' (2 objects in val)" in told[0].message


def test_a_class_without_object_in_training(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["categories"].append({"id": 20, "name": "bird"})
    for annotation in doc["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 3)
    path = coco(tmp_path, doc)
    told = [f for f in examine(path).findings if f.code == "class-without-object"]
    assert len(told) == 1 and told[0].severity == "warning"
    assert "2 of the 3 classes have no object" in told[0].message and "'bird'" in told[0].message
    assert "'cat' (only" in told[0].message
    assert [f.code for f in split_pair(path)[0].findings if f.code == "class-without-object"]


NUMBERED = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"


def shift(root: Path, by: int = 1) -> None:
    for label in (root / "labels").rglob("*.txt"):
        lines = [line.split(" ", 1) for line in label.read_text().splitlines()]
        label.write_text("".join(f"{int(number) + by} {rest}\n" for number, rest in lines))


def test_numbers_from_1(tmp_path: Path) -> None:
    yolo(tmp_path, NUMBERED)
    shift(tmp_path)
    report = examine(tmp_path)
    errors = [f for f in report.findings if f.severity == "error"]
    assert [f.code for f in errors] == ["class-numbers"] and report.status() == 1
    assert "from 1 to 2 where the 2 names have 0 to 1" in errors[0].message and "2 of 5 objects" in errors[0].message
    assert not [f for f in report.findings if f.code == "class-unknown"]  # one cause is told once
    with pytest.raises(FovealError, match="seem to be one too high"):
        check_trainable(split_pair(tmp_path)[0])
    right = open_dataset(tmp_path, convention="from-1")
    assert [r.labels.tolist() for r in right.records] == [[0, 1], [1], [], [0, 0]] and not right.findings
    assert not [f for f in examine(tmp_path, convention="from-1").findings if f.severity != "note"]


def test_numbers_from_1_in_one_split(tmp_path: Path) -> None:
    yolo(tmp_path, NUMBERED)
    (tmp_path / "labels" / "val" / "c.txt").write_text("2 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.1\n")
    (tmp_path / "labels" / "val" / "d.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    errors = [f for f in examine(tmp_path).findings if f.severity == "error"]
    assert [(f.code, f.where) for f in errors] == [("class-numbers", "split val")]
    train, val, _ = split_pair(tmp_path)
    check_trainable(train)
    with pytest.raises(FovealError, match="one too high"):
        check_trainable(val, "val")


def test_numbers_from_1_in_coco(tmp_path: Path) -> None:
    doc = coco_doc()
    for k, category in enumerate(doc["categories"]):
        category["id"] = k
    for annotation in doc["annotations"]:
        annotation["category_id"] = 1 if annotation["category_id"] == 3 else 2
    path = coco(tmp_path, doc)
    assert [f.code for f in open_dataset(path).findings if f.severity == "error"] == ["class-numbers"]
    assert open_dataset(path, convention="from-1").records[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("numbers", "names", "code"),
    [
        ([1, 2, 2, 1], 2, "error"),  # from 1
        ([1, 1], 1, "error"),
        ([1, 2, 3, 5], 5, "error"),
        ([5], 5, "warning"),  # perhaps only a typing error
        ([1, 80], 80, "warning"),
        ([1, 3, 90, 18], 80, "error"),  # COCO's own ids
        ([1, 2, 3], 4, "warning"),  # every class but the first: nothing is dropped, all names may be wrong
        ([1, 1, 1], 2, None),  # a set of dogs alone
        ([0, 1, 2], 2, None),  # one line of an unknown class
        ([0, 1], 2, None),
        ([2, 3], 10, None),
        ([], 2, None),
    ],
)
def test_what_numbers_are_suspicious(tmp_path: Path, numbers: list[int], names: int, code: str | None) -> None:
    image(tmp_path / "images" / "a.jpg")
    lines = [f"{number} 0.5 0.5 0.{k + 1} 0.4\n" for k, number in enumerate(numbers)]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("".join(lines))
    listed = ", ".join(f"class{k}" for k in range(names))
    (tmp_path / "data.yaml").write_text(f"train: images\nval: images\nnames: [{listed}]\n")
    found = [f.severity for f in open_dataset(tmp_path).findings if f.code == "class-numbers"]
    assert found == ([] if code is None else [code])


def test_boxes_are_those_of_the_helper() -> None:
    assert sum(map(len, BOXES.values())) == 5  # the counts above
