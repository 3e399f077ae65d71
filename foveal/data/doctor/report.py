"""The report of ``foveal doctor``: counts and findings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...files.text import one_line
from ..diagnosis.losses import losses
from ..records.findings import Finding, fold, printable


@dataclass(frozen=True)
class ClassCount:
    """Counts of one class."""

    name: str
    images: int
    objects: int
    difficult: int
    crowd: int


@dataclass(frozen=True)
class SplitCount:
    """Counts of one split (``""``: the whole dataset, where there are no splits)."""

    name: str
    images: int
    empty: int  # images without objects
    objects: int
    difficult: int
    crowd: int
    classes: tuple[ClassCount, ...]
    sizes: tuple[int, int, int]  # objects below 32 x 32, below 96 x 96, and larger, by COCO's area


@dataclass(frozen=True)
class Report:
    """The result of :func:`~.examine.examine`."""

    path: Path
    format: str
    classes: tuple[str, ...]
    splits: tuple[SplitCount, ...]
    findings: tuple[Finding, ...]
    image_sizes: tuple[tuple[int, int, int], ...]  # width, height, number of images; most frequent first
    box_sides: tuple[int, ...]  # number of objects with sqrt(area) in 0-4, 4-8, 8-16, ..., 512-1024, more
    decoded: bool
    images: int = 0
    objects: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # findings by severity

    def status(self, strict: bool = False) -> int:
        """Exit status: 1 where a finding is an error (with ``strict`` also a warning), else 0."""
        return int(bool(self.counts["error"] or (strict and self.counts["warning"])))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"path": printable(str(self.path)), "findings": [f.to_dict() for f in self.findings]}

    def to_list(self) -> list[dict[str, Any]]:
        """The findings alone, the form of ``doctor --json``."""
        return [f.to_dict() for f in self.findings]

    def text(self, every: bool = False) -> str:
        """The report for a terminal: counts, then findings, one line a kind unless ``every``. Nothing is truncated."""
        lines = [
            f"{self.path}: {self.format.upper()}, {self.images} images, {self.objects} objects, "
            f"{len(self.classes)} classes"
        ]
        for s in self.splits:
            name = f"split {s.name}" if s.name else "all"
            extra = "".join(f", {n} {word}" for n, word in ((s.difficult, "difficult"), (s.crowd, "crowd")) if n)
            lines.append(f"  {name}: {s.images} images ({s.empty} without objects), {s.objects} objects{extra}")
            lines += [
                f"    {one_line(c.name)}: {c.objects} objects in {c.images} images" for c in s.classes if c.objects
            ]
        lines += [str(f) for f in self.findings] if every else fold(self.findings)
        lines += filter(None, [losses(self.findings)])
        n = self.counts
        lines.append(
            f"{n['error']} errors, {n['warning']} warnings, {n['note']} notes"
            + ("" if self.decoded else " (images were not decoded)")
        )
        return printable("\n".join(lines))
