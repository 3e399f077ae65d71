"""Finds VOC datasets among the files of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..formats.voc.reader import VocSource
from .kinds import xml_kind
from .listing import Listing, has_folder


def find_voc(listing: Listing, images: Path | None) -> list[VocSource]:
    """The devkits of a folder, and its other VOC files as one dataset."""
    sources: list[VocSource] = []
    for base in listing.roots:
        folder = base / "Annotations"
        xml = sorted(d / n for d, names in listing.xml.items() if folder in (d, *d.parents) for n in names)
        sets = base / "ImageSets" / "Main"
        plain = base / "ImageSets"
        chosen = sets if sets.is_dir() else plain if plain.is_dir() and any(plain.glob("*.txt")) else None
        image_root = images or (base / "JPEGImages" if has_folder(base, "JPEGImages") else base)
        sources.append(VocSource(base, xml, (image_root,), chosen, _class_file(base, folder)))
    loose = {d: names for d, names in listing.xml.items() if not any(base in (d, *d.parents) for base in listing.roots)}
    annotated = {d: names for d, names in loose.items() if any(xml_kind(d / n) == "voc" for n in names[:200])}
    if annotated:
        around = [*annotated, *(() if images else listing.images)]
        if sources:  # with devkits elsewhere, only the images beside these files belong to them
            around = list(annotated)
        base = Path(os.path.commonpath(around))
        xml = sorted(d / n for d, names in annotated.items() for n in names)
        sets_here = [s for s in listing.sets if base in s.parents]
        chosen = sets_here[0] if len(sets_here) == 1 else None
        sources.append(VocSource(base, xml, (images or base,), chosen, _class_file(base, listing.root, *annotated)))
    return sources


def _class_file(*folders: Path) -> Path | None:
    return next((f / "classes.txt" for f in folders if (f / "classes.txt").is_file()), None)
