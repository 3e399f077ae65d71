"""The inventory of a dataset tells which of its images changed, also where their sizes are the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from foveal.data.open import open_dataset
from foveal.data.records.inventory import Inventory, replaced_files
from tests.helpers.data_sets import coco


def test_a_replaced_file_of_the_same_size_is_told(tmp_path: Path) -> None:
    dataset = open_dataset(coco(tmp_path / "set"))
    before = Inventory.of(dataset)
    before.write(tmp_path / "list.json")
    stored = Inventory.read(tmp_path / "list.json")
    assert stored == before and replaced_files(before, dataset) == ""
    image = dataset.records[0].path
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    said = f"1 image file was replaced (a.jpg: other content of {len(content)} bytes)"
    assert replaced_files(before, dataset) == said


def test_a_copied_dataset_is_the_same(tmp_path: Path) -> None:
    before = Inventory.of(open_dataset(coco(tmp_path / "set")))
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    assert replaced_files(before, open_dataset(tmp_path / "copy")) == ""


def test_a_list_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    dataset = open_dataset(coco(tmp_path / "set"))
    Inventory.of(dataset).write(tmp_path / "list.json")
    doc = json.loads((tmp_path / "list.json").read_text())
    doc["images"] = [row[:7] for row in doc["images"]]
    (tmp_path / "list.json").write_text(json.dumps(doc))
    before = Inventory.read(tmp_path / "list.json")
    assert before is not None and replaced_files(before, dataset) == ""
