"""CVAT's XML: shapes, masks, tracks, subsets."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.data.records.segmentation import masks_of
from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH
from tests.helpers.tool_formats import cvat, cvat_xml


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


def write(root: Path, text: str) -> Dataset:
    cvat(root).joinpath("annotations.xml").write_text(text)
    return open_dataset(root)


def with_shape(root: Path, shape: str) -> Dataset:
    return write(root, cvat_xml(shape))


def test_a_polygon_has_a_mask(tmp_path: Path) -> None:
    dataset = with_shape(tmp_path, '<polygon label="dog" occluded="0" points="4.00,5.00;20.00,5.00;20.00,30.50"/>')
    record = dataset.records[0]
    assert record.boxes[2].tolist() == [4, 5, 20, 30.5] and not dataset.findings
    assert record.masks is not None and record.masks[2] == [[4, 5, 20, 5, 20, 30.5]]


def test_a_mask_is_rows_of_runs(tmp_path: Path) -> None:
    shape = '<mask label="cat" occluded="0" rle="1, 2, 1, 4, 1, 3" left="10" top="20" width="4" height="3"/>'
    record = with_shape(tmp_path, shape).records[0]
    assert record.boxes[2].tolist() == [10, 20, 14, 23] and record.masks is not None
    dense = masks_of(record.masks, WIDTH, HEIGHT).dense()[2][20:23, 10:14].astype(int).tolist()
    assert dense == [[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]]


def test_turned_boxes_and_ellipses(tmp_path: Path) -> None:
    turned = '<box label="cat" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90.00" occluded="1"/>'
    ellipse = '<ellipse label="cat" cx="30" cy="20" rx="10" ry="4" rotation="90"/>'
    dataset = with_shape(tmp_path, turned + ellipse)
    assert dataset.records[0].boxes[2:].round(6).tolist() == [[25, 15, 35, 35], [26, 10, 34, 30]]
    assert codes(dataset) == ["note attributes-ignored"]
    assert "rotation of boxes" in dataset.findings[0].message and "occluded (1)" in dataset.findings[0].message


def test_attributes(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="{}" ytl="20" xbr="40" ybr="30"><attribute name="{}">{}</attribute></box>'
    shapes = [
        box.format(k, *pair) for k, pair in enumerate([("difficult", "true"), ("is_crowd", "1"), ("color", "red")])
    ]
    dataset = with_shape(tmp_path, "".join(shapes) + '<tag label="day"/>')
    record = dataset.records[0]
    assert record.difficult.tolist() == [False, False, True, False, False]
    assert record.crowd.tolist() == [False, False, False, True, False]
    assert codes(dataset) == ["note attributes-ignored"] and "'color'" in dataset.findings[0].message


@pytest.mark.parametrize("kind", ["points", "polyline", "cuboid", "skeleton"])
def test_shapes_without_an_area_are_told(tmp_path: Path, kind: str) -> None:
    dataset = with_shape(tmp_path, f'<{kind} label="cat" points="1,2;3,4"/>' * 2)
    assert codes(dataset) == ["warning shape-without-area"] and dataset.findings[0].message.startswith("2 shapes")
    assert len(dataset.records[0]) == 2


@pytest.mark.parametrize(
    "shape",
    [
        '<box label="cat" xtl="x" ytl="1" xbr="5" ybr="6"/>',
        '<polygon label="cat" points="1,2;3,4"/>',
        '<polygon label="cat" points="1,2;3,4;5"/>',
        '<mask label="cat" rle="5" left="0" top="0" width="2" height="2"/>',
        '<mask label="cat" rle="4" left="0" top="0" width="2" height="2"/>',
        '<mask label="cat" rle="0, 4" left="63" top="0" width="2" height="2"/>',
    ],
)
def test_invalid_shapes_are_told(tmp_path: Path, shape: str) -> None:
    dataset = with_shape(tmp_path, shape)
    assert codes(dataset) == ["warning shape-invalid"] and len(dataset.records[0]) == 2


def test_tracks_are_told(tmp_path: Path) -> None:
    track = '<track id="0" label="cat"><box frame="0" outside="0" xtl="1" ytl="1" xbr="5" ybr="6"/></track>'
    dataset = write(tmp_path / "a", f"<annotations><version>1.1</version>{track}</annotations>")
    assert codes(dataset) == ["error annotation-unreadable", "warning annotation-missing"]
    assert "CVAT for video" in dataset.findings[0].message and "CVAT for images" in dataset.findings[0].fix
    mixed = write(tmp_path / "b", cvat_xml().replace("</annotations>", track + "</annotations>"))
    assert codes(mixed) == ["error tracks-unsupported"] and len(mixed) == 4


def test_subsets_are_splits(tmp_path: Path) -> None:
    text = cvat_xml()
    for k, subset in enumerate(("Train", "Train", "Validation", "default")):
        text = text.replace(f'<image id="{k}"', f'<image id="{k}" subset="{subset}"')
    dataset = write(tmp_path, text)
    assert dataset.splits == ("train", "validation") and len(dataset) == 3
    assert codes(dataset) == ["warning images-undivided"] and "'d.jpg'" in dataset.findings[0].message
    assert [r.id for r in open_dataset(tmp_path, split="val").records] == ["c"]


def test_classes_are_those_of_the_task(tmp_path: Path) -> None:
    skeleton = "<label><name>nose</name><type>points</type><parent>person</parent></label>"
    text = cvat_xml('<box label="fox" xtl="1" ytl="1" xbr="5" ybr="6"/>').replace(
        "<labels>", f"<labels><label><name>zebra</name></label>{skeleton}"
    )
    assert write(tmp_path, text).classes == ("zebra", "cat", "dog", "fox")


def test_jobs_in_folders_are_one_dataset(tmp_path: Path) -> None:
    text = cvat_xml()
    head, *images = text.split("<image ")
    for job, some in enumerate((images[:2], images[2:])):
        (tmp_path / f"job_{job}").mkdir(parents=True)
        body = "".join("<image " + image for image in some).removesuffix("</annotations>\n")
        (tmp_path / f"job_{job}" / "annotations.xml").write_text(head + body + "</annotations>")
    cvat(tmp_path / "x").joinpath("annotations.xml").unlink()
    dataset = open_dataset(tmp_path)
    assert [len(r) for r in dataset.records] == [len(boxes) for boxes in BOXES.values()] and not dataset.findings
