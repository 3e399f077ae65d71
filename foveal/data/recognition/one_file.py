"""Opens the dataset of a single file."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ...errors import FovealError
from ..formats.source import Source
from ..formats.voc.reader import VocSource
from ..formats.yolo.reader import YoloSource
from ..images.load import EXTENSIONS
from .coco import open_coco
from .documents import is_task_table, open_document
from .kinds import ENDINGS, TOOLS, json_kind, starts_with, text_kind, xml_kind
from .listing import ARCHIVES
from .tables import is_table, open_box_list, open_table
from .yolo import open_darknet

_FIX = "Give the folder, .json or .yaml of the dataset"


def open_file(path: Path, images: Path | None) -> Source:
    """The dataset of one file. Raises :class:`~foveal.errors.FovealError`, with what to give instead."""
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return YoloSource(path, images)
    if suffix == ".data":
        return open_darknet(path, images)
    if suffix == ".json" or (suffix not in EXTENSIONS and suffix not in ENDINGS and starts_with(path, b"{")):
        return _open_json(path, images)
    if suffix == ".xml":
        return _open_xml(path, images)
    if suffix in (".csv", ".tsv") or (suffix == ".txt" and is_table(path)):
        of_tasks = open_document(path, "label-studio", images) if is_task_table(path) else None
        return of_tasks or open_table(path, images)
    if suffix == ".txt" and text_kind(path) == "boxes":
        return open_box_list(path, images)
    raise _refusal(path, suffix)


def _open_json(path: Path, images: Path | None) -> Source:
    kind = json_kind(path)
    if kind in TOOLS:
        raise foreign(path, kind)
    return open_document(path, kind, images) or open_coco(path, images)


def _open_xml(path: Path, images: Path | None) -> Source:
    kind = xml_kind(path)
    if kind in TOOLS:
        raise foreign(path, kind)
    return open_document(path, kind, images) or VocSource(path.parent, [path], (images or path.parent,))


def foreign(path: Path, kind: str) -> FovealError:
    """The error for a file of a known tool that is not read."""
    return FovealError(f"{TOOLS[kind]}, which is not read", path=path, fix="Export it as COCO, VOC or YOLO")


def _refusal(path: Path, suffix: str) -> FovealError:
    """The error for a file that is no dataset."""
    if path.name.lower().endswith(ARCHIVES) or zipfile.is_zipfile(path):
        return FovealError("an archive, which is not read", path=path, fix="Unpack it and give the folder")
    if suffix in ENDINGS:
        fix = "Export it as COCO, VOC or YOLO"
        return FovealError(f"one of the {ENDINGS[suffix]}, which are not read", path=path, fix=fix)
    what = "an image: " if suffix in EXTENSIONS else ""
    if suffix == ".txt":
        kinds = {
            "yolo": "the labels of one image: ",
            "kitti": "the labels of one image: ",
            "list": "a list of images: ",
        }
        kind = text_kind(path)
        if kind == "lfs":
            return FovealError("a git-lfs pointer, not the file itself", path=path, fix="Run: git lfs pull")
        what = kinds.get(kind, "")
    return FovealError(f"{what}neither a COCO .json nor a YOLO data.yaml", path=path, fix=_FIX)
