"""Which dataset a folder holds, where it may be several, and the cases that users reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.data.open import open_dataset, split_pair
from foveal.data.records.dataset import Dataset
from tests.data.recognition.test_plain_yolo import labeled
from tests.helpers.data_sets import coco, image, voc
from tests.helpers.tool_formats import MAKERS, csv_text


def codes(dataset: Dataset) -> list[str]:
    return [f"{f.severity} {f.code}" for f in dataset.findings]


def test_a_table_beside_voc(tmp_path: Path) -> None:
    """One of the same images is a copy; one of more images may be what is meant."""
    voc(tmp_path / "set")
    (tmp_path / "labels.csv").write_text(csv_text())
    assert open_dataset(tmp_path).format == "voc" and not open_dataset(tmp_path).findings
    for n in range(9):
        image(tmp_path / "more" / f"x{n}.jpg")
    lines = "".join(f"x{n}.jpg,64,48,cat,1,2,9,9\n" for n in range(9))
    (tmp_path / "labels.csv").write_text(csv_text() + lines)
    assert codes(open_dataset(tmp_path)) == ["warning dataset-unused"]


def test_label_files_beside_coco(tmp_path: Path) -> None:
    coco(tmp_path)
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt")
    assert open_dataset(tmp_path).format == "coco" and not open_dataset(tmp_path).findings


@pytest.mark.parametrize("kind", list(MAKERS))
def test_any_capitals_of_endings(tmp_path: Path, kind: str) -> None:
    root = MAKERS[kind](tmp_path)
    for path in [*root.rglob("*.*")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert len(open_dataset(root)) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    voc(tmp_path / "set")
    for name in ("a.txt", "b.csv", "c.json", "d.xml", "e.data"):
        os.mkfifo(tmp_path / name)
    assert open_dataset(tmp_path).format == "voc"


FIELD = {"csv": 4, "labelme": 8, "createml": 4, "viajson": 4, "cvat-xml": 4, "colabeler": 12, "labelme/a0.json": 2}


@pytest.mark.parametrize("name", list(FIELD))
def test_formats_of_the_field(shared: Path, tmp_path: Path, name: str) -> None:
    given = str(shared / "field" / "14-other-formats" / name)
    assert cli.main(["doctor", given]) == 0
    assert cli.main(["data", "convert", given, "--to", "voc", "--out", str(tmp_path / "voc")]) == 0
    assert sum(map(len, open_dataset(tmp_path / "voc").records)) == FIELD[name]


def test_the_archive_of_the_field(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(shared / "field" / "14-other-formats" / "set.zip")]) == 1
    assert "an archive, which is not read. Unpack it and give the folder" in capsys.readouterr().err


def test_the_undivided_set_of_the_field(shared: Path, tmp_path: Path) -> None:
    given = str(shared / "field" / "32-convert-undivided-to-yolo" / "gt")
    assert cli.main(["data", "convert", given, "--to", "yolo", "--out", str(tmp_path / "yolo")]) == 0
    assert "val:" not in (tmp_path / "yolo" / "data.yaml").read_text()
    train, valid, _ = split_pair(tmp_path / "yolo")
    assert not {r.path for r in train.records} & {r.path for r in valid.records}
