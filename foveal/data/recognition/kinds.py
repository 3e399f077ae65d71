"""What kind of annotation a file holds, found by searching its text and not by parsing it."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from pathlib import Path

from ...files.reading import Unreadable, decode_text, read_json

_WHOLE = 64 << 20  # bytes; of larger JSON files that may be damaged only the end is checked
_HEAD = 16 << 10  # bytes of a text file that are looked at
_LFS = b"version https://git-lfs"
_ROOT = re.compile(rb"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)[\s>/]")
_XML_KINDS = {b"annotation": "voc", b"annotations": "cvat", b"doc": "colabeler", b"dataset": "dlib"}
# path x1,y1,x2,y2,class ...
_BOXES_OF_IMAGE = re.compile(r"\.\w{3,4}[ \t](?:.*[ \t])?-?\d+(?:\.\d+)?(?:,-?\d+(?:\.\d+)?){4}(?:[ \t]|$)")
_LIST_ENTRY = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp|gif|ppm|jfif|jp2)$", re.IGNORECASE)

# Kind -> sets of keys, of which one must be complete. The first kind that fits counts.
_OF_OBJECTS = {  # a document that begins with {
    "coco": ((b"images", b"annotations", b"file_name"), (b"images", b"annotations", b"categories")),
    "labelme": ((b"shapes", b"imagePath"), (b"shapes", b"imageData"), (b"shapes", b"imageHeight")),
    "via": ((b"_via_img_metadata",), (b"shape_attributes", b"regions"), (b"regions", b"file_attributes")),
    "via3": ((b"metadata", b"view", b"fname"),),
    "supervisely": ((b"classTitle",), (b"objects", b"tags", b"size")),
    "datumaro": ((b"dm_format_version",), (b"items", b"media_type")),
    "label-studio": ((b"result", b"from_name"),),
    "bdd100k": ((b"box2d",),),
    "labelbox": ((b"data_row",),),
    "darwin": ((b"bounding_box", b"annotations"),),
    "vott": ((b"visitedFrames",), (b"asset", b"regions", b"boundingBox")),
}
_OF_LISTS = {  # a document that begins with [
    "label-studio": ((b"data", b"annotations", b"result"), (b"data", b"completions"), (b"data", b"predictions")),
    "label-studio-min": ((b"original_width", b"original_height"), (b"annotation_id", b"annotator")),
    "createml": ((b"coordinates", b"label"), (b"image", b"annotations"), (b"imagefilename", b"annotation")),
    "detections": ((b"image_id", b"bbox", b"score"),),
    "bdd100k": ((b"box2d",),),
    "labelbox": ((b"data_row",), (b"Labeled Data",)),
}
READ = frozenset({"coco", "labelme", "createml", "via", "via3", "label-studio", "label-studio-min"})
TOOLS = {  # kinds that are named but not read
    "supervisely": "annotations of Supervisely",
    "datumaro": "a Datumaro dataset",
    "bdd100k": "labels of BDD100K (Scalabel)",
    "labelbox": "an export of Labelbox",
    "vott": "a project of VoTT",
    "darwin": "annotations of V7 (Darwin)",
    "detections": "detections (COCO results) and not a dataset",
}

TEXTS = {  # kinds of .txt files that are named but not read
    "visdrone": "labels of VisDrone (x, y, width, height, score, category, ...)",
    "mot": "tracks of MOTChallenge (frame, id, x, y, width, height, ...)",
    "dota": "labels of DOTA (four corners, class, difficulty)",
}
ENDINGS = {  # of files that are named but not read
    **dict.fromkeys((".tfrecord", ".tfrecords", ".record"), "TFRecord files"),
    **dict.fromkeys((".jsonl", ".ndjson"), "JSON lines"),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), "Parquet or Arrow tables"),
    **dict.fromkeys((".mat",), "MATLAB files"),
    **dict.fromkeys((".pkl", ".pickle"), "Python pickles"),
    **dict.fromkeys((".h5", ".hdf5"), "HDF5 files"),
    **dict.fromkeys((".rec", ".lst"), "MXNet record files"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "spreadsheets"),
}


def json_kind(file: Path) -> str:
    """The kind of a JSON file, a key above; ``""`` for another or empty document, ``"lfs"`` for a git-lfs pointer."""
    try:
        if file.stat().st_size == 0:
            return ""
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
            head = text[:64]
            if head.startswith(_LFS):
                return "lfs"
            start = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
            wide = (
                "utf-16-be"
                if head[:2] == b"\xfe\xff" or head[:1] == b"\0"
                else "utf-16-le"
                if b"\0" in head[:4]
                else ""
            )
            kinds = _OF_OBJECTS if start == b"{" else _OF_LISTS if start == b"[" else {}
            for kind, choices in kinds.items():
                if any(all(text.find(_quoted(key, wide)) >= 0 for key in keys) for keys in choices):
                    return kind
    except (OSError, ValueError):
        pass
    return ""


def _quoted(key: bytes, encoding: str) -> bytes:
    text = b'"' + key + b'"'
    return text.decode().encode(encoding) if encoding else text


def is_damaged(file: Path) -> bool:
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


def xml_kind(file: Path) -> str:
    """The kind of an XML file, by its root element; ``"lfs"`` for a git-lfs pointer, ``""`` for another."""
    head = read_head(file, 4096)
    if head.startswith(_LFS):
        return "lfs"
    root = _ROOT.search(re.sub(rb"<!--.*?-->", b"", head.replace(b"\0", b""), flags=re.DOTALL))
    return _XML_KINDS.get(root.group(1).lower(), "") if root else ""


def starts_with(file: Path, text: bytes) -> bool:
    """Whether the first visible character of a file begins ``text``."""
    return read_head(file, 64).lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(text)


def is_pointer(file: Path) -> bool:
    """Whether git-lfs left a pointer in the file's place."""
    return read_head(file, 64).startswith(_LFS)


