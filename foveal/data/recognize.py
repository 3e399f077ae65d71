"""Recognizes the format of a dataset (VOC, COCO or YOLO) by its content, without reading all of it."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FovealError
from ..files.reading import Unreadable, check_exists, read_json, read_yaml, walk
from .formats.coco.reader import CocoSource
from .formats.source import Source
from .formats.validate import report_refused
from .formats.voc.reader import VocSource
from .formats.yolo.reader import YoloSource
from .images.load import EXTENSIONS
from .records.splits import split_word

_ANNOTATION_FOLDERS = {"annotations", "annotation", "labels", "label", "json", "coco"}
_IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img")
_WHOLE = 64 << 20  # bytes; of larger JSON files that may be damaged only the end is checked
_PLAIN_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


@dataclass
class _Listing:
    """The files below a folder that matter."""

    yamls: list[Path] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)
    xml: dict[Path, list[str]] = field(default_factory=dict)  # folder -> names
    images: dict[Path, int] = field(default_factory=dict)  # folder -> number of images
    roots: list[Path] = field(default_factory=list)  # VOC devkit roots
    sets: list[Path] = field(default_factory=list)  # folders of VOC split files
    refused: list[Path] = field(default_factory=list)  # folders that may not be listed


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
        return _file(path, images)
    # the images of a devkit's Annotations folder are in the folder beside it
    if path.name.lower() == "annotations" and images is None and _child(path.parent, "JPEGImages"):
        path = path.parent
    listing = _list_files(path)
    sources = _yolo(listing, images) + _coco(listing, path, images) + _voc(listing, path, images)
    if len(sources) == 1:
        report_refused(listing.refused, sources[0].findings)
        return sources[0]
    if not sources:
        _refuse_pointers(listing)
        raise FovealError(_describe_nothing(listing), path=path, fix="Give VOC XML, COCO JSON or a YOLO data.yaml")
    listed = "; ".join(f"{s.format.upper()} in {s.path}" for s in sources)
    raise FovealError(f"holds {len(sources)} datasets: {listed}", path=path, fix="Give one of them, or several paths")


def _file(path: Path, images: Path | None) -> Source:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return YoloSource(path, images)
    if suffix == ".json" or (suffix not in EXTENSIONS and _starts(path, b"{")):
        return CocoSource(path, {"": path}, (images,) if images else _image_roots(path))
    if suffix == ".xml":
        return VocSource(path.parent, [path], (images or path.parent,))
    raise FovealError(
        "neither a COCO .json nor a YOLO data.yaml", path=path, fix="Give the folder, .json or .yaml of the dataset"
    )


def _list_files(root: Path) -> _Listing:
    listing = _Listing()
    for base, names in walk(root, refused=listing.refused):
        folder = Path(base)
        if _child(folder, "Annotations") and (_child(folder, "JPEGImages") or _child(folder, "ImageSets")):
            listing.roots.append(folder)
        if folder.name == "Main" and folder.parent.name == "ImageSets":
            listing.sets.append(folder)
        images = 0
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in EXTENSIONS:
                images += 1
            elif suffix == ".xml":
                listing.xml.setdefault(folder, []).append(name)
            elif suffix == ".json":
                listing.jsons.append(folder / name)
            elif suffix in (".yaml", ".yml"):
                listing.yamls.append(folder / name)
        if images:
            listing.images[folder] = images
    return listing


# ----------------------------------------------------------------------------------------------------- YOLO
def _yolo(listing: _Listing, images: Path | None) -> list[Source]:
    files = [file for file in listing.yamls if _is_data_yaml(file)]
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    sources: list[Source] = []
    for same in by_folder.values():
        plain = [file for file in same if file.name in _PLAIN_NAMES]
        sources += [YoloSource(file, images) for file in (plain[:1] or same)]
    return sources


def _is_data_yaml(file: Path) -> bool:
    if file.name in _PLAIN_NAMES:
        return True
    try:
        if file.stat().st_size > 1 << 20:
            return False
        doc: Any = read_yaml(file)
    except (OSError, Unreadable):
        return False
    return isinstance(doc, dict) and ("names" in doc or "nc" in doc) and bool({"train", "val", "test"} & doc.keys())


# ----------------------------------------------------------------------------------------------------- COCO
def _coco(listing: _Listing, root: Path, images: Path | None) -> list[Source]:
    groups: dict[Path, list[Path]] = {}
    good = [file for file in listing.jsons if _is_coco(file)]
    homes = {file.parent for file in good}
    for file in good:
        groups.setdefault(_coco_root(file, root), []).append(file)
    for file in listing.jsons:
        named = file.name.endswith("_annotations.coco.json") or file.name.startswith("instances_")
        base = _coco_root(file, root)
        beside = file.parent in homes or (base in groups and base != file.parent)  # a folder of another split
        # an empty or damaged file must be reported and not ignored; other JSON files may be beside it
        if file not in good and (named or (beside and _is_damaged(file))):
            groups.setdefault(base, []).append(file)
    sources: list[Source] = []
    for base, files in groups.items():
        instances = [f for f in files if f.name.startswith("instances_")]
        chosen = sorted(instances or files)
        sources.append(CocoSource(base, _split_names(chosen), (images,) if images else _image_roots(chosen[0], base)))
    return sources


def _is_coco(file: Path) -> bool:
    """Whether a JSON file has images and annotations, found by searching and not by parsing."""
    try:
        if file.stat().st_size == 0 or not _starts(file, b"{"):
            return False
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text[:2] in (b"\xff\xfe", b"\xfe\xff") or text[1:2] == b"\0":
                return text.find("images".encode("utf-16-le")) >= 0
            keys = all(text.find(f'"{key}"'.encode()) >= 0 for key in ("images", "annotations"))
            return keys and (text.find(b'"file_name"') >= 0 or text.find(b'"categories"') >= 0)
    except (OSError, ValueError):
        return False


def _is_damaged(file: Path) -> bool:
    """Whether a .json file is empty, truncated or not JSON. JSON lines (one document a line) are not damaged."""
    try:
        if file.stat().st_size > _WHOLE:
            with file.open("rb") as stream:
                stream.seek(-64, os.SEEK_END)
                return not stream.read().rstrip().endswith((b"}", b"]"))
        read_json(file)
    except OSError:
        return True
    except Unreadable as error:
        return "Extra data" not in error.message
    return False


def _starts(file: Path, with_: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(with_)


def _coco_root(file: Path, limit: Path) -> Path:
    """The dataset folder of a JSON file: above ``annotations`` and above the folder of a split."""
    folder = file.parent
    for _ in range(2):
        above = folder.name.lower() in _ANNOTATION_FOLDERS or split_word(folder.name)
        if folder != limit and above:
            folder = folder.parent
    return folder


def _split_names(files: list[Path]) -> dict[str, Path]:
    """Split -> file, by the names of files or folders. A single file is the whole dataset."""
    words = {}
    for file in files:
        word = split_word(file.stem.replace("_annotations.coco", "")) or split_word(file.parent.name)
        words[file] = word
    if len(files) == 1:
        return {"": files[0]}
    unique = len(set(words.values())) == len(files) and None not in words.values()
    if unique:
        return {str(words[file]): file for file in files}
    return {file.stem.removeprefix("instances_"): file for file in files}


def _image_roots(file: Path, base: Path | None = None) -> tuple[Path, ...]:
    """The folders below which the images of a JSON file may be."""
    if base is not None:
        return (base,)
    folder = file.parent
    if folder.name.lower() in _ANNOTATION_FOLDERS and folder.parent != folder:
        return (folder.parent,)
    nearby = [folder] + [folder.parent / name for name in _IMAGE_FOLDERS if (folder.parent / name).is_dir()]
    return tuple(nearby)


# ------------------------------------------------------------------------------------------------------ VOC
def _voc(listing: _Listing, root: Path, images: Path | None) -> list[Source]:
    sources: list[Source] = []
    for base in listing.roots:
        folder = base / "Annotations"
        xml = sorted(d / n for d, names in listing.xml.items() if folder in (d, *d.parents) for n in names)
        sets = base / "ImageSets" / "Main"
        plain = base / "ImageSets"
        chosen = sets if sets.is_dir() else plain if plain.is_dir() and any(plain.glob("*.txt")) else None
        image_root = images or (base / "JPEGImages" if (base / "JPEGImages").is_dir() else base)
        sources.append(VocSource(base, xml, (image_root,), chosen, _class_file(base, folder)))
    loose = {d: names for d, names in listing.xml.items() if not any(base in (d, *d.parents) for base in listing.roots)}
    annotated = {d: names for d, names in loose.items() if any(_is_annotation(d / n) for n in names[:200])}
    if annotated:
        around = [*annotated, *(() if images else listing.images)]
        if sources:  # with devkits elsewhere, only the images beside these files belong to them
            around = list(annotated)
        base = Path(os.path.commonpath(around))
        xml = sorted(d / n for d, names in annotated.items() for n in names)
        sets_here = [s for s in listing.sets if base in s.parents]
        chosen = sets_here[0] if len(sets_here) == 1 else None
        sources.append(VocSource(base, xml, (images or base,), chosen, _class_file(base, root, *annotated)))
    return sources


def _class_file(*folders: Path) -> Path | None:
    return next((f / "classes.txt" for f in folders if (f / "classes.txt").is_file()), None)


def _is_annotation(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b"<annotation" in stream.read(4096).replace(b"\0", b"")
    except OSError:
        return False


def _child(folder: Path, name: str) -> bool:
    return (folder / name).is_dir()


def _refuse_pointers(listing: _Listing) -> None:
    """Raises :class:`FovealError` where the annotations are git-lfs pointers."""
    files = [
        *listing.jsons,
        *listing.yamls,
        *(folder / name for folder, names in listing.xml.items() for name in names),
    ]
    pointers = [file for file in files if _starts(file, b"version https://git-lfs")]
    if pointers:
        what = f"{len(pointers)} of the {len(files)} annotation files are git-lfs pointers, not the files themselves"
        raise FovealError(what, path=pointers[0], fix="Run: git lfs pull")


def _describe_nothing(listing: _Listing) -> str:
    images = sum(listing.images.values())
    parts = [f"{images} images"] if images else []
    for what, number in (
        ("JSON", len(listing.jsons)),
        ("XML", sum(map(len, listing.xml.values()))),
        ("YAML", len(listing.yamls)),
    ):
        if number:
            parts.append(f"{number} {what} files without annotations")
    if listing.refused:
        parts.append(f"{', '.join(map(str, listing.refused[:5]))} cannot be listed")
    return f"holds no dataset{' (' + ', '.join(parts) + ')' if parts else ': there are no annotations'}"
