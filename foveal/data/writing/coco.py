"""Writes a dataset as COCO JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records.dataset import Record
from ..records.segmentation import coco_segmentations
from .plan import ExportPlan, plain_number, write_document, write_image


def write_coco(plan: ExportPlan, out: Path, link: bool) -> None:
    """``annotations/instances_SPLIT.json`` (``instances.json`` without splits) and ``images/[SPLIT/]``."""
    ids = [r.id for r in plan.records]
    if not all(isinstance(id, int) for id in ids) or len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    (out / "annotations").mkdir()
    for i, record in enumerate(plan.records):
        write_image(record, out / "images" / plan.folder[i] / plan.names[i], link)
    for split, members in plan.members.items():
        doc = coco_document(plan, members, ids)
        name = f"instances_{split}.json" if split else "instances.json"
        write_document(doc, out / "annotations" / name)


def coco_document(plan: ExportPlan, members: Sequence[int], ids: Sequence[int | str]) -> dict[str, object]:
    """The COCO document of some of a plan's images."""
    several = len({s for s in plan.folder}) > 1
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i in members:
        record = plan.records[i]
        name = f"{plan.folder[i]}/{plan.names[i]}" if several and plan.folder[i] else plan.names[i]
        images.append({"id": ids[i], "file_name": name, "width": record.width, "height": record.height})
        masks = coco_segmentations(record)
        for k in range(len(record)):
            annotation: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": ids[i],
                "category_id": plan.category_ids[record.labels[k]],
                "bbox": [plain_number(v) for v in _xywh(record, k)],
                "area": plain_number(float(record.area[k])),
                "iscrowd": int(record.crowd[k]),
                "segmentation": masks[k] or [],
            }
            if record.difficult[k]:
                annotation["difficult"] = 1
            annotations.append(annotation)
    categories = [{"id": id, "name": name} for id, name in zip(plan.category_ids, plan.classes, strict=True)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _xywh(record: Record, k: int) -> tuple[float, float, float, float]:
    """COCO's box of an object: bit-identical to that in its COCO file, unless it was clipped."""
    x1, y1, x2, y2 = record.boxes[k].tolist()
    if record.stated is not None:
        x, y, w, h = record.stated[k, :4].tolist()
        if (x, y, x + w, y + h) == (x1, y1, x2, y2):
            return x, y, w, h
    return x1, y1, x2 - x1, y2 - y1
