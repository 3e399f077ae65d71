"""Reads a JSON file of an annotation tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....files.reading import JsonOddities, read_json
from ...records.findings import Findings


def read_checked(file: Path, findings: Findings) -> Any:
    """The document, with findings on a guessed encoding and on keys that occur twice.

    Raises :class:`~foveal.files.reading.Unreadable`.
    """
    oddities = JsonOddities()
    doc = read_json(file, oddities)
    if oddities.guessed:
        message = "its encoding is not UTF-8; Windows-1252 was guessed"
        findings.add("warning", "encoding-guessed", file, "", message, "Save it as UTF-8")
    if oddities.repeated:
        key, first, last = oddities.repeated[0]
        count = len(oddities.repeated)
        message = f"a key occurs twice in one object with different values ({count} times); the last is used"
        findings.add("warning", "key-repeated", file, f"{key!r}: {first!r:.40} and {last!r:.40}", message, "Correct it")
    return doc
