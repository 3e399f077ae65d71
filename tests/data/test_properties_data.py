"""Properties of readers and writers: any dataset survives every format that is written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.data.convert import Format, convert, read_splits
from foveal.data.records.dataset import Dataset, Record
from foveal.data.records.subsets import seeded_split
from foveal.data.writing.plan import ExportPlan, _folder_names, number_text, plain_number
from foveal.data.writing.yolo import yaml_text
from foveal.evaluation import DetectionTable, GroundTruth, read_detections, save_detections
from tests.helpers.properties import examples

FORMATS: tuple[Format, ...] = ("voc", "coco", "yolo", "csv", "labelme", "createml", "cvat")
SIDES = (1, 2, 7, 64, 333)
# letters of several scripts, marks of XML, YAML, CSV and shells, spaces within; no control characters
TEXT = st.text(st.sampled_from("abzAÉß猫Ж0 19.-_&<>\"':;,#%|(){}[]=+*?~^$!@\\/😀"), min_size=1, max_size=8)
NAMES = TEXT.map(str.strip).filter(lambda name: name not in ("", "~"))  # "~" is YAML's null: an error when read
STEMS = st.text(st.sampled_from("abcÉ猫Ж019-_ &'#%(){}[]+~^!@"), min_size=1, max_size=6).map(str.strip).filter(bool)
COORDINATE = st.one_of(st.integers(0, 64).map(lambda n: n / 64), st.floats(0, 1, allow_subnormal=False))


@st.composite
def datasets(draw: Any, sides: tuple[int, ...] = SIDES) -> dict[str, Dataset]:
    """One to three splits of images without files: see :func:`with_images`."""
    classes = tuple(draw(st.lists(NAMES, min_size=1, max_size=3, unique_by=str.casefold)))
    stems = draw(st.lists(STEMS, min_size=1, max_size=4, unique_by=str.casefold))
    count = min(len(stems), draw(st.integers(1, 3)))
    names = [""] if count == 1 else ["train", "val", "test"][:count]
    parts: dict[str, list[Record]] = {name: [] for name in names}
    for i, stem in enumerate(stems):
        width, height = draw(st.sampled_from(sides)), draw(st.sampled_from(sides))
        n = draw(st.integers(0, 3))
        boxes = np.array([_box(draw, width, height) for _ in range(n)]).reshape(-1, 4)
        boxes = boxes[[b not in boxes[:k].tolist() for k, b in enumerate(boxes.tolist())]]
        n = len(boxes)
        labels = np.array([draw(st.integers(0, len(classes) - 1)) for _ in range(n)], np.int64)
        crowd, difficult = (np.array([draw(st.booleans()) for _ in range(n)], bool) for _ in range(2))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        record = Record(stem, Path(f"{stem}.png"), width, height, boxes, labels, crowd, difficult, crowd & False, area)
        parts[names[i % count]].append(record)
    return {name: Dataset(classes, records, split=name or None, splits=tuple(names)) for name, records in parts.items()}


def _box(draw: Any, width: int, height: int) -> list[float]:
    """Inside the image, with sides of at least a thousandth of a pixel."""
    x1, x2, y1, y2 = (draw(COORDINATE) for _ in range(4))
    low, high = (min(x1, x2) * width, min(y1, y2) * height), (max(x1, x2) * width, max(y1, y2) * height)
    low = tuple(min(v, side - 1e-3) for v, side in zip(low, (width, height), strict=True))
    return [*low, *(max(v, before + 1e-3) for v, before in zip(high, low, strict=True))]


def with_images(parts: dict[str, Dataset], root: Path) -> dict[str, Dataset]:
    for part in parts.values():
        for record in part.records:
            record.path = root / record.path.name
            Image.new("L", (record.width, record.height)).save(record.path)
    return parts


def objects(parts: dict[str, Dataset], flags: bool) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """Split and image -> size, and class, flags and box of every object, in their order."""
    return {
        (split, record.path.stem): [
            (record.width, record.height),
            *(
                (part.classes[k], flags and bool(c), flags and bool(d), *np.round(b, 6).tolist())
                for k, c, d, b in zip(record.labels, record.crowd, record.difficult, record.boxes, strict=True)
            ),
        ]
        for split, part in parts.items()
        for record in part.records
    }


@pytest.mark.parametrize("format", FORMATS)
@examples(60)  # 10 to 20 ms each: files are written and read
@given(st.data())
def test_any_dataset_survives_every_format(format: Format, data: st.DataObject) -> None:
    parts = data.draw(datasets(SIDES[1:] if format == "csv" else SIDES))
    if format == "csv":  # boxes within the first pixel are taken for fractions of the image, with a warning
        for record in (r for part in parts.values() for r in part.records):
            record.boxes[:, 2:] = np.maximum(record.boxes[:, 2:], 1.5)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "source").mkdir()
        first = with_images(parts, root / "source")
        written = convert(first, root / "out", format)
        lost = {f.code for f in written.findings}
        assert lost <= {"split-missing", "crowd-lost", "difficult-lost"}
        again = read_splits(root / "out")
        if format == "yolo" and "" in first:  # which has no images without a split
            first = {"train": first[""]}
        flags = format != "createml"
        read, expected = objects(again, flags), objects(first, flags)
        assert read.keys() == expected.keys()
        for key, rows in expected.items():
            assert read[key][0] == rows[0]
            for ours, theirs in zip(read[key][1:], rows[1:], strict=True):
                assert ours[:3] == theirs[:3]
                assert np.allclose(ours[3:], theirs[3:], rtol=0, atol=2e-6)
        if format in ("voc", "coco", "yolo", "cvat"):  # the others have no list of classes
            assert next(iter(again.values())).classes == next(iter(first.values())).classes


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_so_that_the_same_is_read(value: float) -> None:
    assert float(number_text(value)) == value and float(plain_number(value)) == value
    assert "." in number_text(value) or "e" in number_text(value) or value == int(value)


@given(st.text(max_size=12))
def test_any_text_is_a_yaml_scalar(text: str) -> None:
    assert yaml.safe_load(f"names:\n  0: {yaml_text(text)}\n") == {"names": {0: text}}


@given(st.lists(st.text(max_size=5), max_size=6, unique=True))
def test_folders_of_splits_are_plain_and_different(splits: list[str]) -> None:
    names = _folder_names(splits)
    assert len(set(names)) == len(splits)
    assert all(not set(name) & set('/\\:*?"<>| \0') and name not in (".", "..") for name in names)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.text("aA _-\n", max_size=3), st.sampled_from([".jpg", ".png"])),
        max_size=8,
        unique=True,
    )
)
def test_images_of_a_plan_never_share_a_stem(files: list[tuple[str, str, str]]) -> None:
    """Also on disks that do not tell upper from lower case."""
    none = np.zeros(0)
    records = [
        Record(str(i), Path(f"/{folder}/{stem}{suffix}"), 1, 1, np.zeros((0, 4)), *5 * [none])
        for i, (folder, stem, suffix) in enumerate(files)
    ]
    plan = ExportPlan.of({"": Dataset(("a",), records)}, nested=True)
    stems = [Path(name).stem.lower() for name in plan.names]
    assert len(set(stems)) == len({str(r.path) for r in records}) and not any("\n" in name for name in plan.names)


@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=20, unique=True),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
    st.data(),
)
def test_a_seeded_split_is_a_division_that_follows_the_ids(
    ids: list[int], fraction: float, seed: int, data: st.DataObject
) -> None:
    def dataset(order: list[int]) -> Dataset:
        return Dataset(("a",), [Record.bare(str(i)) for i in order])

    train, val = seeded_split(dataset(ids), fraction, seed)
    names = [{r.id for r in part.records} for part in (train, val)]
    assert names[0] | names[1] == {str(i) for i in ids} and not names[0] & names[1] and all(names)
    assert abs(len(val) - fraction * len(ids)) <= 1
    again = seeded_split(dataset(data.draw(st.permutations(ids))), fraction, seed)
    assert [{r.id for r in part.records} for part in again] == names


@st.composite
def detections(draw: Any, real: bool) -> tuple[GroundTruth, DetectionTable]:
    ids = draw(st.lists(STEMS if real else st.integers(0, 2**53), min_size=1, max_size=3, unique=True))
    classes = draw(st.permutations(("a", "0 b", "é")))  # a name that is a number may be an id, and is refused
    truth = GroundTruth.build(ids, classes, [], [], np.zeros((0, 4)))
    n = draw(st.integers(0, 5))
    image = [draw(st.integers(0, len(ids) - 1)) for _ in range(n)]
    label = [draw(st.integers(0, len(classes) - 1)) for _ in range(n)]
    number = st.floats(-1e4, 1e4)
    box = [
        [x, y, x + w, y + h]
        for x, y, w, h in (
            tuple(draw(number) for _ in range(2)) + tuple(abs(draw(number)) + 0.5 for _ in range(2)) for _ in range(n)
        )
    ]
    return truth, DetectionTable.build(
        image, label, np.array(box).reshape(-1, 4), [draw(st.floats(0, 1)) for _ in range(n)]
    )


@examples(200)  # a file is written and read
@given(detections(real=False))
def test_coco_results_are_read_as_they_were_written(made: tuple[GroundTruth, DetectionTable]) -> None:
    truth, table = made
    with tempfile.TemporaryDirectory() as folder:
        save_detections(table, truth, Path(folder) / "found.json")
        again = read_detections(Path(folder) / "found.json", truth)
    for name in ("image", "label", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    np.testing.assert_allclose(again.box, table.box, rtol=1e-12, atol=1e-8)
