"""Label Studio's export: percent, turned boxes, several annotations, predictions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import HEIGHT, WIDTH
from tests.helpers.tool_formats import label_studio, label_studio_doc


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


def write(root: Path, doc: Any) -> Dataset:
    label_studio(root)
    (root / "project-1-at-2024-01-01.json").write_text(json.dumps(doc))
    return open_dataset(root)


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "z", "type": kind, "from_name": "label", "to_name": "image", "value": value, **sizes, **more}


def first(root: Path, *regions: dict[str, Any]) -> Dataset:
    doc = label_studio_doc()
    doc[0]["annotations"][0]["result"] = [r | {"id": k} if r["id"] == "z" else r for k, r in enumerate(regions)]
    return write(root, doc)


def test_a_turned_rectangle_is_the_box_around_it(tmp_path: Path) -> None:
    """By 90 degrees around its top left corner: width and height are exchanged in pixels, not in percent."""
    value = {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 90, "rectanglelabels": ["cat"]}
    dataset = first(tmp_path, region("rectanglelabels", value))
    assert dataset.records[0].boxes.round(6).tolist() == [[32 - 12, 24, 32, 24 + 16]]
    assert codes(dataset) == ["note box-turned"]


def test_polygons_and_ellipses_have_masks(tmp_path: Path) -> None:
    polygon = {"points": [[25, 25], [50, 25], [50, 75]], "polygonlabels": ["cat"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 25, "rotation": 0, "ellipselabels": ["dog"]}
    dataset = first(tmp_path, region("polygonlabels", polygon), region("ellipselabels", ellipse))
    (record,) = dataset.records[:1]
    assert record.boxes.round(6).tolist() == [[16, 12, 32, 36], [24, 12, 40, 36]] and not dataset.findings
    masks: Any = record.masks
    assert masks[0] == [[16, 12, 32, 12, 32, 36]] and math.isclose(min(masks[1][0][0::2]), 24)


def test_a_shape_and_its_label_apart(tmp_path: Path) -> None:
    """The tags Rectangle and Labels write two entries with the same id."""
    value = {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0}
    parts = [region("rectangle", value, id="r"), region("labels", value | {"labels": ["cat"]}, id="r")]
    choice = {"id": "c", "type": "choices", "from_name": "quality", "to_name": "image", "value": {"choices": ["good"]}}
    dataset = first(tmp_path, *parts, choice)
    assert dataset.records[0].boxes.tolist() == [[16, 12, 32, 36]] and codes(dataset) == ["note attributes-ignored"]


def test_two_shapes_of_one_id_are_two_objects(tmp_path: Path) -> None:
    value = {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    dataset = first(tmp_path, *(region("rectanglelabels", value | {"x": x}, id="r") for x in (25, 50)))
    assert dataset.records[0].boxes.tolist() == [[16, 12, 32, 36], [32, 12, 48, 36]]


def test_regions_that_are_no_objects_are_told(tmp_path: Path) -> None:
    box = {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0}
    dataset = first(
        tmp_path,
        region("brushlabels", {"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}),
        region("keypointlabels", {"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["cat"]}),
        region("rectanglelabels", box | {"rectanglelabels": ["cat", "dog"]}),
        region("rectanglelabels", box | {"rectanglelabels": []}),
        region("rectanglelabels", box | {"rectanglelabels": ["cat"]}, image_rotation=90),
        region("rectanglelabels", box | {"rectanglelabels": ["cat"], "x": "left"}),
    )
    assert len(dataset.records[0]) == 0
    assert codes(dataset) == ["warning class-missing", *["warning shape-invalid"] * 5]


def test_annotations_and_predictions_of_a_task(tmp_path: Path) -> None:
    doc = label_studio_doc()
    again = json.loads(json.dumps(doc[0]["annotations"][0]))
    doc[0]["annotations"][0]["updated_at"] = "2024-01-01"
    doc[0]["annotations"].append({**again, "id": 9, "updated_at": "2024-02-01", "result": again["result"][:1]})
    doc[1]["annotations"][0]["was_cancelled"] = True
    doc[2]["annotations"] = []
    doc[2]["predictions"] = [{"result": []}]
    dataset = write(tmp_path, doc)
    assert [len(r) for r in dataset.records] == [1, 2]
    assert codes(dataset) == [
        *("note predictions-ignored", "warning annotation-missing", "warning annotation-missing"),
        "warning annotations-several",
    ]
    doc[0]["annotations"][0]["ground_truth"] = True
    assert len(write(tmp_path, doc).records[0]) == 2


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=photos/0a1b2c3d-a.jpg",
        "s3://bucket/0a1b2c3d-a.jpg",
        "https://example.com/0a1b2c3d-a.jpg?X=1",
        "0a1b2c3d-a.jpg",
    ],
)
def test_addresses_of_images(tmp_path: Path, address: str) -> None:
    doc = label_studio_doc()
    doc[0]["data"] = {"img": address, "text": "a photo"}
    dataset = write(tmp_path, doc)
    assert len(dataset) == 4 and all(code.startswith("note name-") for code in codes(dataset))


def test_a_task_without_an_image(tmp_path: Path) -> None:
    doc = label_studio_doc()
    doc[0]["data"] = {"text": "none"}
    assert codes(write(tmp_path, [*doc, 5]))[-2:] == ["warning image-invalid"] * 2
