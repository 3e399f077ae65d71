"""Opening datasets: format detection, splits, class subsets, concatenation, the train and val pair."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveal.data.doctor.examine import examine
from foveal.data.open import check_trainable, open_dataset, split_pair
from foveal.data.records.dataset import Dataset, Record
from foveal.data.records.subsets import join, seeded_split, select_classes
from foveal.errors import FovealError, UsageError
from tests.data.formats.test_voc import codes
from tests.helpers.data_sets import BOXES, coco, coco_doc, image, state, voc, xml, yolo


def test_invalid_dataset_paths_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    image(tmp_path / "photos" / "a.jpg")
    (tmp_path / "photos" / "notes.json").write_text('{"a": 1}')
    (tmp_path / "x.txt").write_text("a")
    cases = {
        "nowhere": "no such file or folder",
        "empty": "holds no dataset: there are no annotations",
        "photos": r"holds no dataset \(1 images, 1 JSON files without annotations\)",
        "x.txt": r"neither a COCO \.json nor a YOLO data\.yaml",
        "photos/a.jpg": "neither",
    }
    for name, message in cases.items():
        with pytest.raises(FovealError, match=message) as caught:
            open_dataset(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"  \n", b'{"images": [{"id": 1, "file_na', b"\0" * 99, b"<html></html>"])
@pytest.mark.parametrize("place", ["annotations/{}.json", "{}/labels.json"])
def test_damaged_coco_file_next_to_a_valid_one_is_an_error(tmp_path: Path, content: bytes, place: str) -> None:
    coco(tmp_path).unlink()
    train, val = (tmp_path / place.format(split) for split in ("train", "val"))
    train.parent.mkdir(exist_ok=True)
    val.parent.mkdir(exist_ok=True)
    train.write_text(json.dumps(coco_doc()))
    val.write_bytes(content)
    report = examine(tmp_path)
    assert [f.path for f in report.findings if f.severity == "error"] == [str(val)] and report.status() == 1
    assert len(open_dataset(tmp_path, split="train")) == 4
    with pytest.raises(FovealError, match="labels.json" if "labels" in place else "val.json"):
        check_trainable(open_dataset(tmp_path))


def test_other_json_next_to_a_coco_file_is_ignored(tmp_path: Path) -> None:
    folder = coco(tmp_path).parent
    (folder / "found.json").write_text('[{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    (folder / "settings.json").write_text('{"color": "green"}')
    (folder / "log.json").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "unfinished.json").write_text("{")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 4 and not dataset.findings and dataset.splits == ()


def test_more_than_one_dataset_is_rejected_by_name(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2007")
    voc(tmp_path / "VOC2012")
    with pytest.raises(FovealError, match=r"holds 2 datasets: VOC in .*VOC2007; VOC in .*VOC2012"):
        open_dataset(tmp_path)
    yolo(tmp_path / "y")
    assert open_dataset(tmp_path / "y").format == "yolo"
    assert open_dataset(tmp_path / "VOC2012").format == "voc"


def test_unknown_split_lists_the_available_ones(tmp_path: Path) -> None:
    voc(tmp_path / "a")
    with pytest.raises(FovealError, match=r"no split 'test'.*train, val"):
        open_dataset(tmp_path / "a", split="test")
    voc(tmp_path / "b", splits=False)
    with pytest.raises(FovealError, match="there are no splits"):
        open_dataset(tmp_path / "b", split="val")


def test_trainval_is_train_and_val(tmp_path: Path) -> None:
    assert [r.id for r in open_dataset(voc(tmp_path), split="trainval").records] == list("abcd")


def test_concatenated_datasets(tmp_path: Path) -> None:
    """VOC 07+12: names found are sorted over all, splits are those of both, labels follow the names."""
    voc(tmp_path / "07")
    for name in ("e", "f"):
        image(tmp_path / "12" / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "12" / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "12" / "Annotations" / f"{name}.xml").write_text(xml([("bird", 1, 1, 9, 9), ("dog", 2, 2, 9, 9)]))
    sets = tmp_path / "12" / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("e\n")
    dataset = open_dataset([tmp_path / "07", tmp_path / "12"], split="train")
    assert dataset.classes == ("bird", "cat", "dog") and [r.id for r in dataset.records] == ["a", "b", "e"]
    assert [r.labels.tolist() for r in dataset.records] == [[1, 2], [2], [0, 2]]
    with pytest.raises(FovealError, match="no split 'val'"):
        open_dataset([tmp_path / "07", tmp_path / "12"], split="val")
    twice = open_dataset([tmp_path / "07", tmp_path / "07"])
    assert len(twice) == 4 and codes(twice) == ["warning image-in-two-splits"] * 4


def test_concatenated_coco_keeps_category_ids(tmp_path: Path) -> None:
    a = open_dataset(coco(tmp_path / "a"))
    doc = coco_doc()
    doc["categories"] = [{"id": 3, "name": "dog"}, {"id": 18, "name": "cat"}]
    both = join([a, open_dataset(coco(tmp_path / "b", doc))])
    assert both.classes == ("cat", "dog") and both.category_ids == (3, 18)
    assert len({r.id for r in both.records}) == 8 and both.records[4].labels.tolist() == [1, 0]


def test_class_subset(tmp_path: Path) -> None:
    path = voc(tmp_path)
    background = open_dataset(path, classes="dog")
    assert background.classes == ("dog",) and [len(r) for r in background.records] == [1, 1, 0, 0]
    assert codes(background) == ["note classes-other"] and "cat 3" in background.findings[0].message
    ignore = open_dataset(path, classes=["dog"], others="ignore")
    assert [r.ignore.tolist() for r in ignore.records] == [[True, False], [False], [], [True, True]]
    assert all((r.labels == 0).all() for r in ignore.records)
    left_out = open_dataset(path, classes=["dog"], others="skip-image")
    assert [r.id for r in left_out.records] == ["b", "c"]
    turned = open_dataset(path, classes=" dog , cat ")
    assert turned.classes == ("dog", "cat") and turned.records[0].labels.tolist() == [1, 0] and not turned.findings
    for bad, message in (("dgo", "no class 'dgo'.*Did you mean dog"), ("", "empty"), ("dog,dog", "twice")):
        with pytest.raises(UsageError, match=message):
            open_dataset(path, classes=bad)
    with pytest.raises(UsageError, match="skip-image"):
        open_dataset(path, classes="dog", others="skip-images")  # type: ignore[arg-type]
    assert open_dataset(path, classes="dog,zebra", absent="accept").classes == ("dog", "zebra")


def test_class_subset_keeps_masks_area_and_category_ids(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["annotations"][1].update(segmentation=[[1, 1, 5, 1, 5, 5]], area=8)
    dataset = select_classes(open_dataset(coco(tmp_path, doc)), "dog")
    assert dataset.category_ids == (18,)
    assert dataset.records[0].masks == [[[1, 1, 5, 1, 5, 5]]] and dataset.records[0].area.tolist() == [8]
    more = select_classes(open_dataset(tmp_path), ["zebra", "dog"], absent="accept")
    assert more.category_ids == (1, 18)


def test_split_pair_uses_existing_splits(tmp_path: Path) -> None:
    path = voc(tmp_path / "a")
    train, val, note = split_pair(path)
    assert ([r.id for r in train.records], [r.id for r in val.records], note) == (["a", "b"], ["c", "d"], "")
    sets = path / "ImageSets" / "Main"
    (sets / "trainval.txt").write_text("a\nb\nc\n")
    (sets / "test.txt").write_text("d\n")
    train, val, note = split_pair(path, split_map={"train": "trainval", "val": "test"})
    assert [len(train), len(val)] == [3, 1] and train.classes == val.classes == ("cat", "dog")
    (sets / "train.txt").unlink()
    (sets / "val.txt").unlink()
    assert [r.split for r in split_pair(path)[:2]] == ["trainval", "test"]
    with pytest.raises(FovealError, match="no split 'dev'"):
        split_pair(path, split_map={"train": "trainval", "val": "dev"})
    with pytest.raises(UsageError, match="--split names"):
        split_pair(path, split_map={"tain": "trainval"})


def test_split_pair_splits_by_seed_without_existing_splits(tmp_path: Path) -> None:
    for k in range(20):
        image(tmp_path / f"{k}.jpg", seed=k)
        (tmp_path / f"{k}.xml").write_text(xml(BOXES["a"]))
    train, val, note = split_pair(tmp_path, seed=3)
    assert len(train) == 16 and len(val) == 4 and "seed 3" in note and "16" in note
    assert {r.id for r in train.records} | {r.id for r in val.records} == {str(k) for k in range(20)}
    assert not val.findings
    again = split_pair(tmp_path, seed=3)[1]
    assert [r.id for r in again.records] == [r.id for r in val.records]
    moved = shutil.copytree(tmp_path, tmp_path.parent / "elsewhere")
    assert [r.id for r in split_pair(moved, seed=3)[1].records] == [r.id for r in val.records]
    assert [r.id for r in split_pair(tmp_path, seed=4)[1].records] != [r.id for r in val.records]


def test_tiny_seeded_splits(tmp_path: Path) -> None:
    dataset = open_dataset(voc(tmp_path))
    for count, expected in ((4, (3, 1)), (2, (1, 1)), (1, (1, 1))):
        dataset.records = dataset.records[:count]
        assert tuple(map(len, seeded_split(dataset))) == expected


def test_split_pair_with_a_second_dataset(tmp_path: Path) -> None:
    train_json = coco(tmp_path)
    doc = coco_doc(["c", "d"])
    doc["categories"] = [{"id": 18, "name": "dog"}, {"id": 40, "name": "cat"}, {"id": 41, "name": "bird"}]
    for a, category in zip(doc["annotations"], (40, 41), strict=True):
        a["category_id"] = category
    val_json = tmp_path / "annotations" / "val.json"
    val_json.write_text(json.dumps(doc))
    train, val, note = split_pair(train_json, val=val_json, images=tmp_path / "images")
    assert train.classes == val.classes == ("cat", "dog") and note == ""
    assert val.category_ids == (40, 18) and [r.labels.tolist() for r in val.records] == [[], [0]]
    found = codes(val)
    assert "warning class-unknown" in found and found.count("warning image-in-two-splits") == 2


def test_second_validation_dataset_excludes_test_images(tmp_path: Path) -> None:
    source, other = voc(tmp_path / "a"), voc(tmp_path / "b", splits=False)
    sets = source / "ImageSets" / "Main"
    (sets / "train.txt").rename(sets / "trainval.txt")
    (sets / "val.txt").rename(sets / "test.txt")
    train, val, _ = split_pair(source, val=other)
    assert [r.id for r in train.records] == ["a", "b"] and train.split == "trainval" and len(val) == 4
    joined, _, _ = split_pair([source, voc(tmp_path / "c")], val=other)
    assert [r.id for r in joined.records] == ["a", "b", "train/a", "train/b"]
    (sets / "trainval.txt").rename(sets / "mine.txt")
    with pytest.raises(FovealError, match=r"no split train or trainval, only mine, test.*--split train=mine"):
        split_pair(source, val=other)
    assert len(split_pair(source, val=other, split_map={"train": "mine"})[0]) == 2
    (sets / "test.txt").unlink()
    (sets / "mine.txt").rename(sets / "trainval.txt")
    (sets / "val.txt").write_text("c\n")
    train, val, note = split_pair(source)  # without train.txt: trainval is divided, val is no part of it
    assert {r.id for r in [*train.records, *val.records]} == {"a", "b"} and "'trainval' has no validation split" in note


def test_split_pair_with_classes(tmp_path: Path) -> None:
    path = voc(tmp_path)
    train, val, _ = split_pair(path, classes="dog", others="ignore")
    assert [r.ignore.tolist() for r in train.records] == [[True, False], [False]]
    assert [len(r) for r in val.records] == [0, 0] and not any(r.ignore.any() for r in val.records)
    with pytest.raises(UsageError, match="no class 'bird'"):
        split_pair(path, classes="bird")


def test_image_in_both_splits_is_reported(tmp_path: Path) -> None:
    yolo(tmp_path)
    shutil.copy(tmp_path / "images/train/a.jpg", tmp_path / "images/val/a.jpg")
    image(tmp_path / "images/val/b.jpg", seed=123)  # the same name, other content
    _, val, _ = split_pair(tmp_path)
    assert codes(val) == ["warning image-in-two-splits", "warning labels-missing"]  # a, b and c have no label file
    assert [f.path for f in val.findings if f.code == "image-in-two-splits"] == [str(tmp_path / "images/val/a.jpg")]


def test_check_trainable(tmp_path: Path) -> None:
    good = open_dataset(voc(tmp_path / "a"))
    check_trainable(good)
    with pytest.raises(FovealError, match="has no box of the classes dog"):
        check_trainable(open_dataset(tmp_path / "a", split="val", classes="dog"))
    only_others = open_dataset(tmp_path / "a", split="val", classes="dog", others="ignore")
    with pytest.raises(FovealError, match="has no box"):
        check_trainable(only_others)
    for n in range(7):
        (tmp_path / "a" / "Annotations" / f"{n}.xml").write_text("")
        image(tmp_path / "a" / "JPEGImages" / f"{n}.jpg")
    shutil.rmtree(tmp_path / "a" / "ImageSets")
    with pytest.raises(FovealError, match=r"0\.xml: an empty file; .*; and 2 more\. Run foveal doctor"):
        check_trainable(open_dataset(tmp_path / "a"))


def test_reading_modifies_nothing_and_works_read_only(tmp_path: Path) -> None:
    for make in (voc, coco, yolo):
        root = tmp_path / make.__name__
        make(root)
        before = state(root)
        for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
            folder.chmod(0o555)
        try:
            split_pair(root)
            open_dataset(root)
        finally:
            for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
                folder.chmod(0o755)
        assert state(root) == before


@pytest.mark.parametrize("kind", ["voc", "coco", "coco-file", "yolo"])
def test_unreadable_folder_is_named(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = {"voc": voc, "yolo": yolo}.get(kind, coco)
    source = make(tmp_path / "set")
    closed = tmp_path / "set" / "images" / "train" / "closed"  # where all three look for images
    if kind == "voc":
        closed = tmp_path / "set" / "JPEGImages" / "closed"
    closed.mkdir(parents=True)
    where = source if kind == "coco-file" else tmp_path / "set"
    assert not open_dataset(where).findings
    close(closed, monkeypatch)
    dataset = open_dataset(where)
    assert [(f.severity, f.code, f.path) for f in dataset.findings] == [("warning", "folder-unreadable", str(closed))]
    assert len(dataset) == 4


def test_unreadable_annotation_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = voc(tmp_path / "set")
    (source / "Annotations" / "more").mkdir()
    close(source / "Annotations" / "more", monkeypatch)
    assert codes(open_dataset(source)) == ["warning folder-unreadable"]
    close(source / "Annotations", monkeypatch)
    with pytest.raises(FovealError, match="Annotations"):
        check_trainable(open_dataset(source))
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    close(tmp_path / "empty" / "inner", monkeypatch)
    with pytest.raises(FovealError, match=r"holds no dataset.*inner cannot be listed"):
        open_dataset(tmp_path / "empty")


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not readable (permissions do not apply to root)."""
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_links_to_images_are_followed(tmp_path: Path) -> None:
    voc(tmp_path / "set")
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "store")
    (tmp_path / "set" / "JPEGImages").symlink_to(tmp_path / "store")
    assert len(open_dataset(tmp_path / "set")) == 4


