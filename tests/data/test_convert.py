"""Format conversion: round trips lose nothing, and the source is never written."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from foveal.cli import main as cli
from foveal.data.convert import convert, read_splits, split
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError, UsageError
from tests.helpers.data_sets import coco, coco_doc, image, state, voc, xml_object, yolo

FORMATS = ("voc", "coco", "yolo")


def rows(dataset: Dataset, digits: int) -> dict[str, list[tuple[object, ...]]]:
    """File stem -> everything about its objects, in their order."""
    return {
        r.path.stem: [
            (dataset.classes[k], *np.round(b, digits).tolist(), bool(c), bool(d))
            for k, b, c, d in zip(r.labels, r.boxes, r.crowd, r.difficult, strict=True)
        ]
        for r in dataset.records
    }


def flagged(root: Path) -> Path:
    """A VOC set with a difficult object, a crowd, fractions, and boxes one pixel and less wide."""
    voc(root)
    extra = (
        xml_object(("cat", 1.25, 2.5, 9.125, 9.0625), "<difficult>1</difficult>")
        + xml_object(("dog", 20, 20, 40, 30), "<crowd>1</crowd>")
        + xml_object(("dog", 21, 20, 22, 30))
        + xml_object(("dog", 21.25, 20, 21.75, 30))
    )
    text = f"<annotation><source><annotation>foveal</annotation></source>{extra}</annotation>"
    (root / "Annotations" / "a.xml").write_text(text)
    return root


@pytest.mark.parametrize("chain", list(itertools.permutations(FORMATS)))
def test_round_trips_are_exact(tmp_path: Path, chain: tuple[str, ...]) -> None:
    source = flagged(tmp_path / "source")
    before, first = state(source), open_dataset(source)
    assert len(first.records[0]) == 4 and not first.findings
    path = source
    for format in (*chain, "voc"):
        path = convert(path, tmp_path / f"{path.name}-{format}", format).path  # type: ignore[arg-type]
        again = open_dataset(path)
        assert again.format == format and again.classes == first.classes and again.splits == ("train", "val")
        assert not again.findings
        assert rows(again, 9) == rows(first, 9)
        for name in ("train", "val"):
            assert rows(open_dataset(path, split=name), 9) == rows(open_dataset(source, split=name), 9)
    assert state(source) == before


@pytest.mark.parametrize("format", FORMATS)
def test_real_dataset_round_trips(data: Path, tmp_path: Path, format: str) -> None:
    written = convert(data / "voc2012-catdogcar", tmp_path / "out", format, link=True)  # type: ignore[arg-type]
    assert (written.images, written.objects, written.splits) == (300, 687, ("train", "trainval", "val"))
    first, again = open_dataset(data / "voc2012-catdogcar"), open_dataset(tmp_path / "out")
    assert rows(again, 6) == rows(first, 6) and not again.findings
    assert sum(int(r.difficult.sum()) for r in again.records) == 71
    assert (
        set(again.splits) == {"train", "trainval", "val"}
        and len(open_dataset(tmp_path / "out", split="trainval")) == 300
    )


def test_coco_keeps_ids_areas_and_masks(tmp_path: Path) -> None:
    doc = coco_doc()
    doc["annotations"][0].update(segmentation=[[4, 5, 20, 5, 20, 30]], area=200, iscrowd=1)
    source = coco(tmp_path / "a", doc)
    convert(source, tmp_path / "b", "coco")
    first, again = open_dataset(source), open_dataset(tmp_path / "b")
    assert again.category_ids == (3, 18) and [r.id for r in again.records] == [10, 20, 30, 40]
    assert again.records[0].masks == first.records[0].masks and again.records[0].area.tolist() == [200, 900]
    written = convert(source, tmp_path / "c", "voc")
    assert [f.code for f in written.findings] == ["masks-lost"]


def test_voc_files_follow_the_devkit_format(tmp_path: Path) -> None:
    convert(voc(tmp_path / "a"), tmp_path / "b", "voc")
    text = (tmp_path / "b" / "Annotations" / "a.xml").read_text()
    assert "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>" in text
    assert (tmp_path / "b" / "ImageSets" / "Main" / "val.txt").read_text() == "c\nd\n"
    assert (tmp_path / "b" / "classes.txt").read_text() == "cat\ndog\n"


def test_names_a_format_cannot_represent(tmp_path: Path) -> None:
    image(tmp_path / "a" / "new\nline <&>.jpg")
    text = f"<annotation>{xml_object(('a &amp; b &lt;c&gt;', 1, 1, 9, 9))}</annotation>"
    (tmp_path / "a" / "new\nline <&>.xml").write_text(text)
    for format in FORMATS:
        path = convert(tmp_path / "a", tmp_path / format, format).path  # type: ignore[arg-type]
        again = open_dataset(path)
        assert again.classes == ("a & b <c>",) and again.records[0].path.name == "new_line <&>.jpg"


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Old archives have names in Latin-1: the copies get names that every format can represent."""
    source = voc(tmp_path / "a", splits=False)
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (source / folder / f"a.{ending}").rename(source / folder / os.fsdecode(b"a\xff." + ending.encode()))
    for format in FORMATS:
        assert cli.main(["data", "convert", str(source), "--to", format, "--out", str(tmp_path / format)]) == 0
        again = open_dataset(tmp_path / format)
        assert [r.path.name for r in again.records] == ["a_.jpg", "b.jpg", "c.jpg", "d.jpg"] and not again.findings
        assert len(again.records[0]) == 2
    doc = coco_doc()
    doc["categories"][0]["name"] = "c\udc61t"
    for format in FORMATS:
        path = convert(coco(tmp_path / "names", doc), tmp_path / f"names-{format}", format).path  # type: ignore[arg-type]
        assert len(open_dataset(path).classes) == 2


