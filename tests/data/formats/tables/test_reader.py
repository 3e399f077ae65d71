"""Tables of boxes as tools and scripts write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH, image
from tests.helpers.tool_formats import csv_text, images, via_doc


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


def write(root: Path, text: str | bytes, name: str = "labels.csv") -> Dataset:
    images(root)
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return open_dataset(root)


def rows(form: str, head: str = "") -> str:
    """A line for each box; an image without objects is a line with its name alone."""
    lines = [head] if head else []
    for name, boxes in BOXES.items():
        for c, x1, y1, x2, y2 in boxes:
            values: dict[str, Any] = {"n": f"{name}.jpg", "c": c, "x1": x1, "y1": y1, "x2": x2, "y2": y2}
            values |= {"w": x2 - x1, "h": y2 - y1, "cx": (x1 + x2) / 2, "cy": (y1 + y2) / 2, "W": WIDTH, "H": HEIGHT}
            values |= {"fx1": x1 / WIDTH, "fy1": y1 / HEIGHT, "fx2": x2 / WIDTH, "fy2": y2 / HEIGHT}
            lines.append(form.format(**values))
        if not boxes:
            lines.append(f"{name}.jpg" + "," * form.count(","))
    return "\n".join(lines) + "\n"


def boxes_of(dataset: Dataset) -> dict[str, list[tuple[object, ...]]]:
    return {
        str(r.id): [(dataset.classes[k], *b) for k, b in zip(r.labels, r.boxes.round(4).tolist(), strict=True)]
        for r in dataset.records
    }


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("{n},{W},{H},{c},{x1},{y1},{x2},{y2}", "filename,width,height,class,xmin,ymin,xmax,ymax"),
        ("{n},{c},{x1},{x2},{y1},{y2}", "Filename,Label,XMIN,XMAX,YMIN,YMAX"),
        ("{n},{x1},{y1},{w},{h},{c}", "image,x,y,width,height,label"),
        ("{n},{cx},{cy},{w},{h},{c}", "image,x_center,y_center,width,height,label"),
        ("{c},{n},{x2},{y2},{x1},{y1}", "class,path,x2,y2,x1,y1"),
        ('{n},"[{x1}, {y1}, {w}, {h}]",{c}', "image,bbox,label"),
    ],
)
def test_orders_and_forms(tmp_path: Path, form: str, head: str) -> None:
    if head.startswith("class"):
        text = rows(form, head).replace("c.jpg,,,,,", ",c.jpg,,,,")
    else:
        text = rows(form, head)
        if "bbox" in head:
            text = text.replace("c.jpg,,,,,", "c.jpg,,")
    dataset = write(tmp_path, text)
    assert boxes_of(dataset) == BOXES
    assert codes(dataset) == (["warning columns-guessed"] if "bbox" in head else [])


@pytest.mark.parametrize("form", ["{n},{x1},{y1},{x2},{y2},{c}", "{n},{W},{H},{c},{x1},{y1},{x2},{y2}"])
def test_without_a_header(tmp_path: Path, form: str) -> None:
    dataset = write(tmp_path, rows(form))
    assert boxes_of(dataset) == BOXES and codes(dataset) == ["warning columns-guessed"]


def test_retinanets_class_table_orders_the_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("dog,0\ncat,1\n")
    dataset = write(tmp_path, rows("{n},{x1},{y1},{x2},{y2},{c}"))
    assert dataset.classes == ("dog", "cat") and boxes_of(dataset) == BOXES


def test_class_numbers_and_a_list_of_names(tmp_path: Path) -> None:
    text = csv_text().replace(",cat,", ",1,").replace(",dog,", ",0,")
    dataset = write(tmp_path, text)
    assert dataset.classes == ("0", "1") and codes(dataset) == ["note classes-numbered"]
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    dataset = write(tmp_path, text)
    assert (
        dataset.classes == ("dog", "cat") and boxes_of(dataset) == BOXES and codes(dataset) == ["note classes-numbered"]
    )
    (tmp_path / "classes.txt").write_text("dog\n")
    assert open_dataset(tmp_path).classes == ("0", "1")


@pytest.mark.parametrize("text", ["name,id\ndog,0\ncat,1\n", "id,name\n0,dog\n1,cat\n", "dog,0\ncat,1\n"])
def test_forms_of_a_table_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    dataset = write(tmp_path, csv_text())
    assert dataset.classes == ("dog", "cat") and boxes_of(dataset) == BOXES and not dataset.findings


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_and_decimal_commas(tmp_path: Path, delimiter: str) -> None:
    text = csv_text().replace(",", delimiter).replace(f"{delimiter}4{delimiter}5", f"{delimiter}4,0{delimiter}5,0")
    assert boxes_of(write(tmp_path, text)) == BOXES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    dataset = write(tmp_path, csv_text().replace("dog", "Köter").replace("\n", "\r\n").encode(encoding))
    assert dataset.classes == ("Köter", "cat")
    assert codes(dataset) == (["warning encoding-guessed"] if encoding == "cp1252" else [])


@pytest.mark.parametrize("name", ["annotations.txt", "labels.tsv", "LABELS.CSV"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    dataset = write(tmp_path, csv_text().replace(",", "\t") if name.endswith("tsv") else csv_text(), name)
    assert boxes_of(dataset) == BOXES and not dataset.findings
    assert boxes_of(open_dataset(tmp_path / name)) == BOXES


def test_quotes_and_newlines_in_names(tmp_path: Path) -> None:
    dataset = write(tmp_path, csv_text().replace("dog", '"big, ""bad""\ndog"'))
    assert dataset.classes == ('big, "bad"\ndog', "cat") and not dataset.findings


def test_fractions_of_the_image(tmp_path: Path) -> None:
    head = "image,label,xmin,ymin,xmax,ymax"
    dataset = write(tmp_path, rows("{n},{c},{fx1},{fy1},{fx2},{fy2}", head))
    assert boxes_of(dataset) == BOXES and codes(dataset) == ["note coordinates-fractions"]
    mixed = rows("{n},{c},{x1},{y1},{x2},{y2}", head).replace("a.jpg,cat,4,5,20,30", "a.jpg,cat,.1,.1,.3,.4")
    dataset = write(tmp_path, mixed)
    assert codes(dataset) == ["warning box-fractions"] and len(dataset.records[0]) == 1


OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def test_open_images(tmp_path: Path) -> None:
    lines = [
        OPEN_IMAGES,
        "a,xclick,/m/01yrx,1,0.0625,0.3125,0.125,0.625,0,1,0,0,0",
        "a,xclick,/m/0bt9lr,1,0,1,0,1,0,0,1,0,0",
    ]
    lines.append("b,xclick,/m/0bt9lr,1,0.25,0.5,0.25,0.5,-1,-1,-1,-1,-1")
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01yrx,Cat\n/m/0bt9lr,Dog\n/m/0cmf2,Airplane\n")
    dataset = write(tmp_path, "\n".join(lines), "validation-annotations-bbox.csv")
    assert dataset.classes == ("Cat", "Dog") and [len(r) for r in dataset.records] == [2, 1]
    assert dataset.records[0].boxes.tolist() == [[4, 6, 20, 30], [0, 0, 64, 48]]
    assert dataset.records[0].crowd.tolist() == [False, True]
    assert codes(dataset) == ["note attributes-ignored", "note coordinates-fractions", "warning annotation-missing"]


def test_automl_states_splits(tmp_path: Path) -> None:
    lines = [
        "TRAIN,gs://bucket/a.jpg,cat,0.1,0.1,,,0.5,0.5,,",
        "VALIDATION,gs://bucket/b.jpg,dog,0.1,0.1,,,0.5,0.5,,",
        "TEST,gs://bucket/c.jpg,,,,,,,,,",
        "UNASSIGNED,gs://bucket/d.jpg,cat,0.1,0.1,,,0.5,0.5,,",
    ]
    dataset = write(tmp_path, "\n".join(lines))
    assert dataset.splits == ("train", "val", "test") and [len(r) for r in dataset.records] == [1, 1, 0]
    assert "warning images-undivided" in codes(dataset)


def test_a_column_of_splits(tmp_path: Path) -> None:
    text = csv_text().replace("filename,", "filename,split,")
    for name, word in (("a", "Train"), ("b", "train"), ("c", "valid"), ("d", "test")):
        text = text.replace(f"{name}.jpg,", f"{name}.jpg,{word},")
    dataset = write(tmp_path, text)
    assert dataset.splits == ("train", "val", "test") and boxes_of(dataset) == BOXES and not dataset.findings
    dataset = write(tmp_path, text.replace(",test,", ",group 7,"))
    assert dataset.splits == () and codes(dataset) == ["warning splits-ignored"]


def test_two_tables_are_two_splits(tmp_path: Path) -> None:
    head, *lines = csv_text().splitlines()
    for split, names in (("train", "ab"), ("test", "cd")):
        for name in names:
            image(tmp_path / "images" / split / f"{name}.jpg")
        text = "\n".join([head, *(line for line in lines if line[0] in names)])
        (tmp_path / f"{split}_labels.csv").write_text(text)
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("test", "train") and len(dataset) == 4 and not dataset.findings


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,64,48,cat,4,5,20", "error line-columns"),
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,64,48,cat,four,5,20,30", "warning box-not-number"),
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,64,48,cat,4,,20,30", "warning box-not-number"),
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,64,48,cat,20,5,4,30", "warning box-inverted"),
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,64,48,,4,5,20,30", "warning class-missing"),
        ("a.jpg,64,48,cat,4,5,20,30", ",64,48,cat,4,5,20,30", "warning image-invalid"),
        ("a.jpg,64,48,cat,4,5,20,30", "a.jpg,46,48,cat,4,5,20,30", "warning size-invalid"),
        ("c.jpg", "no.jpg", "warning image-missing"),
        (
            "d.jpg,64,48,cat,1,2",
            "filename,width,height,class,xmin,ymin,xmax,ymax\nd.jpg,64,48,cat,1,2",
            "note row-repeated",
        ),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, old: str, new: str, code: str) -> None:
    assert code in codes(write(tmp_path, csv_text().replace(old, new, 1)))


def test_no_class_and_scores(tmp_path: Path) -> None:
    dataset = write(
        tmp_path, "image,x1,y1,x2,y2,score\na.jpg,1,2,9,9,0.9\nb.jpg,1,2,9,9,0.4\nc.jpg,1,2,9,9,1\nd.jpg,,,,,\n"
    )
    assert dataset.classes == ("object",) and codes(dataset) == ["warning classes-missing", "warning scores-ignored"]


def test_vias_table(tmp_path: Path) -> None:
    lines = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for entry in via_doc().values():
        regions = entry["regions"] or [{"shape_attributes": {}, "region_attributes": {}}]
        for k, region in enumerate(regions):
            cells = [json.dumps(region[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
            start = f'{entry["filename"]},{entry["size"]},"{{}}",{len(entry["regions"])},{k}'
            lines.append(f'{start},"{cells[0]}","{cells[1]}"')
    dataset = write(tmp_path, "\n".join(lines))
    assert boxes_of(dataset) == BOXES and not dataset.findings


def test_a_table_beside_another_dataset(tmp_path: Path, data: Path) -> None:
    """A table of the same images is not told; one of more images is."""
    assert open_dataset(data / "bccd").format == "voc"


def test_the_real_table_of_bccd(data: Path) -> None:
    dataset = open_dataset(data / "bccd" / "test.csv")
    assert len(dataset) == 364 and sum(map(len, dataset.records)) == 4886
    assert dataset.classes == ("Platelets", "RBC", "WBC") and codes(dataset) == ["warning box-empty"] * 2 + [
        "warning columns-guessed"
    ]


def test_the_field_case(shared: Path) -> None:
    dataset = open_dataset(shared / "field" / "14-other-formats" / "csv")
    assert [len(r) for r in dataset.records] == [1, 1, 1, 1] and not dataset.findings
