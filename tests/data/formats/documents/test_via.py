"""VIA's files: shapes, projects, and which attribute is the class."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from foveal.data.open import open_dataset
from foveal.data.recognition.kinds import json_kind
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import BOXES
from tests.helpers.tool_formats import images, via_doc


def codes(dataset: Dataset) -> list[str]:
    return [f"{f.severity} {f.code}" for f in dataset.findings]


def write(root: Path, doc: Any) -> Dataset:
    images(root)
    (root / "via.json").write_text(json.dumps(doc))
    return open_dataset(root)


def regions(*shapes: dict[str, Any], attributes: Any = None) -> dict[str, Any]:
    doc = via_doc()
    first = next(iter(doc))
    doc[first]["regions"] = [
        {"shape_attributes": s, "region_attributes": {"class": "cat"} if attributes is None else attributes}
        for s in shapes
    ]
    return doc


def test_a_project(tmp_path: Path) -> None:
    project = {
        "_via_settings": {"ui": {}},
        "_via_img_metadata": via_doc(),
        "_via_attributes": {"region": {}, "file": {}},
    }
    dataset = write(tmp_path, project | {"_via_data_format_version": "2.0.10", "_via_image_id_list": ["a.jpg0"]})
    assert [len(r) for r in dataset.records] == [len(boxes) for boxes in BOXES.values()] and not dataset.findings


def test_version_1_numbers_its_regions(tmp_path: Path) -> None:
    doc = via_doc()
    for entry in doc.values():
        entry["regions"] = {str(k): region for k, region in enumerate(entry["regions"])}
        entry |= {"fileref": "", "base64_img_data": ""}
    assert not write(tmp_path, doc).findings


def test_shapes(tmp_path: Path) -> None:
    dataset = write(
        tmp_path,
        regions(
            {"name": "polygon", "all_points_x": [4, 20, 20], "all_points_y": [5, 5, 30]},
            {"name": "circle", "cx": 30, "cy": 20, "r": 5.5},
            {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4, "theta": math.pi / 2},
            {"name": "point", "cx": 30, "cy": 20},
            {"name": "polyline", "all_points_x": [4, 20], "all_points_y": [5, 5]},
            {"name": "rect", "x": 1, "y": 2, "width": "x", "height": 4},
            {"name": "polygon", "all_points_x": [4, 20, 20], "all_points_y": [5, 5]},
        ),
    )
    boxes = dataset.records[0].boxes.round(6).tolist()
    assert boxes == [[4, 5, 20, 30], [24.5, 14.5, 35.5, 25.5], [26, 10, 34, 30]]
    masks = dataset.records[0].masks
    assert masks is not None and masks[0] == [[4, 5, 20, 5, 20, 30]] and all(masks)
    assert sorted(codes(dataset)) == [
        *("warning shape-invalid", "warning shape-invalid", "warning shape-without-area", "warning shape-without-area"),
    ]


RECT = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}


def test_regions_without_attributes_are_of_one_class(tmp_path: Path) -> None:
    doc = via_doc()
    for entry in doc.values():
        for region in entry["regions"]:
            region["region_attributes"] = {}
    dataset = write(tmp_path, doc)
    assert dataset.classes == ("object",) and codes(dataset) == ["warning classes-missing"]


@pytest.mark.parametrize(
    ("extra", "classes", "code"),
    [
        ({"class": "cat"}, ("cat", "dog"), ""),
        ({"class": "cat", "color": "red"}, ("cat", "dog"), "note attributes-ignored"),
        ({"class": ""}, ("cat", "dog"), "warning class-missing"),
        ({"class": {"cat": True, "dog": False}}, ("cat", "dog"), ""),
        ({"class": {"cat": True, "dog": True}}, ("cat", "dog"), "warning class-missing"),
    ],
)
def test_the_class_is_the_shared_attribute(
    tmp_path: Path, extra: dict[str, Any], classes: tuple[str, ...], code: str
) -> None:
    dataset = write(tmp_path, regions(RECT, attributes=extra))
    assert dataset.classes == classes and codes(dataset) == ([code] if code else [])


def test_several_shared_attributes(tmp_path: Path) -> None:
    doc = via_doc()
    for entry in doc.values():
        for region in entry["regions"]:
            region["region_attributes"] = {"kind": region["region_attributes"]["class"], "color": "red"}
    dataset = write(tmp_path, doc)
    assert not dataset.classes and codes(dataset)[0] == "error classes-ambiguous"
    assert "'color' or 'kind'" in dataset.findings[0].message
    for entry in doc.values():
        for region in entry["regions"]:
            region["region_attributes"]["label"] = region["region_attributes"]["kind"]
    dataset = write(tmp_path, doc)
    assert dataset.classes == ("cat", "dog") and codes(dataset) == ["warning attributes-ignored"]


def test_version_3_without_a_region(tmp_path: Path) -> None:
    images(tmp_path)
    project = {"project": {"pid": "x"}, "file": {"1": {"fname": "a.jpg"}}, "metadata": {}, "view": {"1": {}}}
    path = tmp_path / "project.json"
    path.write_text(json.dumps(project))
    assert json_kind(path) == "via3"
    for given in (path, tmp_path):
        assert len(open_dataset(given)) == 1
