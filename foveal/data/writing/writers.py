"""The writers of datasets by format: each fills an empty folder according to a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .coco import write_coco
from .createml import write_createml
from .cvat import write_cvat
from .labelme import write_labelme
from .plan import ExportPlan
from .table import write_csv
from .voc import write_voc
from .yolo import write_yolo

WRITERS: dict[str, Callable[[ExportPlan, Path, bool], None]] = {
    "voc": write_voc,
    "coco": write_coco,
    "yolo": write_yolo,
    "csv": write_csv,
    "labelme": write_labelme,
    "createml": write_createml,
    "cvat": write_cvat,
}
