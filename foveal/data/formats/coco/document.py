"""Reads a COCO JSON file in the shapes that tools write, and names files that are of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ....files.reading import JsonOddities, Unreadable, read_json
from ...records.findings import Findings


class Document(NamedTuple):
    """The entries of a COCO file as they are."""

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


def read_document(path: Path, findings: Findings) -> Document:
    """The entries of a file. Raises :class:`Unreadable` for a file that is not a set of images with objects."""
    oddities = JsonOddities()
    doc = read_json(path, oddities)
    if isinstance(doc, list):
        raise Unreadable(*_kind_of_list(doc))
    if not isinstance(doc, dict):
        raise Unreadable(f"not a COCO dataset but a {type(doc).__name__}", "Give the JSON with images and annotations")
    _report_oddities(oddities, path, findings)
    images = _entries(doc, "images", path, findings)
    annotations = _entries(doc, "annotations", path, findings, required=False)
    categories = _entries(doc, "categories", path, findings, required=False)
    dicts = [a for a in annotations if isinstance(a, dict)]
    if dicts and not any("bbox" in a for a in dicts):
        if all("segments_info" in a for a in dicts):
            what = "a panoptic file: its annotations have segments_info and a PNG for each image, but no bbox"
            raise Unreadable(what, "Give the instances file of the same images")
        if all("caption" in a for a in dicts):
            what = "a file of captions: its annotations have no bbox and no category_id"
            raise Unreadable(what, "Give the instances file of the same images")
    if images and doc.get("annotations") is None:
        nested = any(isinstance(i, dict) and isinstance(i.get("annotations"), list) for i in images)
        where = " (those inside the images are not read)" if nested else ""
        message = f'there is no list "annotations"{where}; the {len(images)} images count as images without objects'
        findings.add("warning", "annotations-missing", path, "", message, "Export it again, with its annotations")
    return Document(images, annotations, categories)


def _kind_of_list(doc: list[Any]) -> tuple[str, str]:
    first = doc[0] if doc and isinstance(doc[0], dict) else {}
    fix = "Give the JSON with images and annotations"
    if "image_id" in first and "score" in first:
        return f"a list of {len(doc)} results (detections), not a dataset", f"{fix}, and this to eval --detections"
    return "not a COCO dataset but a list (of results?)", fix


def _report_oddities(oddities: JsonOddities, path: Path, findings: Findings) -> None:
    if oddities.guessed:
        message = "its encoding is not UTF-8; Windows-1252 was guessed"
        findings.add("warning", "encoding-guessed", path, "", message, "Save it as UTF-8")
    lists = [key for key, first, last in oddities.repeated if isinstance(first, list) and isinstance(last, list)]
    whole = [key for key in lists if key in ("images", "annotations", "categories")]
    if whole:
        what = f"the list {whole[0]!r} occurs twice, so it is unknown which is meant (were two files joined?)"
        raise Unreadable(what, "Keep one of them, or merge them")
    if oddities.repeated:
        key, first, last = oddities.repeated[0]
        count = len(oddities.repeated)
        message = f"a key occurs twice in one object with different values ({count} times); the last is used"
        findings.add("warning", "key-repeated", path, f"{key!r}: {first!r:.40} and {last!r:.40}", message, "Correct it")


def _entries(doc: dict[str, Any], key: str, path: Path, findings: Findings, required: bool = True) -> list[Any]:
    """The list under a key, or the entries of a dict by id. Raises :class:`Unreadable`."""
    value = doc.get(key)
    if value is None and not required:
        return []
    if isinstance(value, dict) and value:
        entries: list[Any] = []
        for id, entry in value.items():
            if isinstance(entry, str) and key == "categories":
                entries.append({"id": id, "name": entry})
            elif isinstance(entry, dict):
                entries.append({"id": id, **entry})
        if len(entries) == len(value):
            message = f"a dict by id instead of a list; its {len(value)} entries are used"
            findings.add("note", "list-as-dict", path, key, message)
            return entries
    if not isinstance(value, list):
        what = "is missing" if value is None else f"is a {type(value).__name__}"
        raise Unreadable(f'"{key}" {what}, expected a list', "Export it again")
    return value
