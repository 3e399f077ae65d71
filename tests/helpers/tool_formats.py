"""The small dataset of :mod:`.data_sets` as other annotation tools write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH, Box, image


def images(root: Path, folder: str = "") -> None:
    for name in BOXES:
        image(root / folder / f"{name}.jpg")


def labelme_doc(name: str, boxes: list[Box]) -> dict[str, Any]:
    shapes = [
        {"label": c, "points": [[x2, y1], [x1, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
        for c, x1, y1, x2, y2 in boxes
    ]
    head = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
    return {**head, "imageHeight": HEIGHT, "imageWidth": WIDTH}


def labelme(root: Path) -> Path:
    images(root)
    for name, boxes in BOXES.items():
        (root / f"{name}.json").write_text(json.dumps(labelme_doc(name, boxes), indent=2))
    return root


def createml_doc() -> list[dict[str, Any]]:
    def annotation(box: Box) -> dict[str, Any]:
        c, x1, y1, x2, y2 = box
        return {
            "label": c,
            "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1},
        }

    return [{"image": f"{name}.jpg", "annotations": list(map(annotation, boxes))} for name, boxes in BOXES.items()]


def createml(root: Path) -> Path:
    images(root)
    (root / "_annotations.createml.json").write_text(json.dumps(createml_doc()))
    return root


def via_doc() -> dict[str, Any]:
    def region(box: Box) -> dict[str, Any]:
        c, x1, y1, x2, y2 = box
        shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        return {"shape_attributes": shape, "region_attributes": {"class": c}}

    entries = {}
    for n, (name, boxes) in enumerate(BOXES.items()):
        file = f"{name}.jpg"
        entries[f"{file}{n}"] = {
            "filename": file,
            "size": n,
            "regions": list(map(region, boxes)),
            "file_attributes": {},
        }
    return entries


def via(root: Path) -> Path:
    images(root)
    (root / "via_region_data.json").write_text(json.dumps(via_doc()))
    return root


def label_studio_doc() -> list[dict[str, Any]]:
    def region(k: int, box: Box) -> dict[str, Any]:
        c, x1, y1, x2, y2 = box
        value = {
            "x": 100 * x1 / WIDTH,
            "y": 100 * y1 / HEIGHT,
            "width": 100 * (x2 - x1) / WIDTH,
            "height": 100 * (y2 - y1) / HEIGHT,
            "rotation": 0,
            "rectanglelabels": [c],
        }
        sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
        names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
        return {"id": f"r{k}", "value": value, **sizes, **names}

    return [
        {
            "id": n,
            "annotations": [
                {
                    "id": n,
                    "was_cancelled": False,
                    "ground_truth": False,
                    "result": [region(k, b) for k, b in enumerate(boxes)],
                }
            ],
            "predictions": [],
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.jpg"},
        }
        for n, (name, boxes) in enumerate(BOXES.items(), 1)
    ]


def label_studio(root: Path) -> Path:
    for name in BOXES:
        image(root / f"0a1b2c3d-{name}.jpg", seed=sum(name.encode()))
    (root / "project-1-at-2024-01-01.json").write_text(json.dumps(label_studio_doc()))
    return root


def json_min(root: Path) -> Path:
    label_studio(root).joinpath("project-1-at-2024-01-01.json").unlink()
    tasks = []
    for task in label_studio_doc():
        regions = [
            {**r["value"], "original_width": WIDTH, "original_height": HEIGHT} for r in task["annotations"][0]["result"]
        ]
        entry = {"image": task["data"]["image"], "id": task["id"], "annotator": 1, "annotation_id": task["id"]}
        tasks.append(entry | ({"label": regions} if regions else {}))
    (root / "project-1-at-2024-01-01-min.json").write_text(json.dumps(tasks))
    return root


def cvat_xml(extra: str = "", shape: Callable[[Box], str] | None = None) -> str:
    def plain(box: Box) -> str:
        c, x1, y1, x2, y2 = box
        corners = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"'
        return f'<box label="{c}" source="manual" occluded="0" {corners} z_order="0"></box>'

    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in ("cat", "dog"))
    parts = [
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>{labels}'
    ]
    parts.append("</labels></task></meta>\n")
    for n, (name, boxes) in enumerate(BOXES.items()):
        inner = "".join(map(shape or plain, boxes)) + (extra if n == 0 else "")
        parts.append(f'<image id="{n}" name="{name}.jpg" width="{WIDTH}" height="{HEIGHT}">{inner}</image>\n')
    return "".join([*parts, "</annotations>\n"])


def cvat(root: Path) -> Path:
    images(root, "images")
    (root / "annotations.xml").write_text(cvat_xml())
    return root


def csv_text() -> str:
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, boxes in BOXES.items():
        lines += [f"{name}.jpg,{WIDTH},{HEIGHT},{c},{x1},{y1},{x2},{y2}" for c, x1, y1, x2, y2 in boxes]
        lines += [] if boxes else [f"{name}.jpg,{WIDTH},{HEIGHT},,,,,"]
    return "\n".join(lines) + "\n"


def csv_table(root: Path) -> Path:
    images(root)
    (root / "_annotations.csv").write_text(csv_text())
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "labelme": labelme,
    "createml": createml,
    "via": via,
    "label-studio": label_studio,
    "json-min": json_min,
    "cvat": cvat,
    "csv": csv_table,
}
FORMAT_OF = {"json-min": "label-studio"}  # where the name of the reader differs
