"""The COCO reader: every kind of id, every kind of invalid record, and known counts of real datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.data.formats.coco.reader import CocoSource
from foveal.data.open import check_trainable, open_dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import boxes_of, codes
from tests.helpers.data_sets import BOXES, coco, coco_doc, image
from tests.helpers.fuzz_files import silent_changes


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


# ---------------------------------------------------------------------------------------- what other tools write
SQUARE = [4, 5, 20, 5, 20, 30, 4, 30]
RLE = {"size": [48, 64], "counts": [4 * 48 + 5, *([25, 23] * 15), 25, 48 * 44 + 18]}  # the box 4, 5, 20, 30


def every(doc: dict[str, Any], place: str, change: Callable[[dict[str, Any]], Any]) -> None:
    for entry in doc[place]:
        change(entry)


def as_dict(doc: dict[str, Any], place: str) -> None:
    doc[place] = {str(entry.pop("id")): entry for entry in doc[place]}


VARIANTS: dict[str, tuple[list[str], Callable[[dict[str, Any]], Any]]] = {
    "VIA: flat polygon": (
        ["note mask-flat"],
        lambda d: every(d, "annotations", lambda a: a.update(segmentation=SQUARE)),
    ),
    "list of points": (
        ["note mask-points"],
        lambda d: annotation(d, segmentation=[[4, 5], [20, 5], [20, 30], [4, 30]]),
    ),
    "list of lists of points": (
        ["note mask-points"],
        lambda d: annotation(d, segmentation=[[[4, 5], [20, 5], [20, 30], [4, 30]]]),
    ),
    "run lengths in a list": (["note mask-in-list"], lambda d: annotation(d, segmentation=[RLE])),
    "box from polygon": (["note box-from-mask"], lambda d: annotation(d, bbox=None, segmentation=[SQUARE])),
    "box from run lengths": (["note box-from-mask"], lambda d: annotation(d, bbox=[], segmentation=RLE)),
    "rotated, with polygon": (
        ["note box-from-mask"],
        lambda d: annotation(d, bbox=[12, 17, 16, 25, 0], segmentation=[SQUARE]),
    ),
    "a bbox as dict": (
        ["note box-form"],
        lambda d: annotation(d, bbox={"x": 4, "y": 5, "width": 16, "height": 25}),
    ),
    "a bbox as text": (["note box-form"], lambda d: annotation(d, bbox="[4, 5, 16, 25]")),
    "a bbox in a list": (["note box-form"], lambda d: annotation(d, bbox=[[4, 5, 16, 25]])),
    "names in annotations, no ids": (
        ["note category-id-notation", "note image-id-notation"],
        lambda d: every(
            d,
            "annotations",
            lambda a: a.update(
                category={3: "cat", 18: "dog"}[a.pop("category_id")],
                file_name="abcd"[a.pop("image_id") // 10 - 1] + ".jpg",
            ),
        ),
    ),
    "Detectron2": (["note box-mode"], lambda d: annotation(d, bbox=[4, 5, 20, 30], bbox_mode=0)),
    "text ids": (
        [],
        lambda d: (
            every(d, "images", lambda i: i.update(id=f"i{i['id']}")),
            every(d, "annotations", lambda a: a.update(id=f"a{a['id']}", image_id=f"i{a['image_id']}")),
        ),
    ),
    "padded ids": (
        ["note image-id-notation"],
        lambda d: every(d, "annotations", lambda a: a.update(image_id=f"{a['image_id']:06}")),
    ),
    "padded on the other side": (
        ["note category-id-notation", "note image-id-notation"],
        lambda d: (
            every(d, "images", lambda i: i.update(id=f"{i['id']:06}")),
            every(d, "categories", lambda c: c.update(id=f"{c['id']:03}")),
        ),
    ),
    "image ids are names": (
        ["note image-id-notation"],
        lambda d: every(d, "annotations", lambda a: a.update(image_id="abcd"[a["image_id"] // 10 - 1] + ".JPG")),
    ),
    "category ids are names": (
        ["note category-id-notation"],
        lambda d: every(d, "annotations", lambda a: a.update(category_id={3: "cat", 18: "dog"}[a["category_id"]])),
    ),
    "images and annotations by id": (
        ["note list-as-dict"] * 2,
        lambda d: (as_dict(d, "images"), as_dict(d, "annotations")),
    ),
    "categories by id": (["note list-as-dict"], lambda d: d.update(categories={"3": "cat", "18": "dog"})),
    "Roboflow": (
        ["note category-root"],
        lambda d: (
            every(d, "categories", lambda c: c.update(supercategory="pets")),
            d["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"}),
        ),
    ),
    "Roboflow, a root called like a class": (
        ["note category-root"],
        lambda d: (
            every(d, "categories", lambda c: c.update(supercategory="cat")),
            d["categories"].append({"id": 0, "name": "cat", "supercategory": "none"}),
        ),
    ),
    "LVIS": (
        ["note name-key"],
        lambda d: every(d, "images", lambda i: i.update(coco_url=f"http://x.org/val/{i.pop('file_name')}")),
    ),
    "keypoints": (
        [],
        lambda d: (
            every(d, "annotations", lambda a: a.update(keypoints=[1, 2, 2], num_keypoints=1)),
            every(d, "categories", lambda c: c.update(keypoints=["nose"], skeleton=[])),
        ),
    ),
    "ignore": (["warning flag-unknown"], lambda d: annotation(d, ignore=1)),
}  # fmt: skip


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_keep_every_object_and_are_told_once(tmp_path: Path, what: str) -> None:
    expected, change = VARIANTS[what]
    doc = coco_doc()
    change(doc)
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == expected
    assert [len(r) for r in dataset.records] == [2, 1, 0, 2] and dataset.classes[:1] == ("cat",)
    assert dataset.records[0].boxes.tolist()[0] == [4, 5, 20, 30] and dataset.records[0].labels.tolist() == [0, 1]
    if "mask" in "".join(expected):
        assert dataset.records[0].masks is not None and dataset.records[0].masks[0] is not None


def test_a_flat_polygon_is_one_polygon(tmp_path: Path) -> None:
    doc = coco_doc()
    every(doc, "annotations", lambda a: a.update(segmentation=SQUARE))
    dataset = open_dataset(coco(tmp_path, doc))
    assert dataset.records[0].masks == [[SQUARE], [SQUARE]] and "5 annotations" in dataset.findings[0].message


@pytest.mark.parametrize(
    ("supercategories", "used"),
    [
        (["none", "pets", "animal"], False),  # not the group of all others
        (["pets", "pets", "pets"], False),  # its own group, as COCO's person
        (["none", "pets", "pets"], True),  # it has objects
        (["animal", "pets", "pets"], False),  # it is in a group itself
    ],
)
def test_a_root_that_may_be_a_class_is_kept(tmp_path: Path, supercategories: list[str], used: bool) -> None:
    doc = coco_doc()
    doc["categories"].insert(0, {"id": 0, "name": "pets"})
    for entry, group in zip(doc["categories"], supercategories, strict=True):
        entry["supercategory"] = group
    if used:
        annotation(doc, category_id=0)
    dataset = open_dataset(coco(tmp_path, doc))
    assert dataset.classes == ("pets", "cat", "dog") and not dataset.findings


DROPPED: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("box-rotated", lambda d: annotation(d, bbox=[12, 17, 16, 25, 30])),
    ("box-rotated", lambda d: annotation(d, bbox=SQUARE)),
    ("box-missing", lambda d: annotation(d, bbox=None, segmentation={"size": [24, 32], "counts": [9, 700, 59]})),
    ("annotation-orphan", lambda d: annotation(d, image_id="0011")),
    ("annotation-orphan", lambda d: (annotation(d, image_id=77), d["images"][1].update(file_name="77.jpg"))),
]


@pytest.mark.parametrize(("code", "spoil"), DROPPED)
def test_what_cannot_be_read_without_doubt_is_dropped_and_told(
    tmp_path: Path, code: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    doc = coco_doc()
    image(tmp_path / "images" / "77.jpg", seed=1)
    spoil(doc)
    found = [c for c in codes(open_dataset(coco(tmp_path, doc))) if "mask" not in c]
    assert found == [f"warning {code}"]


OTHER_KINDS = {
    "panoptic": {"images": [], "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]},
    "captions": {"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]},
    "results": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "occurs twice": '{"images": [], "annotations": [], "categories": [], "images": [{"id": 1, "file_name": "a.jpg"}]}',
}


@pytest.mark.parametrize("what", OTHER_KINDS)
def test_files_of_another_kind_are_named(tmp_path: Path, what: str) -> None:
    path = coco(tmp_path, OTHER_KINDS[what])
    dataset = CocoSource(path, {"": path}, [tmp_path]).read()
    assert [f.severity for f in dataset.findings] == ["error"] and not dataset.records
    assert what in dataset.findings[0].message and dataset.findings[0].fix


def test_oddities_of_the_json_are_told(tmp_path: Path) -> None:
    text = json.dumps(coco_doc())
    path = coco(tmp_path, text.replace('"iscrowd": 0', '"iscrowd": 0, "category_id": 18, "category_id": 3'))
    dataset = open_dataset(path)
    assert codes(dataset) == ["warning key-repeated"] and "category_id" in dataset.findings[0].where
    path.write_bytes(text.replace('"cat"', '"Löwe"').encode("latin-1"))
    assert codes(open_dataset(path)) == ["warning encoding-guessed"] and "Löwe" in open_dataset(path).classes
    doc = coco_doc()
    del doc["annotations"]
    path.write_text(json.dumps(doc))
    assert codes(open_dataset(path)) == ["warning annotations-missing"]


NAMES: list[tuple[str, Callable[[str], str]]] = [
    ("note name-capitals", str.upper),
    ("note name-extension", lambda name: name.replace(".jpg", ".png")),
    ("note name-decoded", lambda name: f"images%2F{name}"),
    ("note name-address", lambda name: f"/data/local-files/?d=x%2F{name}"),
    ("note name-upload", lambda name: f"/data/upload/3/1a2b3c4d-{name}"),
    ("note name-folder", lambda name: f"train2017/{name}"),
]


@pytest.mark.parametrize(("code", "spell"), NAMES)
def test_images_found_otherwise_are_told_once(tmp_path: Path, code: str, spell: Callable[[str], str]) -> None:
    doc = coco_doc()
    every(doc, "images", lambda i: i.update(file_name=spell(i["file_name"])))
    dataset = open_dataset(coco(tmp_path, doc))
    assert codes(dataset) == [code] and "4 images" in dataset.findings[0].message and len(dataset) == 4


def test_names_that_fit_several_images_and_images_that_fit_several_names(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["images"][0]["file_name"] = "a.webp"
    path = coco(tmp_path, doc)
    image(tmp_path / "images" / "a.png", seed=1)
    dataset = open_dataset(path)
    assert codes(dataset) == ["error image-ambiguous"] and len(dataset) == 3
    assert all(str(tmp_path / "images" / n) in dataset.findings[0].message for n in ("a.jpg", "a.png"))
    (tmp_path / "images" / "a.png").unlink()
    doc["images"][1]["file_name"] = "A.webp"
    path.write_text(json.dumps(doc))
    dataset = open_dataset(path)
    assert codes(dataset) == ["note name-extension", "warning image-missing"]  # a.webp is nearer to a.jpg than A.webp
    doc["images"][0]["file_name"] = "a.JPG"
    doc["images"][1]["file_name"] = "A.jpg"
    path.write_text(json.dumps(doc))
    assert codes(open_dataset(path)) == ["error image-ambiguous"] * 2


def test_copies_of_an_image_are_no_ambiguity(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.jpg").write_bytes((tmp_path / "images" / "a.jpg").read_bytes())
    dataset = open_dataset(path)
    assert codes(dataset) == ["warning image-repeated"] and len(dataset) == 4


def test_random_edits_change_no_number_of_objects_in_silence(tmp_path: Path) -> None:
    coco(tmp_path / "set")
    assert not silent_changes(tmp_path / "set", 700, 3)
