"""What is said about a path without a dataset: the likely cause, and what to do."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.data.open import open_dataset
from foveal.errors import FovealError
from tests.data.recognition.test_plain_yolo import labeled
from tests.helpers.data_sets import image


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("ending", [".zip", ".ZIP", ".tar", ".tar.gz", ".tgz", ".rar", ".7z"])
def test_archives(tmp_path: Path, ending: str, given: str) -> None:
    path = tmp_path / f"set{ending}"
    if ending.lower() == ".zip":
        zipfile.ZipFile(path, "w").close()
    elif ending.startswith((".tar", ".tgz")):
        tarfile.open(path, "w").close()
    else:
        path.write_bytes(b"Rar!")
    image(tmp_path / "a.jpg")
    with pytest.raises(FovealError, match=r"an archive.*Unpack it and give the folder"):
        open_dataset(path if given == "file" else tmp_path)


def test_an_archive_of_another_name(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "set", "w").close()
    with pytest.raises(FovealError, match="an archive"):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("train.tfrecord", "TFRecord"),
        ("metadata.jsonl", "JSON lines"),
        ("train.parquet", "Parquet"),
        ("digitStruct.mat", "MATLAB"),
        ("labels.pkl", "pickles"),
        ("train.h5", "HDF5"),
        ("labels.xlsx", "spreadsheets"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, what: str) -> None:
    image(tmp_path / "a.jpg")
    (tmp_path / name).write_bytes(b'{"file_name": "a.jpg"}\n{"file_name": "b.jpg"}\n')
    for given in (tmp_path, tmp_path / name):
        with pytest.raises(FovealError, match=f"{what}.*Export"):
            open_dataset(given)


@pytest.mark.parametrize(
    ("doc", "what"),
    [
        ({"description": "", "tags": [], "size": {"height": 4, "width": 4}, "objects": []}, "Supervisely"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "detections"),
        ([{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 1}}]}], "BDD100K"),
        ([{"data_row": {"id": 1}, "projects": {}}], "Labelbox"),
        ({"asset": {}, "regions": [{"boundingBox": {}}]}, "VoTT"),
        ({"dm_format_version": "1.0", "items": []}, "Datumaro"),
    ],
)
def test_other_tools_are_named(tmp_path: Path, doc: object, what: str) -> None:
    image(tmp_path / "a.jpg")
    (tmp_path / "x.json").write_text(json.dumps(doc))
    for given in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(FovealError, match=what):
            open_dataset(given)


def test_roboflow_without_its_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "train" / "a.jpg")
    (tmp_path / "README.roboflow.txt").write_text("Exported by Roboflow")
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "README.roboflow.txt is Roboflow's, but its annotations" in capsys.readouterr().err


def test_the_folder_of_the_images_alone(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt")
    with pytest.raises(FovealError, match=r"the annotations are probably in .*labels\. Give "):
        open_dataset(tmp_path / "images")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("684,8,273,116,0,0,0,0", "VisDrone"),
        ("1,-1,912,484,97,109,0,7,1", "MOTChallenge"),
        ("imagesource:GoogleEarth\ngsd:0.1\n1 2 30 2 30 40 1 40 plane 0", "DOTA"),
    ],
)
def test_label_files_of_other_kinds(tmp_path: Path, line: str, what: str) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.txt").write_text(f"{line}\n")
    with pytest.raises(FovealError, match=f"{what}.*not read.*Convert"):
        open_dataset(tmp_path)


def test_empty_label_files(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt")
    for path in (tmp_path / "labels").iterdir():
        path.write_text("")
    with pytest.raises(FovealError, match="its 4 label files are empty"):
        open_dataset(tmp_path)


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    labeled(tmp_path / "images", tmp_path / "labels", classes=tmp_path / "classes.txt")
    (tmp_path / "boxes.csv").write_text("image,label,x1,y1,x2,y2\na.jpg,cat,1,2,3,4\n")
    with pytest.raises(FovealError, match=r"holds 2 datasets: YOLO in .*; CSV in .*boxes\.csv.*move the others"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "boxes.csv").format == "csv"
