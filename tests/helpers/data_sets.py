"""Tiny datasets for the tests of the readers: written to a folder, then corrupted by the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
Box = tuple[str, float, float, float, float]  # class, xyxy half-open
BOXES: dict[str, list[Box]] = {
    "a": [("cat", 4, 5, 20, 30), ("dog", 10, 10, 40, 40)],
    "b": [("dog", 0, 0, 64, 48)],
    "c": [],
    "d": [("cat", 1, 2, 3, 4), ("cat", 30, 20, 50, 47)],
}
CLASSES = ["cat", "dog"]


def image(path: Path, seed: int | None = None, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def xml(boxes: Sequence[Box], size: str | None = None, name: str = "a.jpg") -> str:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size is None else size
    return f"<annotation><filename>{name}</filename>{size}" + "".join(map(xml_object, boxes)) + "</annotation>"


def xml_object(box: Box, extra: str = "") -> str:
    name, x1, y1, x2, y2 = box
    corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def voc(root: Path, splits: bool = True) -> Path:
    for name, boxes in BOXES.items():
        image(root / "JPEGImages" / f"{name}.jpg")
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(xml(boxes, name=f"{name}.jpg"))
    if splits:
        sets = root / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        (sets / "train.txt").write_text("a\nb\n")
        (sets / "val.txt").write_text("c\nd\n")
    return root


def coco_doc(names: Sequence[str] = tuple(BOXES)) -> dict[str, Any]:
    doc: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    doc["categories"] = [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]
    for name in names:
        id = 10 * (1 + list(BOXES).index(name))
        doc["images"].append({"id": id, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        for cls, x1, y1, x2, y2 in BOXES[name]:
            doc["annotations"].append(
                {
                    "id": len(doc["annotations"]) + 1,
                    "image_id": id,
                    "category_id": 3 if cls == "cat" else 18,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return doc


def coco(root: Path, doc: Any = None) -> Path:
    for name in BOXES:
        image(root / "images" / f"{name}.jpg")
    path = root / "annotations" / "instances.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(doc if isinstance(doc, str) else json.dumps(coco_doc() if doc is None else doc))
    return path


def yolo_line(box: Box) -> str:
    name, x1, y1, x2, y2 = box
    values = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
    return f"{CLASSES.index(name)} " + " ".join(f"{v:.8f}" for v in values) + "\n"


def yolo(root: Path, yaml: str | None = None) -> Path:
    for split, names in (("train", "ab"), ("val", "cd")):
        for name in names:
            image(root / "images" / split / f"{name}.jpg")
            if BOXES[name]:
                path = root / "labels" / split / f"{name}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(map(yolo_line, BOXES[name])))
    path = root / "data.yaml"
    path.write_text(
        "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n" if yaml is None else yaml
    )
    return path


def state(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file below a folder, to check that nothing changed."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()}
