"""dlib's XML files (imglab)."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.data.open import open_dataset
from tests.helpers.data_sets import image

BOX = '<box top="5" left="4" width="16" height="25"'


def dlib(root: Path, images: str, encoding: str = "utf-8") -> Path:
    image(root / "a.jpg")
    (root / "training.xml").write_bytes(f"<dataset><name>x</name><images>{images}</images></dataset>".encode(encoding))
    return root


def test_labels_flags_and_landmarks(tmp_path: Path) -> None:
    first = f"{BOX}><label>cat</label><part name='0' x='4' y='5'/></box>"
    boxes = f"{first}{BOX} ignore='1' difficult='1'><label>dog</label></box>"
    dataset = open_dataset(dlib(tmp_path, f"<image file='a.jpg' width='64' height='48'>{boxes}</image>"))
    (record,) = dataset.records
    assert dataset.format == "dlib" and dataset.classes == ("cat", "dog")
    assert record.boxes.tolist() == [[4, 5, 20, 30]] * 2
    assert record.crowd.tolist() == record.difficult.tolist() == [False, True]
    assert [(f.code, f.message) for f in dataset.findings] == [("attributes-ignored", "1 part (landmarks), ignored")]


def test_boxes_without_labels_are_of_one_class(tmp_path: Path) -> None:
    dataset = open_dataset(dlib(tmp_path, f"<image file='a.jpg'>{BOX}/></image>"))
    assert dataset.classes == ("object",) and [len(r) for r in dataset.records] == [1]
    assert [f.code for f in dataset.findings] == ["classes-missing"]


@pytest.mark.parametrize(
    ("images", "code"),
    [
        ("<image file='a.jpg'><box top='5' left='x' width='1' height='2'/></image>", "box-not-number"),
        (f"<image><box/></image><image file='a.jpg'>{BOX}><label>cat</label></box></image>", "image-invalid"),
        (f"<image file='a.jpg'>{BOX}><label>caté</label></box></image>", "encoding-guessed"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, images: str, code: str) -> None:
    dataset = open_dataset(dlib(tmp_path, images, "latin-1"))
    assert code in [f.code for f in dataset.findings] and len(dataset) == 1
