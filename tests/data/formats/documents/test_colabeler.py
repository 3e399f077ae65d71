"""Colabeler's XML files."""

from __future__ import annotations

from pathlib import Path

from foveal.data.open import open_dataset
from tests.helpers.data_sets import image

BOX = "<item><name>cat</name><bndbox><xmin>4</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></item>"
POLYGON = (
    "<item><name>dog</name><polygon><x1>4</x1><y1>5</y1><x2>20</x2><y2>5</y2><x3>20</x3><y3>30</y3></polygon></item>"
)
LINE = "<item><name>dog</name><line><x1>4</x1><y1>5</y1></line></item>"


def test_boxes_and_polygons(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "xml").mkdir()
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    text = (
        f"<?xml version='1.0'?><doc><path>D:\\img\\a.jpg</path><outputs><object>{BOX}{POLYGON}{LINE}</object></outputs>"
    )
    (tmp_path / "xml" / "a.xml").write_text(f"{text}<labeled>true</labeled>{size}</doc>")
    dataset = open_dataset(tmp_path)
    (record,) = dataset.records
    assert dataset.format == "colabeler" and dataset.classes == ("cat", "dog")
    assert record.boxes.tolist() == [[4, 5, 20, 30]] * 2 and record.masks == [None, [[4, 5, 20, 5, 20, 30]]]
    assert [f.code for f in dataset.findings] == ["shape-invalid"]


def test_the_field_case(shared: Path) -> None:
    dataset = open_dataset(shared / "field" / "14-other-formats" / "colabeler")
    assert len(dataset) == 6 and sum(map(len, dataset.records)) == 12 and not dataset.findings
