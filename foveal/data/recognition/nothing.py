"""What a folder without a dataset holds, and what it probably lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import FovealError
from .kinds import ENDINGS, TEXTS, TOOLS, is_pointer, text_kind
from .listing import Listing

_SAMPLE = 20


def describe_nothing(listing: Listing, kinds: Mapping[Path, str]) -> FovealError:
    """The error for a folder without a dataset: what it holds, the likely cause, and what to do."""
    foreign = next(((file, kind) for file, kind in kinds.items() if kind in TOOLS), None)
    if foreign is not None:
        file, kind = foreign
        return FovealError(f"{TOOLS[kind]}, which is not read", path=file, fix="Export it as COCO, VOC or YOLO")
    files = _annotation_files(listing)
    pointers = [file for file in files if is_pointer(file)]
    if pointers:
        what = f"{len(pointers)} of the {len(files)} annotation files are git-lfs pointers, not the files themselves"
        return FovealError(what, path=pointers[0], fix="Run: git lfs pull")
    cause, fix = _likely_cause(listing)
    parts = _parts(listing)
    held = f" ({', '.join(parts)})" if parts else "" if cause else ": there are no annotations"
    return FovealError(f"holds no dataset{held}{cause and f': {cause}'}", path=listing.root, fix=fix)


def _parts(listing: Listing) -> list[str]:
    images = sum(listing.images.values())
    parts = [f"{images} images"] if images else []
    for what, number in (
        ("JSON", len(listing.jsons)),
        ("XML", sum(map(len, listing.xml.values()))),
        ("YAML", len(listing.yamls)),
        ("text", sum(map(len, listing.texts.values()))),
        ("CSV", len(listing.tables)),
    ):
        if number:
            parts.append(f"{number} {what} files without annotations")
    if listing.refused:
        parts.append(f"{', '.join(map(str, listing.refused[:5]))} cannot be listed")
    return parts


def _likely_cause(listing: Listing) -> tuple[str, str]:
    """The likely reason why a folder holds no dataset, and what to do."""
    images = sum(listing.images.values())
    labels = [folder / name for folder, names in listing.texts.items() for name in names[:_SAMPLE]]
    kinds = [text_kind(file) for file in labels]
    foreign = next((kind for kind in kinds if kind in TEXTS), None)
    if foreign is not None:
        return f"{TEXTS[foreign]} are not read", "Convert them to COCO, VOC or YOLO"
    if images and kinds.count("empty") > 1 and not set(kinds) - {"empty", ""}:
        return f"its {kinds.count('empty')} label files are empty", "Annotate at least one image"
    if "yolo" in kinds:
        what = "no image belongs to the YOLO labels" if images else "the images of the YOLO labels are missing"
        return what, "Put the images beside the labels or give --images DIR"
    if listing.archives:
        return f"{listing.archives[0].name} is an archive", "Unpack it and give the folder"
    ending = next((e for e in listing.others if e in ENDINGS), None)
    if ending is not None:
        return f"{ENDINGS[ending]} ({ending}) are not read", "Export them as COCO, VOC or YOLO"
    if images:
        return _missing_annotations(listing)
    return "", "Give VOC XML, COCO JSON or a YOLO data.yaml"


def _missing_annotations(listing: Listing) -> tuple[str, str]:
    """What a folder of images alone probably lacks."""
    readme = next((p for p in sorted(listing.root.glob("README*.txt")) if "roboflow" in p.name.lower()), None)
    if readme is not None:
        cause = f"{readme.name} is Roboflow's, but its annotations (_annotations.coco.json, or labels) are missing"
        return cause, "Export it again, and unpack the whole archive"
    beside = [listing.root.parent / name for name in ("labels", "Labels", "Annotations", "annotations")]
    found = [folder for folder in beside if folder.is_dir()]
    if found and listing.root.name:
        return f"the annotations are probably in {found[0]}", f"Give {listing.root.parent}"
    return "its annotations are missing", "Add VOC XML, COCO JSON or YOLO labels, or give the folder that has them"


def _annotation_files(listing: Listing) -> list[Path]:
    """The files that may hold annotations."""
    in_folders = [
        folder / name for of in (listing.xml, listing.texts) for folder, names in of.items() for name in names
    ]
    return [*listing.jsons, *listing.yamls, *listing.tables, *listing.darknet, *in_folders]
