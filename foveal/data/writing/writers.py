"""The writers of datasets by format: each fills an empty folder according to a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .coco import write_coco
from .plan import ExportPlan
from .voc import write_voc
from .yolo import write_yolo

WRITERS: dict[str, Callable[[ExportPlan, Path, bool], None]] = {
    "voc": write_voc,
    "coco": write_coco,
    "yolo": write_yolo,
}
