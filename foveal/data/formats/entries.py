"""What annotation files that name their images consist of, with names and coordinates as written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..records.convention import Layout
from ..records.findings import Findings
from .validate import Box


@dataclass(slots=True)
class NamedObject:
    """One object as a file has it."""

    name: str  # of its class; "" where it has none
    box: Box  # xyxy, in the units of its image entry
    where: str  # for findings: "images[3]: shape 2"
    shown: str  # the box as the file has it
    crowd: bool = False
    difficult: bool = False
    polygons: list[list[float]] | None = None  # x1, y1, x2, y2, ... in the same units
    mask: dict[str, Any] | None = None  # COCO's run lengths, in pixels
    every_class: bool = False  # a region to ignore, whatever is in it


@dataclass(slots=True)
class NamedImage:
    """One image as a file names it."""

    name: str
    where: str  # for findings: "images[3]"
    objects: list[NamedObject] = field(default_factory=list)
    size: tuple[float, float] | None = None  # width, height as stated
    split: str | None = None  # as stated
    fractions: bool = False  # coordinates are fractions of the image and not pixels
    layout: Layout = "corners"  # how the file states boxes
    stem: bool = False  # the name has no extension
    else_named: str | None = None  # the name to look for where no image has the first
    skipped: bool = False  # told already


@dataclass
class ParsedFile:
    """The images of one annotation file, and what is wrong with it."""

    images: list[NamedImage] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
