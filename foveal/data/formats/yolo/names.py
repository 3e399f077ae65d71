"""Reads the class names of a ``data.yaml``: a list, a mapping from numbers, one text with separators, or a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable
from ...records.findings import Findings
from ..class_list import read_class_list
from ..validate import number

_SEPARATORS = re.compile(r"\s*[,;|\n]\s*")


def yaml_names(doc: dict[str, Any], path: Path, findings: Findings) -> list[str]:
    """The class names by number; none, and an error, where they are missing or ambiguous."""

    def error(code: str, where: str, message: str, fix: str) -> list[str]:
        findings.add("error", code, path, where, message, fix)
        return []

    names, nc = doc.get("names"), doc.get("nc")
    count = number(nc)
    listed: list[object] = names if isinstance(names, list) else []
    if isinstance(names, dict):
        numbered = {number(key): value for key, value in names.items()}
        if set(numbered) != set(range(len(names))):
            keys = ", ".join(str(k)[:20] for k in list(names)[:10])
            message = f"the class numbers are {keys}, expected 0, 1, 2, ..."
            return error("classes-invalid", "names", message, "Number the classes from 0")
        listed = [numbered[k] for k in range(len(names))]
    if isinstance(names, str) or (len(listed) == 1 and count not in (None, 1.0) and isinstance(listed[0], str)):
        listed = list(_divided(str(names if isinstance(names, str) else listed[0]), count, path, findings))
    if names is None and count is not None and 0 < count <= 100_000:
        message = f"there are no names; the {int(count)} classes are called class_0, class_1, ..."
        findings.add("warning", "classes-missing", path, "names", message, "Add names:")
        listed = [f"class_{k}" for k in range(int(count))]
    if not listed:
        return error("classes-missing", "names", "there is no list of class names", "Add names: [first, second]")
    if not all(isinstance(name, str) and name.strip() not in ("", "~") for name in listed):  # "~" is YAML's null
        return error("classes-invalid", "names", "a name is empty or not a text", "Give every class a name")
    if nc is not None and count != len(listed):
        message = f"nc is {str(nc)[:40]}, but there are {len(listed)} names"
        error("class-count", "nc", message, "Correct nc or names, for the labels are ambiguous")
    return [str(name).strip() for name in listed]


def _divided(text: str, count: float | None, path: Path, findings: Findings) -> list[str]:
    """The names in one text: in a file of this name, else between separators; of spaces only where ``nc`` confirms."""
    file = path.parent / text.strip()
    if "\0" not in text and len(text) < 1024 and "\n" not in text.strip() and file.is_file():
        try:
            names = read_class_list(file, findings)
        except Unreadable as error:
            findings.add("error", "classes-unreadable", file, "", error.message, error.fix)
            return []
        findings.add("note", "classes-in-file", path, "names", f"the {len(names)} names are those in {file}")
        return names
    names = [n.strip("\"'") for n in _SEPARATORS.split(text.strip().strip("[]()")) if n.strip("\"' ")]
    if len(names) == 1 and count is not None and count > 1 and len(text.split()) == count:
        names = text.split()
    if not names or (len(names) == 1 and count != 1.0):
        return []  # one word may be a class, or where the names are
    message = f"names is one text, {text.strip()[:60]!r}, and read as {len(names)} names"
    findings.add("warning", "classes-in-text", path, "names", message, "Write a list: names: [first, second]")
    return names
