"""Recognizes the format of a dataset by its content, without reading all of it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from ...errors import FovealError
from ...files.outputs import output_kind
from ...files.reading import check_exists
from ..formats.coco.reader import CocoSource
from ..formats.entry_source import EntrySource
from ..formats.source import Source
from ..formats.validate import report_refused
from ..formats.voc.reader import VocSource
from ..formats.yolo.reader import YoloSource
from .coco import find_coco
from .documents import find_documents
from .kinds import READ, json_kind
from .kitti import find_kitti
from .listing import has_folder, list_files
from .nothing import describe_nothing
from .one_file import open_file
from .plain_yolo import find_labels
from .tables import find_box_lists, find_tables
from .voc import find_voc
from .yolo import find_darknet, find_yaml

_LABEL_FOLDERS = {"annotations": "JPEGImages", "labels": "images"}  # given alone: where the images are


def recognize(path: Path, images: Path | None = None) -> Source:
    """The one dataset at a path, or below it at any depth.

    Raises :class:`~foveal.errors.FovealError` where there is none or more than one, with a list of what exists.
    """
    check_exists(path)
    if images is not None:
        check_exists(images)
        if not images.is_dir():
            raise FovealError("--images is not a folder", path=images)
    if path.is_file():
        if json_kind(path) not in READ and (what := output_kind(path)):  # predict's detections begin as CreateML's list
            raise FovealError(f"{what}, not a dataset", path=path, fix="Give the dataset itself")
        return open_file(path, images)
    # the images of a folder of annotations are in the folder beside it
    beside = _LABEL_FOLDERS.get(path.name.lower())
    inside = beside is not None and has_folder(path, beside)  # a whole dataset in a folder that is called so
    if beside is not None and not inside and images is None and has_folder(path.absolute().parent, beside):
        path = path.parent
    listing = list_files(path)
    kinds = {file: json_kind(file) for file in listing.jsons}
    found: list[Source] = [*find_yaml(listing, images), *find_coco(listing, kinds, images), *find_voc(listing, images)]
    found += [*find_documents(listing, kinds, images), *find_kitti(listing, images)]
    # these are also beside datasets of the formats above, from which they were made
    lesser: list[Source] = []
    if not any(isinstance(source, YoloSource) for source in found):
        lesser += find_darknet(listing, images) or find_labels(listing, images)
    lesser += [*find_tables(listing, images), *find_box_lists(listing, images)]
    found = found or lesser
    if not found and (what := output_kind(path)):
        raise FovealError(f"{what}, not a dataset", path=path, fix="Give the dataset itself")
    if not found:
        raise describe_nothing(listing, kinds)
    if len(found) > 1:
        places = [s.files[0] if isinstance(s, EntrySource) and len(s.files) == 1 else s.path for s in found]
        listed = "; ".join(f"{s.format.upper()} in {place}" for s, place in zip(found, places, strict=True))
        within = [place for place in places if any(place in other.parents or place == path for other in places)]
        fix = "Give one of them, or several paths" if not within else "Give one of them, or move the others elsewhere"
        raise FovealError(f"holds {len(found)} datasets: {listed}", path=path, fix=fix)
    _report_unused(found[0], lesser)
    report_refused(listing.refused, found[0].findings)
    return found[0]


def _report_unused(source: Source, lesser: Sequence[Source]) -> None:
    """A note for each other dataset in the folder that annotates more images than the one that is read."""
    for other in lesser:
        if other is not source and _annotated(other) > _annotated(source):
            message = (
                f"the {source.format.upper()} dataset in {source.path} is read and not this one, which has more images"
            )
            source.findings.add("warning", "dataset-unused", other.path, "", message, "Give this path to read it")


def _annotated(source: Source) -> int:
    """About how many images a dataset annotates."""
    if isinstance(source, VocSource):
        return len(source.xml)
    if isinstance(source, CocoSource):
        return sum(_count(file, b'"file_name"') for file in source.files.values())
    return len(source.images)


def _count(file: Path, text: bytes) -> int:
    """How often a text is in a file."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            count, at = 0, data.find(text)
            while at >= 0:
                count, at = count + 1, data.find(text, at + len(text))
            return count
    except (OSError, ValueError):
        return 0
