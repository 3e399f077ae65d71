"""The cases A, B and C of ``docs/data-cases.md``: each is read rightly, or told; none is misread in silence."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.data.doctor.examine import examine
from foveal.data.open import open_dataset
from foveal.errors import FovealError
from tests.helpers.case_sets import (
    BOXES,
    CLASSES,
    COLUMNS,
    HEIGHT,
    TRAIN,
    VAL,
    WIDTH,
    YAML,
    centers,
    coco,
    coco_doc,
    corners,
    images,
    line,
    misread,
    named,
    plain_yolo,
    put,
    table,
    top_left,
    voc,
    voc_object,
    yolo,
)
from tests.helpers.data_sets import Box, image

Case = tuple[Callable[[Path], object], str]  # writes the set; what is told: "", or "severity code"
MILLE = (1000 / WIDTH, 1000 / HEIGHT)
PERCENT = (100 / WIDTH, 100 / HEIGHT)


def turned(root: Path) -> None:
    yolo(root)
    exif = Image.Exif()
    exif[274] = 6
    for name in TRAIN[:3]:
        path = root / "images" / "train" / f"{name}.jpg"
        Image.open(path).convert("RGB").save(path, exif=exif)


def in_square(b: Box) -> tuple[float, ...]:
    """Fractions of the image padded to a square."""
    shift = (WIDTH - HEIGHT) / 2
    return centers((b[0], b[1], b[2] + shift, b[3], b[4] + shift), 1 / WIDTH, 1 / WIDTH)


def from_0() -> dict[str, Any]:
    doc = coco_doc()
    for entry in doc["annotations"]:
        entry["category_id"] -= 1
    return doc


def image_ids(step: int) -> dict[str, Any]:
    """Images numbered from 100 + ``step``, which the annotations name one higher."""
    doc = coco_doc()
    for entry in doc["images"]:
        entry["id"] += step
    for entry in doc["annotations"]:
        entry["image_id"] += step + 1
    return doc


def renamed(root: Path, rename: Callable[[str], str], doc: dict[str, Any]) -> None:
    coco(root, doc)
    for path in sorted((root / "images").iterdir()):
        path.rename(path.with_name(rename(path.name)))


def labels_renamed(root: Path, rename: Callable[[str], str]) -> None:
    yolo(root)
    for path in sorted((root / "labels").rglob("*.txt")):
        path.rename(path.with_name(rename(path.name)))


def lists(root: Path, text: Callable[[str, str], str]) -> None:
    yolo(root, yaml="train: train.txt\nval: val.txt\nnames: [cat, dog, bird]\n")
    for split, names in (("train", TRAIN), ("val", VAL)):
        put(root / f"{split}.txt", "".join(text(split, name) for name in names))


def image_sets(root: Path) -> None:
    plain_yolo(root)
    for split, names in (("train", TRAIN), ("val", VAL)):
        put(root / "ImageSets" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def via3(root: Path) -> None:
    images(root)
    doc: dict[str, Any] = {"project": {"pid": "x"}, "file": {}, "view": {}, "metadata": {}}
    doc["attribute"] = {"1": {"aname": "class", "type": 4, "options": dict(enumerate(CLASSES))}}
    for n, (name, boxes) in enumerate(BOXES.items(), 1):
        doc["file"][n] = {"fid": str(n), "fname": f"{name}.jpg", "type": 2, "loc": 1, "src": ""}
        doc["view"][n] = {"fid_list": [str(n)]}
        for k, b in enumerate(boxes):
            region = {"vid": str(n), "flg": 0, "z": [], "xy": [2, *top_left(b)], "av": {"1": str(CLASSES.index(b[0]))}}
            doc["metadata"][f"{n}_{k}"] = region
    put(root / "via3.json", json.dumps(doc))


def dlib(root: Path) -> None:
    images(root)
    parts = ["<?xml version='1.0'?><dataset><name>x</name><images>"]
    for name, boxes in BOXES.items():
        parts.append(f"<image file='{name}.jpg'>")
        for b in boxes:
            x, y, w, h = top_left(b)
            parts.append(f"<box top='{y}' left='{x}' width='{w}' height='{h}'><label>{b[0]}</label></box>")
        parts.append("</image>")
    put(root / "data.xml", "".join([*parts, "</images></dataset>"]))


def label_studio_csv(root: Path) -> None:
    images(root)
    rows = ["annotation_id,annotator,id,image,label"]
    for n, (name, boxes) in enumerate(BOXES.items()):
        regions = [
            {
                **dict(zip(("x", "y", "width", "height"), top_left(b, *PERCENT), strict=True)),
                "rotation": 0,
                "rectanglelabels": [b[0]],
                "original_width": WIDTH,
                "original_height": HEIGHT,
            }
            for b in boxes
        ]
        cell = json.dumps(regions).replace('"', '""')
        rows.append(f'{n},1,{n},{name}.jpg,"{cell}"')
    put(root / "project.csv", "\n".join(rows))


def class_list(text: str) -> Callable[[Path], None]:
    return lambda root: plain_yolo(root, text)


def coco_boxes(*numbers: Any, **options: Any) -> Callable[[Path], None]:
    return lambda root: coco(root, coco_doc(*numbers, **options))


def yolo_lines(one: Callable[[Box], str]) -> Callable[[Path], None]:
    return lambda root: yolo(root, one)


def coco_names(rename: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda root: coco(root, named(rename))


POSE = " 0.51 0.52 2 0.40 0.30 1 0.00 0.00 0"
CASES: dict[str, Case] = {
    # A: what is written is not what it seems
    "voc: two <name>": (lambda r: voc(r, lambda b: voc_object(b, before="<name>ant</name>")), "warning class-missing"),
    "voc: y before x": (
        lambda r: voc(r, lambda b: voc_object(b, lambda b: (b[2] + 1, b[1] + 1, b[4], b[3]))),
        "error box-convention",
    ),
    "voc: percent": (
        lambda r: voc(r, lambda b: voc_object(b, lambda b: (round(v, 2) for v in corners(b, *PERCENT)))),
        "error box-convention",
    ),
    "voc: size of another image": (lambda r: voc(r, size=(HEIGHT, WIDTH)), "warning image-size-mismatch"),
    "voc: scientific numbers": (
        lambda r: voc(r, lambda b: voc_object(b, lambda b: (f"{v:e}" for v in (b[1] + 1, b[2] + 1, b[3], b[4])))),
        "",
    ),
    "yolo: per mille": (yolo_lines(lambda b: line(b, lambda b: centers(b, *MILLE))), "error box-convention"),
    "yolo: height before width": (
        yolo_lines(lambda b: line(b, lambda b: (centers(b)[k] for k in (0, 1, 3, 2)))),
        "error box-convention",
    ),
    "yolo: of a padded square": (yolo_lines(lambda b: line(b, in_square)), "warning box-convention"),
    "yolo: by the longer side": (
        yolo_lines(lambda b: line(b, lambda b: centers(b, 1 / WIDTH, 1 / WIDTH))),
        "warning box-convention",
    ),
    "yolo: class at the end": (
        yolo_lines(lambda b: " ".join([*line(b).split()[1:], line(b).split()[0]])),
        "warning class-at-end",
    ),
    "yolo: track numbers": (yolo_lines(lambda b: line(b) + " 3"), "error line-columns"),
    "yolo: keypoints without kpt_shape": (yolo_lines(lambda b: line(b) + POSE), "note keypoints-ignored"),
    "yolo: names from 1": (
        lambda r: yolo(r, lambda b: line(b, first=1), YAML.replace("[cat, dog, bird]", "{1: cat, 2: dog, 3: bird}")),
        "error classes-invalid",
    ),
    "yolo: val is train": (lambda r: yolo(r, yaml=YAML.replace("/val", "/train")), "warning image-in-two-splits"),
    "yolo: turned by EXIF": (turned, "note image-turned"),
    "coco: categories from 1, annotations from 0": (lambda r: coco(r, from_0()), "error class-numbers"),
    "coco: image ids from 0, annotations from 1": (lambda r: coco(r, image_ids(-100)), "warning image-numbers"),
    "yolo: a classes.txt that differs from the yaml": (
        lambda r: (yolo(r), put(r / "classes.txt", "dog\ncat\nbird\n")),
        "warning classes-differ",
    ),
    "coco: ranges": (coco_boxes(lambda b: (b[1], b[3], b[2], b[4])), "error box-convention"),
    "coco: per mille": (coco_boxes(lambda b: top_left(b, *MILLE)), "error box-convention"),
    "coco: boxes of larger images": (coco_boxes(lambda b: top_left(b, 2, 2)), "error box-convention"),
    "coco: polygons elsewhere": (
        coco_boxes(segmentation=[[0, 0, 10, 0, 10, 10, 0, 10]]),
        "warning box-convention",
    ),
    "coco: boxes as text": (coco_boxes(lambda b: map(str, top_left(b))), ""),
    "classes: __background__ first": (class_list("__background__\ncat\ndog\nbird\n"), "warning class-background"),
    "classes: one too few": (class_list("cat\ndog\n"), "warning class-unknown"),
    "classes: one twice": (class_list("cat\ndog\ncat\nbird\n"), "warning class-repeated"),
    # B: names
    "name: windows path": (coco_names(lambda f: f"C:\\Users\\x\\images\\{f}"), ""),
    "name: s3 with a query": (coco_names(lambda f: f"s3://b/k/{f}?x=1"), ""),
    "name: in quotes": (coco_names(lambda f: f'"{f}"'), "note name-decoded"),
    "name: no extension": (coco_names(lambda f: f[:-4]), "note name-extension"),
    "name: zero-width character": (coco_names(lambda f: f"\u200b{f}"), "note name-capitals"),
    "name: full-width letters": (coco_names(lambda f: f.replace("img", "ｉｍｇ")), "note name-capitals"),
    "name: Label Studio's upload": (coco_names(lambda f: f"/data/upload/3/1a2b3c4d-{f}"), "note name-upload"),
    "name: bytes": (coco_names(lambda f: f"b'{f}'"), "warning image-missing"),
    "name: images jpg and png of one name": (
        lambda r: (coco(r, named(lambda f: f[:-4] + ".bmp")), image(r / "images" / "img0.png", 1, WIDTH, HEIGHT)),
        "error image-ambiguous",
    ),
    "name: two entries for one file": (
        lambda r: coco(r, named(lambda f: f.replace("img1", "IMG0"))),
        "warning image-missing",
    ),
    "labels: with a hash": (lambda r: labels_renamed(r, lambda f: f"1a2b3c4d-{f}"), "note name-upload"),
    "labels: img.jpg.txt": (lambda r: yolo(r, ending=".jpg.txt"), ""),
    "lists: windows paths": (lambda r: lists(r, lambda s, n: f"D:\\x\\images\\{s}\\{n}.jpg\r\n"), ""),
    "lists: stems": (lambda r: lists(r, lambda s, n: f"{n}\n"), "note name-extension"),
    "yaml: absolute paths of another machine": (
        lambda r: yolo(r, yaml=YAML.replace("images", "C:\\set\\images")),
        "warning split-elsewhere",
    ),
    "yaml: keys in capitals": (lambda r: yolo(r, yaml=YAML.title()), "error split-missing"),
    # C: formats of tools
    "csv: tabs": (lambda r: table(r, mark="\t"), ""),
    "csv: Excel's first line": (
        lambda r: (table(r, mark=";"), put(r / "annotations.csv", "sep=;\n" + (r / "annotations.csv").read_text())),
        "",
    ),
    "csv: y first by its header": (
        lambda r: table(
            r,
            ("filename", "class", "ymin", "xmin", "ymax", "xmax"),
            lambda n, b: (f"{n}.jpg", b[0], b[2], b[1], b[4], b[3]),
        ),
        "",
    ),
    "csv: y first without a header": (
        lambda r: table(r, (), lambda n, b: (f"images/{n}.jpg", b[2], b[1], b[4], b[3], b[0])),
        "error box-convention",
    ),
    "csv: percent": (
        lambda r: table(r, COLUMNS, lambda n, b: (f"{n}.jpg", b[0], *corners(b, *PERCENT))),
        "error box-convention",
    ),
    "csv: a column too few": (
        lambda r: (
            table(r),
            put(r / "annotations.csv", (r / "annotations.csv").read_text().replace("img2.jpg,", "img2.jpg", 1)),
        ),
        "error line-columns",
    ),
    "csv: every row twice": (
        lambda r: (table(r), put(r / "annotations.csv", (r / "annotations.csv").read_text() * 2)),
        "warning object-repeated",
    ),
    "label studio csv": (label_studio_csv, ""),
    "via 3": (via3, ""),
    "dlib": (dlib, ""),
    "classes: a YAML list": (class_list("- cat\n- dog\n- bird\n"), "note classes-form"),
    "classes: a comment first": (class_list("# names\ncat\ndog\nbird\n"), "warning classes-form"),
    "classes: blank lines": (class_list("cat\n\ndog\n\nbird\n"), "warning classes-blank"),
    "classes: numbered": (class_list("1: cat\n2: dog\n3: bird\n"), "note classes-form"),
    "ImageSets beside YOLO labels": (image_sets, "note name-extension"),
}
MISREAD = {  # told, for nothing in the files says what is right: what is read differs from what was meant
    *("voc: two <name>", "voc: size of another image", "yolo: of a padded square", "yolo: by the longer side"),
    *("yolo: val is train", "yolo: turned by EXIF", "classes: __background__ first", "classes: one too few"),
    *(
        "classes: one twice",
        "name: bytes",
        "coco: image ids from 0, annotations from 1",
        "name: two entries for one file",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_rightly_or_told(name: str, tmp_path: Path) -> None:
    make, told = CASES[name]
    make(tmp_path)
    report = examine(tmp_path, decode=False)
    found = {f"{f.severity} {f.code}" for f in report.findings}
    assert told in found if told else not found, sorted(found)
    assert (report.status() == 1) == any(f.startswith("error") for f in found)
    if not told.startswith("error"):
        assert bool(misread(open_dataset(tmp_path))) == (name in MISREAD)


def test_decomposed_names_and_bytes_of_another_encoding(tmp_path: Path) -> None:
    doc = named(lambda f: f"é_{f}")
    for k, form in enumerate((lambda f: unicodedata.normalize("NFD", f"é_{f}"), lambda f: f"\udce9_{f}")):
        renamed(tmp_path / str(k), form, doc)
        dataset = open_dataset(tmp_path / str(k))
        assert [f.code for f in dataset.findings] == ["name-unicode"] and len(dataset) == len(BOXES)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("set.json.gz", b"\x1f\x8b", "set.json.gz is an archive"),
        ("train/metadata.jsonl", b"{}\n", "JSON lines"),
        ("ds0/ann/img0.jpg.json", b'{"objects": [{"classTitle": "cat"}], "tags": [], "size": {}}', "Supervisely"),
        ("labels/img0.txt", b"imagesource:x\ngsd:1\n1 2 3 2 3 4 1 4 cat 0\n", "labels of DOTA"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, file: str, text: bytes, words: str) -> None:
    images(tmp_path / "images")
    put(tmp_path / file, text)
    with pytest.raises(FovealError, match=words):
        open_dataset(tmp_path)


@pytest.mark.parametrize("wide", [True, False])
def test_swapped_fractions_show_in_images_of_several_shapes(tmp_path: Path, wide: bool) -> None:
    """Boxes of the same shapes in wide and in high images; with x and y exchanged they follow the images' shapes."""
    for k in range(12):
        size = (400, 200) if k % 2 else (200, 400)
        for split in ("train", "val"):
            image(tmp_path / "images" / split / f"{split}{k}.jpg", None, *size)
            boxes = [(0.5, 0.5, (40 + 3 * k) / size[0], (40 + j) / size[1]) for j in range(2)]
            rows = [" ".join(map(str, (0, b[1], b[0], b[3], b[2]) if wide else (0, *b))) for b in boxes]
            put(tmp_path / "labels" / split / f"{split}{k}.txt", "\n".join(rows) + "\n")
    put(tmp_path / "data.yaml", YAML)
    told = [f.message for f in open_dataset(tmp_path).findings if f.code == "box-convention"]
    assert len(told) == wide and all("y stood before x" in message for message in told)


def test_errors_of_a_split_that_train_does_not_use_are_warnings(tmp_path: Path) -> None:
    yolo(tmp_path, yaml=YAML + "test: images/test\n")
    image(tmp_path / "images" / "test" / "x.jpg", None, WIDTH, HEIGHT)
    put(tmp_path / "labels" / "test" / "x.txt", "0 0.5 0.5 0.1 0.1 3\n0 0.5 0.5 0.2 0.1 4\n")
    report = examine(tmp_path, decode=False)
    told = [f for f in report.findings if f.code == "line-columns"]
    assert report.status() == 0 and told and "'test', which train does not use" in told[0].message
    put(tmp_path / "labels" / "train" / "img0.txt", "0 0.5 0.5 0.1 0.1 3\n0 0.5 0.5 0.2 0.1 4\n")
    assert examine(tmp_path, decode=False).status() == 1
