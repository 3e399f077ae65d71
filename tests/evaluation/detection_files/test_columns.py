"""Files of detections in the forms that tools write them, our own included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveal.errors import FovealError
from foveal.evaluation import DetectionTable, GroundTruth, read_detections

SIZES = [(40, 60), (40, 60), (40, 60)]
FILES = ["set/one/a.jpg", "set/two/a.jpg", "set/Straße 3.JPEG"]
DETECTION = {"label": "big cat", "score": 0.5, "box": [1.0, 2.0, 11.0, 22.0]}


@pytest.fixture
def truth() -> GroundTruth:
    return GroundTruth.build(
        [9, 25, 30], ["cat", "big cat"], [0], [0], [[0, 0, 9, 9]], sizes=SIZES, category_ids=(18, 3), files=FILES
    )


def entry(image: str, *detections: Any, width: int = 60, height: int = 40) -> dict[str, Any]:
    """One image of ``predict --json``."""
    return {"image": image, "width": width, "height": height, "detections": list(detections)}


def read(path: Path, data: Any, truth: GroundTruth, notes: list[str] | None = None) -> DetectionTable:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_detections(path, truth, on_note=None if notes is None else notes.append)


def rows(found: DetectionTable) -> list[tuple[int, int, list[float], float]]:
    return list(zip(found.image.tolist(), found.label.tolist(), found.box.tolist(), found.score.tolist(), strict=True))


EXPECTED = [(1, 1, [1.0, 2.0, 11.0, 22.0], 0.5)]


# --------------------------------------------------------------------------------------------- predict --json
def test_what_predict_writes(tmp_path: Path, truth: GroundTruth) -> None:
    notes: list[str] = []
    data = [entry("elsewhere/two/a.jpg", DETECTION), entry("elsewhere/one/a.jpg")]
    assert rows(read(tmp_path / "found.json", data, truth, notes)) == EXPECTED
    assert notes == ["found images: 2 by file name", "found classes: 1 by name"]


@pytest.mark.parametrize(
    "data",
    [
        entry("two/a.jpg", DETECTION),
        {"results": [entry("two/a.jpg", DETECTION)]},
        json.dumps(entry("two/a.jpg", DETECTION)) + "\n\n" + json.dumps(entry("one/a.jpg")) + "\r\n",
        [{"image_id": 25, "instances": [{"category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.5}]}],
        [{"file_name": "two/a.jpg", "predictions": [{"class": "big cat", "bbox": [1, 2, 10, 20], "confidence": 0.5}]}],
    ],
    ids=["one image", "wrapped", "JSON lines", "detectron2", "file_name"],
)
def test_detections_by_image(tmp_path: Path, truth: GroundTruth, data: Any) -> None:
    assert rows(read(tmp_path / "found.json", data, truth)) == EXPECTED


def test_masks_of_predict(tmp_path: Path, truth: GroundTruth) -> None:
    mask = {"size": [40, 60], "counts": [100, 5, 2295]}
    found = read(tmp_path / "found.json", [entry("two/a.jpg", {**DETECTION, "mask": mask})], truth)
    assert found.masks is not None and int(found.masks.area()[0]) == 5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([entry("a.jpg", DETECTION)], "image 'a.jpg' may be set/one/a.jpg and set/two/a.jpg.*folders"),
        ([entry("b.jpg", DETECTION)], "1 of 1 image ids are not in the dataset: b.jpg"),
        ([entry("b.jpg")], "1 of 1 image ids are not in the dataset: b.jpg"),
        ([entry("x/two/a.jpg"), entry("y/two/a.jpg")], "'x/two/a.jpg' and 'y/two/a.jpg' would both be set/two/a.jpg"),
        ([entry("two/a.jpg", {**DETECTION, "label": "dog"})], "record 0, detection 0: unknown class 'dog'"),
        ([entry("two/a.jpg", {**DETECTION, "label": "big kat"})], "Did you mean big cat?"),
        ([entry("two/a.jpg", {**DETECTION, "label": 1})], "record 0, detection 0: unknown category id 1"),
        ([entry("two/a.jpg", {**DETECTION, "box": [1, 2, 3]})], r"detection 0: box is .*\[x1, y1, x2, y2\]"),
        ([entry("two/a.jpg", DETECTION, width=61)], "'two/a.jpg' was 61 x 40, and that of the dataset is 60 x 40"),
        ([entry("two/a.jpg", 7)], "record 0, detection 0: expected an object, got 7"),
        ([entry("two/a.jpg"), {"image": "one/a.jpg"}], "record 1: expected an image with its detections"),
        ([{"image": None, "detections": []}], "record 0: image is None"),
        ([{"code": "x", "severity": "note", "message": "m", "path": "p"}], "the findings of foveal doctor, not detec"),
        ({"protocol": "coco", "AP": 0.5}, "the scores of foveal eval, not detections"),
        ({"AP": 0.5}, "expected a list of detections, got dict"),
        ([{"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4]}], "ground truth has no scores"),
    ],
)
def test_errors(tmp_path: Path, truth: GroundTruth, data: Any, words: str) -> None:
    with pytest.raises(FovealError, match=words) as error:
        read(tmp_path / "some.json", data, truth)
    assert str(error.value).startswith(str(tmp_path / "some.json"))


# ----------------------------------------------------------------------------------------------- COCO results
GOOD = {"image_id": 25, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": "two/a.jpg"},
        {"image_id": "two/a"},
        {"image_id": "C:\\data\\two\\a.png"},
        {"image_id": "https://example.org/two/a.jpg?size=1"},
        {"image_id": "25"},
        {"image_id": 25.0},
        {"category_id": "big cat"},
        {"category_id": "Big Cat "},
        {"category_id": "big_cat"},
        {"category_id": "3"},
    ],
)
def test_images_and_classes_by_name(tmp_path: Path, truth: GroundTruth, change: Any) -> None:
    assert rows(read(tmp_path / "d.json", [{**GOOD, **change}], truth)) == EXPECTED


@pytest.mark.parametrize("name", ["Straße 3.JPEG", "Straße 3", "Stra%C3%9Fe%203.jpeg", "STRASSE 3.jpg", "straße 3"])
def test_image_names_in_other_letters(tmp_path: Path, truth: GroundTruth, name: str) -> None:
    assert read(tmp_path / "d.json", [{**GOOD, "image_id": name}], truth).image.tolist() == [2]


def test_other_keys_of_the_same_record(tmp_path: Path, truth: GroundTruth) -> None:
    record = {"file_name": "two/a.jpg", "category": "big cat", "box": [1, 2, 11, 22], "confidence": 0.5}
    assert rows(read(tmp_path / "d.json", [record], truth)) == EXPECTED


def test_a_file_with_its_own_numbers_goes_by_its_names(tmp_path: Path, truth: GroundTruth) -> None:
    """Its image 9 and its category 18 are not those of the dataset."""
    document = {
        "images": [{"id": 9, "file_name": "two/a.jpg"}],
        "categories": [{"id": 18, "name": "big cat"}],
        "annotations": [{**GOOD, "image_id": 9, "category_id": 18}],
    }
    assert rows(read(tmp_path / "d.json", document, truth)) == EXPECTED
    document["images"] = [{"id": 25, "file_name": "renamed.jpg"}]
    document["annotations"] = [{**GOOD, "category_id": 18}]
    assert rows(read(tmp_path / "d.json", document, truth)) == EXPECTED, "names of no image here: the ids"


def test_names_that_may_be_ids(tmp_path: Path) -> None:
    """``1`` is the id of the first image and the name of the second; 2 is a class, and the number of another."""
    truth = GroundTruth.build([1, 2], ["cat"], [0], [0], [[0, 0, 9, 9]], files=["b/2.jpg", "b/1.jpg"])
    record = {"image_id": "1", "category_id": 1, "bbox": [1, 2, 10, 20], "score": 0.5}
    with pytest.raises(FovealError, match=r"'1' is the id of b/2.jpg, and the name of b/1.jpg"):
        read(tmp_path / "d.json", [record], truth)
    assert read(tmp_path / "d.json", [{**record, "image_id": "1.jpg"}], truth).image.tolist() == [1]
    assert read(tmp_path / "d.json", [{**record, "image_id": 1}], truth).image.tolist() == [0]
    digits = GroundTruth.build(["x"], ["0", "1", "2"], [0], [0], [[0, 0, 9, 9]])
    for label in (1, "1"):
        with pytest.raises(FovealError, match=r"class '?1'? may be the one with this name or the category '0'"):
            read(tmp_path / "d.json", [{**record, "image_id": "x", "category_id": label}], digits)
    found = read(tmp_path / "d.json", [entry("x", {**DETECTION, "label": "1"})], digits)
    assert found.label.tolist() == [1], "predict writes names"


def test_classes_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    truth = GroundTruth.build(["x"], ["Cat", "cat"], [0], [0], [[0, 0, 9, 9]])
    record = {"image_id": "x", "category_id": "cat", "bbox": [1, 2, 10, 20], "score": 0.5}
    assert read(tmp_path / "d.json", [record], truth).label.tolist() == [1]
    with pytest.raises(FovealError, match="class 'CAT' may be 'Cat' or 'cat'"):
        read(tmp_path / "d.json", [{**record, "category_id": "CAT"}], truth)


# ---------------------------------------------------------------------------------------------------- CSV
@pytest.mark.parametrize(
    "text",
    [
        "image,class,score,x1,y1,x2,y2\ntwo/a.jpg,big cat,.5,1,2,11,22\n",
        "\ufefffilename;width;height;class;xmin;ymin;xmax;ymax;confidence\r\ntwo/a.jpg;60;40;big cat;1;2;11;22;0.5\r\n",
        "image_id\tcategory_id\tscore\tx\ty\tw\th\n25\t3\t0.5\t1\t2\t10\t20\n\n",
        "ImageID,LabelName,Conf,XMin,XMax,YMin,YMax\n25,big cat,0.5,1,11,2,22\n",
        ',image,label,score,left,top,width,height\n0,"two/a.jpg","big cat",0.5,1,2,10,20\n',
    ],
    ids=["corners", "semicolons", "tabs", "Open Images", "pandas"],
)
def test_csv(tmp_path: Path, truth: GroundTruth, text: str) -> None:
    assert rows(read(tmp_path / "d.csv", text, truth)) == EXPECTED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("two/a.jpg,big cat,.5,1,2,11,22\n", "first line names no columns: two/a.jpg,big cat,.*image,class,score"),
        ("image,class,score,x1,y1,x2\na,b,.5,1,2,3\n", "line 1: there is no column y2"),
        ("image,class,score,x1,y1,x2,y2\ntwo/a.jpg,big cat,high,1,2,11,22\n", "line 2: score is 'high'"),
        ("image,class,score,x1,y1,x2,y2\n\ntwo/a.jpg,big cat,.5,1,2,11\n", "line 3: 6 columns, expected 7"),
        ("image,class,score,x1,y1,x2,y2\ntwo/a.jpg,big cat,.5,1,2,nan,22\n", "line 2: x2 is 'nan'"),
        ("image,class,score,x1,y1,x2,y2\ntwo/a.jpg,dog,.5,1,2,3,22\n", "line 2: unknown class 'dog'"),
    ],
)
def test_csv_errors(tmp_path: Path, truth: GroundTruth, text: str, words: str) -> None:
    with pytest.raises(FovealError, match=words):
        read(tmp_path / "some.csv", text, truth)


def test_an_empty_csv_has_no_detections(tmp_path: Path, truth: GroundTruth) -> None:
    assert len(read(tmp_path / "d.csv", "image,class,score,x1,y1,x2,y2\n", truth)) == 0
