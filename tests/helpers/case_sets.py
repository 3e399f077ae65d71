"""A small dataset with known boxes in many spellings, for the cases of ``docs/data-cases.md``."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from foveal.data.records.dataset import Dataset
from tests.helpers.data_sets import Box, image

WIDTH, HEIGHT = 320, 200
CLASSES = ("cat", "dog", "bird")


def _boxes(rng: random.Random) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    for k in range(8):
        for _ in range(2 + k % 3):
            w, h = rng.randint(20, 150), rng.randint(20, 100)
            x, y = rng.randint(0, WIDTH - w), rng.randint(0, HEIGHT - h)
            found.setdefault(f"img{k}", []).append((CLASSES[rng.randrange(3)], x, y, x + w, y + h))
    found["img0"][0] = ("cat", 0, 0, 320, 200)
    found["img1"][:2] = [("dog", 170, 100, 320, 200), ("bird", 5, 60, 300, 150)]
    return found


BOXES = _boxes(random.Random(5))
TRAIN, VAL = tuple(BOXES)[:6], tuple(BOXES)[6:]
YAML = "train: images/train\nval: images/val\nnames: [cat, dog, bird]\n"
Numbers = Callable[[Box], Iterable[Any]]


def put(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def images(root: Path, ending: str = ".jpg") -> None:
    for name in BOXES:
        image(root / f"{name}{ending}", None, WIDTH, HEIGHT)


def corners(b: Box, x: float = 1, y: float = 1) -> tuple[float, float, float, float]:
    return b[1] * x, b[2] * y, b[3] * x, b[4] * y


def top_left(b: Box, x: float = 1, y: float = 1) -> tuple[float, float, float, float]:
    return b[1] * x, b[2] * y, (b[3] - b[1]) * x, (b[4] - b[2]) * y


def centers(b: Box, x: float = 1 / WIDTH, y: float = 1 / HEIGHT) -> tuple[float, float, float, float]:
    return (b[1] + b[3]) / 2 * x, (b[2] + b[4]) / 2 * y, (b[3] - b[1]) * x, (b[4] - b[2]) * y


# ------------------------------------------------------------------------------------------------------- formats
def voc_object(b: Box, numbers: Numbers | None = None, before: str = "", after: str = "") -> str:
    values = (b[1] + 1, b[2] + 1, b[3], b[4]) if numbers is None else numbers(b)
    tags = zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True)
    inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{b[0]}</name>{before}<bndbox>{inner}</bndbox>{after}</object>"


def voc(root: Path, one: Callable[[Box], str] = voc_object, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    images(root / "JPEGImages")
    for name, boxes in BOXES.items():
        head = f"<filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        put(root / "Annotations" / f"{name}.xml", f"<annotation>{head}{''.join(map(one, boxes))}</annotation>")
    for split, names in (("train", TRAIN), ("val", VAL)):
        put(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def line(b: Box, numbers: Numbers = centers, first: int = 0) -> str:
    return " ".join([str(CLASSES.index(b[0]) + first), *(f"{v:.6f}" for v in numbers(b))])


def yolo(root: Path, one: Callable[[Box], str] = line, yaml: str | None = YAML, ending: str = ".txt") -> None:
    for split, names in (("train", TRAIN), ("val", VAL)):
        folder = split if yaml is not None else ""
        for name in names:
            image(root / "images" / folder / f"{name}.jpg", None, WIDTH, HEIGHT)
            put(root / "labels" / folder / f"{name}{ending}", "".join(f"{one(b)}\n" for b in BOXES[name]))
    if yaml is not None:
        put(root / "data.yaml", yaml)


def plain_yolo(root: Path, classes: str = "cat\ndog\nbird\n") -> None:
    yolo(root, yaml=None)
    put(root / "classes.txt", classes)


def coco_doc(numbers: Numbers = top_left, area: bool = False, **of_each: Any) -> dict[str, Any]:
    doc: dict[str, Any] = {"images": [], "annotations": []}
    doc["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    for n, (name, boxes) in enumerate(BOXES.items(), 100):
        doc["images"].append({"id": n, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        for b in boxes:
            one = {"id": len(doc["annotations"]) + 1, "image_id": n, "category_id": CLASSES.index(b[0]) + 1}
            stated = {"area": (b[3] - b[1]) * (b[4] - b[2])} if area else {}
            doc["annotations"].append({**one, "bbox": list(numbers(b)), "iscrowd": 0, **stated, **of_each})
    return doc


def coco(root: Path, doc: dict[str, Any] | None = None, ending: str = ".jpg") -> None:
    images(root / "images", ending)
    put(root / "annotations.json", json.dumps(coco_doc() if doc is None else doc))


def named(rename: Callable[[str], str]) -> dict[str, Any]:
    """A COCO document with other file names."""
    doc = coco_doc()
    for entry in doc["images"]:
        entry["file_name"] = rename(entry["file_name"])
    return doc


COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")


def table(
    root: Path, header: Iterable[str] = COLUMNS, row: Callable[[str, Box], Iterable[Any]] | None = None, mark: str = ","
) -> None:
    images(root / "images")
    cells = row or (lambda name, b: (f"{name}.jpg", b[0], *b[1:]))
    rows = [header, *(cells(name, b) for name, boxes in BOXES.items() for b in boxes)]
    put(root / "annotations.csv", "".join(mark.join(map(str, each)) + "\n" for each in rows if each))


def misread(dataset: Dataset) -> list[str]:
    """The objects of the set that a dataset does not have, and those that it has beside them."""
    left = {
        f"{record.path.stem} {dataset.classes[label]} {[round(v) for v in box]}"
        for record in dataset.records
        for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
    }
    return sorted(left ^ {f"{name} {b[0]} {[round(v) for v in b[1:]]}" for name, boxes in BOXES.items() for b in boxes})