def test_same_name_in_two_splits_stays_two_images(tmp_path: Path) -> None:
    yolo(tmp_path / "a")
    image(tmp_path / "a" / "images" / "val" / "a.jpg", seed=5)
    for format in FORMATS:
        again = open_dataset(convert(tmp_path / "a", tmp_path / format, format).path)  # type: ignore[arg-type]
        assert len(again) == 5 and sorted(len(r) for r in again.records) == [0, 0, 1, 2, 2]


def test_classes_can_be_chosen(tmp_path: Path) -> None:
    convert(voc(tmp_path / "a"), tmp_path / "b", "yolo", classes="dog", others="skip-image")
    again = open_dataset(tmp_path / "b")
    assert again.classes == ("dog",) and [r.id for r in again.records] == ["b", "c"]


def test_a_coco_split_without_a_class_gets_the_same_numbers(tmp_path: Path) -> None:
    coco(tmp_path / "a").unlink()
    for name, images in (("train", "ab"), ("val", "cd")):
        doc = coco_doc(list(images))
        if name == "val":
            doc["categories"] = [{"id": 3, "name": "cat"}]
        (tmp_path / "a" / "annotations" / f"{name}.json").write_text(json.dumps(doc))
    parts = read_splits(tmp_path / "a")
    assert {p.classes for p in parts.values()} == {("cat", "dog")} and parts["val"].category_ids == (3, 18)
    assert len(open_dataset(convert(tmp_path / "a", tmp_path / "b", "yolo").path)) == 4


def test_never_writes_into_the_source_or_overwrites(tmp_path: Path) -> None:
    source = voc(tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    for out, message in (
        (source / "new", "is inside the source"),
        (source, "exists already"),
        (tmp_path / "full", "exists already"),
    ):
        with pytest.raises(FovealError, match=message):
            convert(source, out, "coco")
    assert (tmp_path / "full" / "x").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", "coco")
    with pytest.raises(UsageError, match=r"'voc2'.*Did you mean voc"):
        convert(source, tmp_path / "z", "voc2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ignored regions"):
        convert(source, tmp_path / "z", "coco", classes="dog", others="ignore")
    with pytest.raises(UsageError, match="ignored regions"):
        convert(open_dataset(source, classes="dog", others="ignore"), tmp_path / "z", "coco")


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset = open_dataset(voc(tmp_path / "a"))
    dataset.records[3].path.unlink()
    with pytest.raises(FovealError, match="cannot be written"):
        convert(dataset, tmp_path / "b", "voc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_seeded_split(tmp_path: Path) -> None:
    for k in range(20):
        image(tmp_path / "a" / f"{k}.jpg", seed=k)
        (tmp_path / "a" / f"{k}.xml").write_text(f"<annotation>{xml_object(('cat', 1, 1, 9, 9))}</annotation>")
    split(tmp_path / "a", tmp_path / "b", val=0.25, test=0.25, seed=1)
    made = {name: {r.id for r in open_dataset(tmp_path / "b", split=name).records} for name in ("train", "val", "test")}
    assert {name: len(ids) for name, ids in made.items()} == {"train": 10, "val": 5, "test": 5}
    assert len(set.union(*made.values())) == 20
    split(tmp_path / "a", tmp_path / "c", val=0.25, test=0.25, seed=1, format="coco")
    again = {r.path.stem for r in open_dataset(tmp_path / "c", split="test").records}
    assert again == made["test"]
    with pytest.raises(UsageError, match="nothing to train on"):
        split(tmp_path / "a", tmp_path / "d", val=0.6, test=0.4)