def text_kind(file: Path) -> str:
    """The kind of a .txt file by its first lines: yolo, kitti, list (of images), boxes (of an image a line), empty,
    lfs, one of ``TEXTS``, or ``""`` for another.

    YOLO's lines have a class (a number, or one word) and at least four numbers.
    """
    head = read_head(file, _HEAD)
    if head.startswith(_LFS):
        return "lfs"
    text, _ = decode_text(head)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in (lines[:-1] if len(head) == _HEAD else lines) if line]
    if not lines:
        return "empty"
    if "\0" in text:
        return ""
    lines = [line for line in lines if not line.startswith(("imagesource:", "gsd:"))] or lines  # DOTA's head
    kinds = Counter(map(_line_kind, lines[:20]))
    if kinds["boxes"] and 2 * (kinds["boxes"] + kinds["list"]) > kinds.total():
        return "boxes"  # a line without a box is an image without objects
    return next(iter(kinds)) if len(kinds) == 1 else ""


def _line_kind(line: str) -> str:
    if _LIST_ENTRY.search(line):
        return "list"
    if _BOXES_OF_IMAGE.search(line):
        return "boxes"
    columns = line.split()
    if len(columns) < 5:
        columns = re.split(r"[\s,;]+", line)
        if len(columns) in (8, 9, 10) and all(map(_is_number, columns)) and max(map(float, columns[1:])) > 2:
            return "visdrone" if len(columns) == 8 else "mot"
    if len(columns) in (9, 10) and all(map(_is_number, columns[:8])) and not _is_number(columns[8]):
        return "dota"
    if len(columns) >= 15 and not _is_number(columns[0]) and all(map(_is_number, columns[1:])):
        return "kitti"
    return "yolo" if len(columns) >= 5 and all(map(_is_number, columns[1:])) else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_head(file: Path, size: int) -> bytes:
    """The first bytes of a regular file; none where it cannot be read."""
    if not file.is_file():  # a pipe would wait for a writer
        return b""
    try:
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""
