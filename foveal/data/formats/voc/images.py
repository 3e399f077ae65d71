"""Finds the images of VOC's XML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...images.index import ImageIndex
from ...images.lookup import NameMatch, Wanted
from ...images.names import EXACT, path_parts


class VocImage(NamedTuple):
    """What was found for an XML file."""

    match: NameMatch
    name: str  # the name that was looked up
    other: Path | None = None  # another image, which the XML file names


def match_images(index: ImageIndex, xml_of: Mapping[str, Path | None], names: Mapping[str, str]) -> dict[str, VocImage]:
    """The image of each id: that with its stem (nearest to the XML file), else the one that the XML file names.

    ``names`` has the file names in the XML files; a normal form of the stem counts less than an exact name.
    """
    stems = {id: id.rpartition("/")[2] for id in xml_of}
    near = {id: xml.parent.parts if xml is not None else () for id, xml in xml_of.items()}
    matches = index.match([Wanted(stems[id], folders=folders) for id, folders in near.items()])
    found = {id: VocImage(match, stems[id]) for id, match in zip(xml_of, matches, strict=True)}
    unsure = [id for id, (m, *_) in found.items() if names[id] and not (m.way == EXACT and len(m.paths) == 1)]
    used = {image.match.paths[0] for id, image in found.items() if id not in set(unsure) and image.match.paths}
    for id, named in zip(unsure, index.match([Wanted(names[id]) for id in unsure], used), strict=True):
        by_stem = found[id].match
        same = [path for path in by_stem.paths if [path.name] == path_parts(names[id])[-1:]]
        if len(same) == 1 and by_stem.way == EXACT:
            found[id] = VocImage(NameMatch(tuple(same)), stems[id])
        elif named.paths and (not by_stem.paths or (len(named.paths) == 1 and named.way == EXACT)):
            found[id] = VocImage(named, names[id])
    for id, image in found.items():
        base = path_parts(names[id])[-1:]
        if base and len(image.match.paths) == 1 and [image.match.paths[0].name] != base and base[0] in index.names:
            found[id] = image._replace(other=index.names[base[0]])
    return found
