"""Lists of images with their boxes (keras-yolo3 and its descendants): lines ``path x1,y1,x2,y2,class ...``."""

from __future__ import annotations

import re
from pathlib import Path

from ....files.reading import read_text
from ...records.findings import Findings
from ..entries import NamedImage, NamedObject
from ..shapes import numbers_of, report_guess
from .class_table import TableSource
from .columns import has_extension

_BOX = re.compile(r"\S*,\S*$")


class BoxListSource(TableSource):
    """Text files, one for each split; ``class_file`` lists the names of the classes."""

    format = "list"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        text, guessed = read_text(file)
        if guessed:
            report_guess(file, findings)
        lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        images = [_read_line(line, f"line {n}", file, findings) for n, line in lines]
        self.class_table.rename(images, file, findings)
        return images


def _read_line(line: str, where: str, file: Path, findings: Findings) -> NamedImage:
    """The image of a line, whose path may have spaces, with the objects that can be read."""
    words: list[str] = []
    while not has_extension(line) and _BOX.search(line):
        line, _, word = line.rpartition(" ") if " " in line else line.rpartition("\t")
        line = line.strip()
        words.append(word)
    image = NamedImage(line, where, stem=not has_extension(line))
    for word in reversed(words):
        parts = word.split(",")
        box = numbers_of(parts[:4]) if len(parts) == 5 else None
        if box is None:
            message = f"{word[:60]!r} is not x1,y1,x2,y2,class; dropped"
            findings.add("warning", "box-not-number", file, where, message, "Correct it")
            continue
        image.objects.append(NamedObject(parts[4], (box[0], box[1], box[2], box[3]), where, word))
    return image
