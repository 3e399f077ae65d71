"""The COCO reader: every kind of id, every kind of invalid record, and known counts of real datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.data.open import check_trainable, open_dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import boxes_of, codes
from tests.helpers.data_sets import BOXES, coco, coco_doc, image


def test_valid_dataset(tmp_path: Path) -> None:
    path = coco(tmp_path)
    for given in (path, tmp_path):
        dataset = open_dataset(given)
        assert dataset.classes == ("cat", "dog") and dataset.category_ids == (3, 18) and not dataset.findings
        assert [r.id for r in dataset.records] == [10, 20, 30, 40] and dataset.splits == ()
        assert [r.boxes.tolist() for r in dataset.records] == [[list(b[1:]) for b in bs] for bs in BOXES.values()]
        assert dataset.records[0].area.tolist() == [400.0, 900.0]


def test_classes_follow_the_ids_not_the_file(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["categories"].reverse()
    assert open_dataset(coco(tmp_path, doc)).classes == ("cat", "dog")


def annotation(doc: dict[str, Any], **fields: Any) -> None:
    doc["annotations"][0].update(fields)


def without(doc: dict[str, Any], place: str, key: str) -> None:
    del doc[place][0][key]


NAN = float("nan")
RECORDS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("box-not-finite", lambda d: annotation(d, bbox=[1, 2, NAN, 4])),
    ("box-not-finite", lambda d: annotation(d, bbox=[1, 2, float("inf"), 4])),
    ("box-not-finite", lambda d: annotation(d, bbox=[1, 2, 10**400, 4])),
    ("box-inverted", lambda d: annotation(d, bbox=[10, 20, -5, 4])),
    ("box-empty", lambda d: annotation(d, bbox=[10, 20, 0, 4])),
    ("box-outside", lambda d: annotation(d, bbox=[100, 20, 5, 4])),
    ("box-not-number", lambda d: annotation(d, bbox=[1, 2, 3])),
    ("box-not-number", lambda d: annotation(d, bbox=[1, 2, 3, "x"])),
    ("box-not-number", lambda d: annotation(d, bbox={"x": 1})),
    ("box-not-number", lambda d: annotation(d, bbox=[1, 2, None, 4])),
    ("box-not-number", lambda d: annotation(d, bbox=[1, 2, True, 4])),
    ("box-missing", lambda d: without(d, "annotations", "bbox")),
    ("box-missing", lambda d: annotation(d, bbox=None)),
    ("annotation-orphan", lambda d: annotation(d, image_id=99)),
    ("annotation-orphan", lambda d: without(d, "annotations", "image_id")),
    ("annotation-orphan", lambda d: annotation(d, image_id=[10])),
    ("class-unknown", lambda d: annotation(d, category_id=4)),
    ("class-unknown", lambda d: without(d, "annotations", "category_id")),
    ("class-unknown", lambda d: annotation(d, category_id=3.5)),
    ("annotation-invalid", lambda d: d["annotations"].__setitem__(0, "text")),
]


@pytest.mark.parametrize(("code", "spoil"), RECORDS)
def test_invalid_annotation_drops_only_itself(
    tmp_path: Path, code: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    doc = coco_doc()
    spoil(doc)
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == [f"warning {code}"]
    assert dataset.findings[0].path.endswith("instances.json") and "annotation" in dataset.findings[0].where
    assert [len(r) for r in dataset.records] == [1, 1, 0, 2]
    check_trainable(dataset)


KEPT: list[tuple[list[str], Callable[[dict[str, Any]], Any]]] = [
    ([], lambda d: annotation(d, image_id="10")),
    ([], lambda d: annotation(d, image_id=10.0, category_id="3")),
    ([], lambda d: annotation(d, bbox=["4", "5.0", "16", "25"])),
    ([], lambda d: without(d, "annotations", "iscrowd")),
    ([], lambda d: without(d, "annotations", "id")),
    ([], lambda d: without(d, "images", "width")),
    ([], lambda d: d["images"][0].update(width=0, height=0)),
    ([], lambda d: d["images"][0].update(file_name="images/a.jpg")),
    ([], lambda d: d["images"][0].update(file_name="../images/a.jpg")),
    ([], lambda d: d["images"][0].update(file_name="/home/somebody/a.jpg")),
    ([], lambda d: d["images"][0].update(file_name="C:\\data\\a.jpg")),
    ([], lambda d: d["images"][0].update(file_name="https://example.org/x/a.jpg?size=big")),
    (["area-invalid"], lambda d: annotation(d, area=NAN)),
    (["area-invalid"], lambda d: annotation(d, area=-3)),
    (["flag-invalid"], lambda d: annotation(d, iscrowd="perhaps")),
    (["id-repeated"], lambda d: annotation(d, id=2)),
    (["size-invalid"], lambda d: d["images"][0].update(width="wide")),
    (["annotation-repeated"], lambda d: d["annotations"].append(dict(d["annotations"][0]))),
    (["object-repeated"], lambda d: d["annotations"].append(dict(d["annotations"][0], id=77))),
    (["category-repeated"], lambda d: d["categories"].append({"id": 3, "name": "bird"})),
    (["category-invalid"], lambda d: d["categories"].append({"name": "bird"})),
    (["category-invalid"], lambda d: d["categories"].append("bird")),
]


@pytest.mark.parametrize(("findings", "spoil"), KEPT)
def test_repairs_retain_every_object(
    tmp_path: Path, findings: list[str], spoil: Callable[[dict[str, Any]], Any]
) -> None:
    doc = coco_doc()
    spoil(doc)
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == [f"warning {code}" for code in findings]
    assert [len(r) for r in dataset.records] == [2, 1, 0, 2] and dataset.classes == ("cat", "dog")
    assert boxes_of(dataset, 10)[0] == [4, 5, 20, 30]  # type: ignore[arg-type]


IMAGES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("image-missing", lambda d: d["images"][0].update(file_name="gone.jpg")),
    ("image-missing", lambda d: d["images"][0].update(file_name="../../../../etc/passwd")),
    ("image-missing", lambda d: d["images"][0].update(file_name="/etc/passwd")),
    ("image-missing", lambda d: d["images"][0].update(file_name="a\0.jpg")),
    ("image-invalid", lambda d: d["images"][0].update(file_name=7)),
    ("image-invalid", lambda d: without(d, "images", "file_name")),
    ("image-size-mismatch", lambda d: d["images"][0].update(width=480)),
    ("image-repeated", lambda d: d["images"].insert(0, dict(d["images"].pop(0), file_name="b.jpg"))),
]


@pytest.mark.parametrize(("code", "spoil"), IMAGES)
def test_invalid_image_is_excluded(tmp_path: Path, code: str, spoil: Callable[[dict[str, Any]], Any]) -> None:
    doc = coco_doc()
    spoil(doc)
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == [f"warning {code}"] and len(dataset) == 3


def test_repeated_image_ids(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["images"][1]["id"] = 10
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == ["warning annotation-orphan", "warning id-repeated", "warning id-repeated"]
    assert [r.id for r in dataset.records] == [30, 40]  # neither gets the boxes of the other
    messages = [f.message for f in dataset.findings if f.code == "id-repeated"]
    assert "'a.jpg'" in messages[0] and "'b.jpg'" in messages[1] and all("2 images" in message for message in messages)

    doc = coco_doc()
    doc["images"].append(dict(doc["images"][0]))
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == ["warning id-repeated"]
    assert [r.id for r in dataset.records] == [10, 20, 30, 40] and len(dataset.records[0]) == 2


def test_text_ids_stay_text(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["images"][0]["id"] = "frame-1"
    for a in doc["annotations"]:
        a["image_id"] = "frame-1" if a["image_id"] == 10 else a["image_id"]
    dataset = open_dataset(coco(tmp_path, doc))
    assert dataset.records[0].id == "frame-1" and len(dataset.records[0]) == 2 and not dataset.findings


ERRORS = {
    "an empty file": "",
    "not valid JSON": '{"images": [',
    "HTML": "<!doctype html><html>",
    '"images" is missing': '{"annotations": [], "categories": []}',
    '"annotations" is a dict': '{"images": [], "annotations": {}}',
    "a list (of results?)": "[]",
    "nested|recursion|too many": "[" * 200_000,
    "not valid JSON: Exceeds": '{"images": [' + "9" * 5000 + "]}",
}


@pytest.mark.parametrize("what", ERRORS)
def test_unreadable_json_is_an_error_that_names_the_file(tmp_path: Path, what: str) -> None:
    dataset = open_dataset(coco(tmp_path, ERRORS[what]))
    assert codes(dataset) == ["error annotation-unreadable"]
    assert any(w in dataset.findings[0].message for w in what.split("|"))
    with pytest.raises(FovealError, match=r"instances\.json"):
        check_trainable(dataset)


@pytest.mark.parametrize("categories", [[], None, [{"id": 77, "name": "zebra"}]])
def test_no_matching_category_is_an_error(tmp_path: Path, categories: Any) -> None:
    doc = coco_doc()
    doc["categories"] = categories
    dataset = open_dataset(coco(tmp_path, doc))
    assert "error classes-missing" in codes(dataset)
    with pytest.raises(FovealError, match=r"instances\.json"):
        check_trainable(dataset)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = coco(tmp_path)
    path.write_bytes(json.dumps(coco_doc()).encode(encoding))
    assert len(open_dataset(path)) == 4


def test_crowd_masks_and_area_are_kept(tmp_path: Path) -> None:
    doc = coco_doc()
    rle = {"size": [48, 64], "counts": [100, 5, 2967]}
    polygon = [[4, 5, 20, 5, 20, 30, 4, 30]]
    annotation(doc, iscrowd=1, segmentation=rle, area=5)
    doc["annotations"][1].update(segmentation=polygon)
    doc["annotations"][2].update(segmentation=[[1, 2]])
    record, other, *_ = open_dataset(coco(tmp_path, doc)).records
    assert record.crowd.tolist() == [True, False] and record.area.tolist() == [5, 900]
    assert record.masks == [rle, polygon] and other.masks is None


def test_repeated_category_names_are_one_class(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["categories"].append({"id": 30, "name": "cat"})
    annotation(doc, category_id=30)
    dataset = open_dataset(coco(tmp_path, doc))
    assert dataset.classes == ("cat", "dog") and dataset.category_ids == (3, 18)
    assert codes(dataset) == ["warning class-repeated"] and dataset.records[0].labels.tolist() == [0, 1]


def test_splits_by_file_name_and_colliding_ids(tmp_path: Path) -> None:
    coco(tmp_path).unlink()
    for split, names in (("train2017", "ab"), ("val2017", "cd")):
        doc = coco_doc(list(names))
        ids = {image["id"]: n for n, image in enumerate(doc["images"])}
        for entry in doc["images"]:
            entry["id"] = ids[entry["id"]]
        for a in doc["annotations"]:
            a["image_id"] = ids[a["image_id"]]
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(doc))
    (tmp_path / "annotations" / "captions_val2017.json").write_text(
        '{"images": [], "annotations": [], "info": "file_name"}'
    )
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and len(dataset) == 4 and not dataset.findings
    assert [r.id for r in dataset.records] == [0, 1, "val/0", "val/1"]
    assert [r.id for r in open_dataset(tmp_path, split="val").records] == [0, 1]


def test_roboflow_coco(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "d")):
        image(tmp_path / split / f"{name}.jpg")
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(coco_doc([name])))
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and [len(r) for r in dataset.records] == [2, 2]
    assert open_dataset(tmp_path, split="valid").records[0].path.parent.name == "valid"


def test_images_elsewhere_and_same_names_in_two_folders(tmp_path: Path) -> None:
    path = coco(tmp_path / "set")
    (tmp_path / "set" / "images").rename(tmp_path / "pics")
    assert codes(open_dataset(path)) == ["warning image-missing"] * 4
    assert len(open_dataset(path, images=tmp_path / "pics")) == 4
    image(tmp_path / "pics" / "more" / "a.jpg", seed=5)
    assert codes(open_dataset(path, images=tmp_path / "pics")) == ["warning image-ambiguous"]


def test_real_coco128_agrees_with_its_yolo_version(data: Path, tmp_path: Path) -> None:
    root = data / "coco128-train2017"
    dataset = open_dataset(root)
    assert (len(dataset), sum(map(len, dataset.records)), len(dataset.classes)) == (128, 929, 80)
    assert not dataset.findings and dataset.category_ids is not None and dataset.category_ids[-1] == 90
    names = (root / "coco.names").read_text().split("\n")[:80]
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"path: {root}\ntrain: images/train2017\nnames: {json.dumps(names)}\n")
    yolo = open_dataset(yaml)
    assert (len(yolo), sum(map(len, yolo.records))) == (128, 929) and yolo.classes == dataset.classes
    ours = {r.path.name: r for r in dataset.records}
    worst = 0.0
    for record in yolo.records:
        other = ours[record.path.name]
        order = [np.lexsort((*r.boxes.T.round(0), r.labels)) for r in (record, other)]
        assert record.labels[order[0]].tolist() == other.labels[order[1]].tolist()
        if len(record):
            worst = max(worst, float(np.abs(record.boxes[order[0]] - other.boxes[order[1]]).max()))
    assert worst <= 0.0101


def test_real_fixture_without_images(data: Path) -> None:
    """Annotations of 100 val2014 images without the files: every image is named, no annotation is orphaned."""
    path = next((data / "eval-fixtures" / "coco-val2014-100").glob("*nstances*"), None)
    if path is None:
        pytest.skip("no such fixture")
    dataset = open_dataset(path)
    assert codes(dataset) == ["warning image-missing"] * 100 and not dataset.records
