"""Each writer and the reader of its format: what was written is read again, or its loss is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foveal.cli import main as cli
from foveal.data.convert import Conversion, convert
from foveal.data.open import open_dataset, split_pair
from foveal.data.records.dataset import Dataset, Record
from foveal.data.records.segmentation import masks_of
from foveal.data.writing.writers import WRITERS
from tests.helpers.data_sets import coco, image

FORMATS = list(WRITERS)
KEEPS_FLAGS = {"voc", "coco", "yolo", "csv", "labelme", "cvat"}
KEEPS_MASKS = {"coco", "labelme", "cvat"}
KEEPS_OVERLAPS = {"voc", "coco", "yolo", "csv", "createml"}
CLASSES = ("cat", "big dog", "traffic light, red", 'a "quoted" one', "../up", "x/y\\z", "1 euro", "<&>", "Ä ö", "null")


def generated(
    root: Path, seed: int = 0, masks: bool = True, splits: tuple[str, ...] = ("train", "val")
) -> dict[str, Dataset]:
    """A set with empty images, crowds, difficult objects and, with ``masks``, polygons and run lengths."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Dataset] = {}
    for split in splits:
        records = []
        for n in range(4):
            width, height = (int(v) for v in rng.integers(40, 90, 2))
            path = image(root / "source" / split / f"{split}_{n}.png", seed=n, width=width, height=height)
            count = int(rng.integers(1, 5)) if n else 0
            records.append(_record(path, (width, height), count, rng, masks))
        parts[split] = Dataset(CLASSES, records, path=root / "source", split=split, splits=splits)
    return parts


def _record(path: Path, size: tuple[int, int], count: int, rng: np.random.Generator, masks: bool) -> Record:
    width, height = size
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)) * [width - 6, height - 6], axis=1)
    corners[:, 1] += 5
    boxes = np.round(corners, 2).reshape(count, 4)
    flags = rng.random((2, count)) < 0.3
    made: list[Any] = []
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        kind = int(rng.integers(0, 4)) if masks else 0
        if kind == 1:
            made.append([[x1, y1, x2, y1, x2, y2]])
        elif kind == 2:
            mid = round((x1 + x2) / 2, 2)
            made.append([[x1, y1, mid, y1, x1, y2], [mid, y2, x2, y2, x2, y1]])
        elif kind == 3:
            bits = np.zeros((1, height, width), np.bool_)
            boxes[k] = np.floor(boxes[k])
            left, top, right, bottom = map(int, boxes[k])
            bits[0, top:bottom, left:right] = True
            bits[0, top + 1, left + 1] = False
            from foveal.masks.rle import Masks

            made.append(Masks.of_dense(bits).to_coco()[0])
        else:
            made.append(None)
    return Record(
        id=path.stem,
        path=path,
        width=width,
        height=height,
        boxes=boxes,
        labels=rng.integers(0, len(CLASSES), count),
        crowd=flags[0],
        difficult=flags[1] & ~flags[0],
        ignore=np.zeros(count, np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        masks=made if any(m is not None for m in made) else None,
    )


def rows(dataset: Dataset, flags: bool, masks: bool) -> dict[str, list[tuple[object, ...]]]:
    """Name of the file -> everything about its objects that is compared, in their order."""
    found = {}
    for r in dataset.records:
        bits = masks_of(r.masks or [None] * len(r), r.width, r.height).dense()
        found[r.path.name] = [
            (
                dataset.classes[r.labels[k]],
                *np.round(r.boxes[k], 6).tolist(),
                *((bool(r.crowd[k]), bool(r.difficult[k])) if flags else ()),
                *((r.masks is not None and r.masks[k] is not None, bits[k].tobytes()) if masks else ()),
            )
            for k in range(len(r))
        ]
    return found


def codes(written: Conversion) -> set[str]:
    return {f.code for f in written.findings}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_round_trips(tmp_path: Path, format: str, masks: bool, seed: int) -> None:
    parts = generated(tmp_path, seed, masks)
    written = convert(parts, tmp_path / "out", format)  # type: ignore[arg-type]
    again = open_dataset(tmp_path / "out")
    assert again.format == format and set(again.splits) == {"train", "val"}
    keeps = format in KEEPS_FLAGS, format in KEEPS_MASKS
    for split, part in parts.items():
        read = open_dataset(tmp_path / "out", split=split)
        assert rows(read, *keeps) == rows(part, *keeps)
        assert not [f for f in read.findings if f.severity != "note"]
    whole = [r for part in parts.values() for r in part.records]
    expected = set()
    if not keeps[0]:
        expected |= {f"{flag}-lost" for flag in ("crowd", "difficult") if any(getattr(r, flag).any() for r in whole)}
    if not keeps[1] and masks:
        expected.add("masks-lost")
    assert codes(written) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_splits_that_overlap(tmp_path: Path, format: str) -> None:
    parts = generated(tmp_path, masks=False)
    both = [r for part in parts.values() for r in part.records]
    parts["trainval"] = Dataset(CLASSES, both, path=tmp_path / "source", split="trainval")
    parts["test"] = Dataset(CLASSES, both[2:6], path=tmp_path / "source", split="test")
    written = convert(parts, tmp_path / "out", format)  # type: ignore[arg-type]
    lost = [f for f in written.findings if f.code == "splits-lost"]
    if format in KEEPS_OVERLAPS:
        assert set(open_dataset(tmp_path / "out").splits) == {"train", "val", "trainval", "test"} and not lost
        assert len(open_dataset(tmp_path / "out", split="test")) == 4
    else:
        assert "'test'" in lost[0].message and len(lost) == 1 and len(open_dataset(tmp_path / "out")) == 8
    assert len(open_dataset(tmp_path / "out", split="trainval")) == 8  # train and val, where it has no split of its own
    assert len(open_dataset(tmp_path / "out", split="val")) == 4


@pytest.mark.parametrize("format", FORMATS)
def test_class_names_that_lines_cannot_hold(tmp_path: Path, format: str) -> None:
    """Each stays a class of its own, and a name that changes is told."""
    part = generated(tmp_path, 1, False)["train"]
    part.classes = ("a\nb", "a b", "c\x00\x85d", "x\u2028y", "\ufeffe", *CLASSES[5:])
    written = convert(part, tmp_path / "out", format)  # type: ignore[arg-type]
    again = open_dataset(tmp_path / "out")
    want = {r.path.stem: [int(k) for k in r.labels] for r in part.records}
    if format in ("voc", "cvat"):
        assert "class-renamed" in codes(written)
    names: dict[int, set[str]] = {}
    for record in again.records:
        for k, label in zip(want[record.path.stem], record.labels.tolist(), strict=True):
            names.setdefault(k, set()).add(again.classes[label])
    assert all(len(found) == 1 for found in names.values())
    assert len({next(iter(found)) for found in names.values()}) == len(names)


def test_every_class_is_written_and_numbered_alike(tmp_path: Path) -> None:
    """A class without objects keeps its place where the format lists classes."""
    part = generated(tmp_path, 1, False)["train"]
    for format in ("voc", "coco", "yolo", "cvat"):
        assert open_dataset(convert(part, tmp_path / format, format).path).classes == CLASSES  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("a, b",), ("1 euro", "2 euro"), ("0 a", "1 b"), ('["x"]',), ("{a}",)])
