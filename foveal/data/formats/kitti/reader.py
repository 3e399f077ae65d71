"""KITTI's labels (also those of NVIDIA's TAO): a text file for each image, 15 columns a line, and a 16th for a score.

``type truncated occluded alpha left top right bottom height width length x y z rotation``; of these the type and the
box are read. A ``DontCare`` region is a crowd region of every class, so that nothing in it counts for or against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ....files.reading import read_text
from ...records.findings import Findings
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..shapes import numbers_of, report_guess
from ..validate import number

_NUMBERS = (14, 15)  # after the type, which may have spaces
_SIDES = ("left", "top", "right", "bottom")
_IGNORED = "dontcare"


class KittiSource(EntrySource):
    """Folders of KITTI's label files."""

    format = "kitti"
    image_files = True

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        image_roots: Iterable[Path],
        splits: Mapping[Path, str] | None = None,
    ) -> None:
        super().__init__(path, files, image_roots, splits)
        message = "truncation, occlusion and the values in 3D are ignored"
        self.findings.add("note", "attributes-ignored", path, "", message)

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        text, guessed = read_text(file)
        if guessed:
            report_guess(file, findings)
        image = NamedImage(file.stem, "its name", stem=True)
        for n, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            found = _read_line(line.split(), f"line {n}", file, findings)
            if found is not None:
                image.objects.append(found)
        return [image]


def _read_line(columns: list[str], where: str, file: Path, findings: Findings) -> NamedObject | None:
    words = next((k for k, text in enumerate(columns) if k and number(text) is not None), len(columns))
    name, values = " ".join(columns[:words]), columns[words:]
    if len(values) not in _NUMBERS:
        message = f"{len(columns)} columns, expected a type and 14 numbers; dropped"
        findings.add("error", "line-columns", file, where, message, "Correct or remove the line")
        return None
    box = numbers_of(values[3:7])
    shown = ", ".join(f"{key} {text}" for key, text in zip(_SIDES, values[3:7], strict=True))
    if box is None:
        findings.add(
            "warning", "box-not-number", file, where, f"its box {shown} is not four numbers; dropped", "Correct it"
        )
        return None
    if len(values) == _NUMBERS[1] and number(values[-1]) != 1:
        message = "a 16th column has scores, which are ignored: are these detections?"
        fix = "Use foveal eval --detections for detections"
        findings.add("warning", "scores-ignored", file, where, message, fix)
    x1, y1, x2, y2 = box
    return NamedObject(name, (x1, y1, x2, y2), where, shown, every_class=name.lower() == _IGNORED)
