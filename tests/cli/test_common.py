"""What the verbs print about a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.cli.common import print_findings
from foveal.data.open import open_dataset
from tests.helpers.data_sets import coco, coco_doc


def test_notes_are_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doc = coco_doc()
    for image in doc["images"]:
        image["file_name"] = image["file_name"].upper()
    print_findings(open_dataset(coco(tmp_path, doc)))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("note name-capitals") and "4 images were found" in lines[0]
