"""CreateML's file and its variants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import BOXES
from tests.helpers.tool_formats import createml, createml_doc, images


def codes(dataset: Dataset) -> list[str]:
    return [f"{f.severity} {f.code}" for f in dataset.findings]


def write(root: Path, doc: Any) -> Dataset:
    images(root)
    (root / "labels.json").write_text(json.dumps(doc))
    return open_dataset(root)


@pytest.mark.parametrize(("image", "annotations"), [("imagefilename", "annotation"), ("filename", "annotations")])
def test_names_of_other_versions(tmp_path: Path, image: str, annotations: str) -> None:
    doc = [{image: e["image"], annotations: e["annotations"]} for e in createml_doc()]
    dataset = write(tmp_path, doc)
    assert [len(r) for r in dataset.records] == [len(boxes) for boxes in BOXES.values()] and not dataset.findings


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    doc = createml_doc()
    doc[0]["annotations"][0]["coordinates"].pop("width")
    doc[0]["annotations"][1]["label"] = None
    doc[1]["annotations"] = 5
    doc[3]["annotations"].append("cat")
    doc.append({"annotations": []})
    dataset = write(tmp_path, doc)
    assert sorted(codes(dataset)) == [
        *("error annotation-invalid", "warning box-not-number", "warning box-not-number"),
        *("warning class-missing", "warning image-invalid"),
    ]
    assert [len(r) for r in dataset.records] == [0, 0, 0, 2]


def test_two_entries_of_one_image_are_joined(tmp_path: Path) -> None:
    doc = createml_doc()
    doc.append({"image": "a.jpg", "annotations": doc[1]["annotations"]})
    dataset = write(tmp_path, doc)
    assert len(dataset.records[0]) == 3 and codes(dataset) == ["note image-repeated"]


def test_an_empty_file_of_one_split_is_an_error(tmp_path: Path) -> None:
    createml(tmp_path / "train")
    createml(tmp_path / "valid").joinpath("_annotations.createml.json").write_text("")
    assert "error annotation-unreadable" in codes(open_dataset(tmp_path, split="val"))