def test_every_real_dataset_opens_without_errors(data: Path) -> None:
    for name in ("bccd", "voc2012-catdogcar", "coco128-train2017"):
        dataset = open_dataset(data / name)
        check_trainable(dataset)
        for record in dataset.records:
            x1, y1, x2, y2 = record.boxes.T
            assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= record.width).all() and (y2 <= record.height).all()
            assert (x2 > x1).all() and (y2 > y1).all() and record.boxes.dtype == np.float64


def test_a_random_division_keeps_the_only_image_of_a_class_for_training(tmp_path: Path) -> None:
    """Whatever the seed: a class of one image can be learned, and both parts keep their sizes."""
    records = []
    for number in range(10):
        record = Record.bare(tmp_path / f"{number}.jpg")
        labels = [0, 0, 1] if number == 3 else [0]
        flags = np.zeros(len(labels), np.bool_)
        boxes = np.tile([1.0, 1.0, 5.0, 5.0], (len(labels), 1))
        more = {"crowd": flags, "difficult": flags, "ignore": flags, "area": boxes[:, 2] * 4}
        records.append(replace(record, boxes=boxes, labels=np.array(labels), width=9, height=9, **more))
    for seed in range(20):
        train, val = seeded_split(Dataset(("often", "rare"), records), seed=seed)
        assert (len(train), len(val)) == (8, 2)
        assert any(1 in record.labels for record in train.records)