@pytest.mark.parametrize("format", FORMATS)
def test_names_that_look_like_another_kind_of_list(tmp_path: Path, format: str, names: tuple[str, ...]) -> None:
    path = image(tmp_path / "source" / "a.jpg")
    record = _record(path, (64, 48), 2, np.random.default_rng(0), False)
    record.labels = np.array([0, len(names) - 1])
    convert(Dataset(names, [record], path=path.parent), tmp_path / "out", format)  # type: ignore[arg-type]
    again = open_dataset(tmp_path / "out")
    assert again.classes == names and again.records[0].labels.tolist() == record.labels.tolist()


@pytest.mark.parametrize("split", ["../up", "a/b", "..", "CON:1", ""])
@pytest.mark.parametrize("format", FORMATS)
def test_names_of_splits_stay_inside_the_folder(tmp_path: Path, format: str, split: str) -> None:
    part = generated(tmp_path, masks=False)["train"]
    written = convert({split: part}, tmp_path / "deep" / "out", format)  # type: ignore[arg-type]
    assert {p.name for p in tmp_path.iterdir()} == {"source", "deep"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"] and len(open_dataset(written.path)) == 4


def test_boxes_that_are_not_around_their_masks_are_told(tmp_path: Path) -> None:
    part = generated(tmp_path, masks=False)["train"]
    record = part.records[1]
    x1, y1, x2, y2 = record.boxes[0].tolist()
    record.masks = [[[x1 + 1, y1, x2, y1, x2, y2]], *[None] * (len(record) - 1)]
    for format in ("labelme", "cvat"):
        written = convert(part, tmp_path / format, format)  # type: ignore[arg-type]
        (finding,) = [f for f in written.findings if f.code == "boxes-changed"]
        assert "1 box " in finding.message and "1 px" in finding.message


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_yolo_without_a_validation_split_names_none(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """A val that is train's folder would let a detector validate on its own training images."""
    parts = generated(tmp_path, masks=False, splits=tuple(s or "train" for s in splits))
    written = convert(dict(zip(splits, parts.values(), strict=True)), tmp_path / "out", "yolo")
    doc = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert "val" not in doc and "split-missing" in codes(written)
    train, valid, note = split_pair(tmp_path / "out")
    assert not {r.path for r in train.records} & {r.path for r in valid.records}
    assert note.startswith("the split 'train' has no validation split") or splits == ("train", "test")


def test_the_command_tells_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doc: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [4, 5, 16, 25], "segmentation": [[4, 5, 20, 5, 20, 30]]},
        ],
    }
    coco(tmp_path / "set", json.dumps(doc))
    assert cli.main(["data", "convert", str(tmp_path / "set"), "--to", "createml", "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert "1 crowd region written as any other object: CreateML has no such flag" in output.err
    assert "masks of 1 image are not written" in output.err and "CREATEML, 1 images, 2 objects" in output.out


@pytest.mark.parametrize("format", ["csv", "labelme", "createml", "cvat"])
def test_a_split_of_the_source_is_written_in_its_format(tmp_path: Path, format: str) -> None:
    convert(generated(tmp_path, masks=False)["train"], tmp_path / "a", format)  # type: ignore[arg-type]
    words = ["data", "split", str(tmp_path / "a"), "--val", ".5", "--out", str(tmp_path / "b")]
    assert cli.main(words) == 0
    assert open_dataset(tmp_path / "b").format == format and len(open_dataset(tmp_path / "b", split="val")) == 2


@pytest.mark.parametrize("names", [("# 1", "cat"), ("- a", "- b"), ("0 a", "1 b"), ("a, b",), ("[x]",), ("{", "}")])
@pytest.mark.parametrize("format", ["voc", "coco", "yolo", "cvat"])
def test_names_that_look_like_something_else_stay(tmp_path: Path, format: str, names: tuple[str, ...]) -> None:
    """Lines of these names would be read as a comment, marks, numbers or a list; no object tells otherwise."""
    record = next(iter(generated(tmp_path, masks=False).values())).records[0]
    convert(Dataset(names, [record]), tmp_path / "out", format)  # type: ignore[arg-type]
    assert not len(record) and open_dataset(tmp_path / "out").classes == names
