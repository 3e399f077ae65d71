"""Reads a list of class names: one name a line or a JSON list, as tools write ``classes.txt`` and ``obj.names``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_json, read_text, read_yaml
from ..records.findings import Findings, counted
from .validate import number

CLASS_FILES = frozenset(
    {
        *("classes.txt", "class.txt", "labels.txt", "names.txt", "class_names.txt", "classnames.txt", "class_list.txt"),
        *("predefined_classes.txt", "label_list.txt", "obj_names.txt", "categories.txt", "notes.json", "classes.json"),
        *("class_names.json", "names.json", "labels.json"),
    }
)  # names, in lower case, under which tools write a list of classes; also any .names (Darknet) and .labels (Roboflow)
_NUMBERED = re.compile(r"^(\d+)(\s*[:.;,\t]\s*|\s+)(\S.*)$")
IsLiteral = Callable[[list[str]], bool]


def read_class_list(file: Path, findings: Findings, literal: IsLiteral | None = None) -> list[str]:
    """The names by class number, repeats included. What is not one name a line is read with a finding.

    Understood are a JSON or YAML list, a mapping of numbers to names, Label Studio's ``notes.json``, numbered lines and
    a single line with commas, unless ``literal`` tells that the lines themselves are names. Raises
    :class:`~foveal.files.reading.Unreadable`.
    """
    text, guessed = read_text(file)
    if guessed:
        message = "its encoding is not UTF-8; the encoding was guessed"
        findings.add("warning", "encoding-guessed", file, "", message, "Save it as UTF-8")
    lines = [line.strip() for line in text.splitlines()]
    names = [line for line in lines if line]
    document = text.strip()[:1] in ("[", "{")
    if literal is not None and (document or _marked(names)) and literal(names):
        return names
    if document:
        return _of_document(file, findings)
    gaps = [n for n, line in enumerate(lines[: _last(lines)], 1) if not line]
    if gaps:
        message = f"{counted(len(gaps), 'blank line')} (first: line {gaps[0]}), taken for no class"
        findings.add("warning", "classes-blank", file, "", message, "Remove them, or write the names they stand for")
    return _unmarked(_listed(names, file, findings), file, findings)


def _listed(names: list[str], file: Path, findings: Findings) -> list[str]:
    """Names without a comment in front of them all, and without the marks of a YAML list."""
    if len(names) > 1 and names[0].startswith("#") and not any(name.startswith("#") for name in names[1:]):
        message = f"its first line {names[0]!r} is taken for a comment and not for a class"
        findings.add("warning", "classes-form", file, "line 1", message, "Remove it, or the # if it is a class")
        names = names[1:]
    if len(names) > 1 and all(re.match(r"-\s+\S", name) for name in names):
        message = f"it holds a YAML list and not one name a line; it is read as {len(names)} names"
        findings.add("note", "classes-form", file, "", message, "Write one name a line")
        names = [name[1:].strip().strip("'\"") for name in names]
    return names


def _marked(names: Sequence[str]) -> bool:
    """Whether lines may be more than a name each: numbered, or a single one with commas."""
    return (len(names) == 1 and "," in names[0]) or (len(names) > 1 and all(map(_NUMBERED.match, names)))


def _unmarked(names: list[str], file: Path, findings: Findings) -> list[str]:
    """Names without numbers in front, and the names of a single line with commas."""
    if not _marked(names):
        return names
    if len(names) == 1:
        parts = [part.strip().strip("'\"") for part in names[0].split(",")]
        if not all(parts):
            return names
        message = f"its single line has commas; it is read as {len(parts)} names"
        findings.add("warning", "classes-form", file, "", message, "Write one name a line")
        return parts
    found = [m for m in map(_NUMBERED.match, names) if m]
    numbers, rest = [int(m.group(1)) for m in found], [m.group(3).strip() for m in found]
    from_0, from_1 = numbers == list(range(len(names))), numbers == list(range(1, len(names) + 1))
    marked = all(m.group(2).strip() or m.group(2) == "\t" for m in found)
    if len(set(rest)) == len(rest) and (from_0 or (from_1 and marked)):  # not: 1 euro, 2 euro
        message = f"the lines are numbered from {numbers[0]}; the numbers are not part of the names"
        findings.add("note", "classes-form", file, "", message, "Write one name a line, without its number")
        return rest
    message = f"the lines begin with numbers, which are part of the names, such as {names[0]!r}"
    findings.add("note", "classes-form", file, "", message)
    return names


def _last(lines: list[str]) -> int:
    """The number of lines up to the last one that is not blank."""
    return max((n for n, line in enumerate(lines, 1) if line), default=0)


def _of_document(file: Path, findings: Findings) -> list[str]:
    """The names of a JSON or YAML document."""
    try:
        doc: Any = read_json(file)
    except Unreadable:
        doc = read_yaml(file)  # ['a', 'b'] is YAML and not JSON
    if isinstance(doc, dict):
        key = next(
            (k for k in ("names", "classes", "categories", "labels") if isinstance(doc.get(k), list | dict)), None
        )
        doc = doc if key is None else doc[key]
    if isinstance(doc, dict):  # number -> name, or name -> number
        swapped = all(number(value) is not None for value in doc.values())
        doc = [{"id": value, "name": key} if swapped else {"id": key, "name": value} for key, value in doc.items()]
    if isinstance(doc, list) and doc and all(isinstance(entry, dict) for entry in doc):
        name_of = {number(entry.get("id")): entry.get("name") for entry in doc}
        if set(name_of) != set(range(len(doc))):
            shown = ", ".join(str(entry.get("id"))[:20] for entry in doc[:10])
            raise Unreadable(f"the class numbers are {shown}, expected 0, 1, 2, ...", "Number the classes from 0")
        doc = [name_of[k] for k in range(len(doc))]
    if not isinstance(doc, list) or not all(isinstance(name, str) and name.strip() for name in doc):
        raise Unreadable("expected a class name on each line, or a list of names", "Write one name a line")
    if file.suffix.lower() != ".json":
        message = f"it holds a list and not one name a line; it is read as {len(doc)} names"
        findings.add("note", "classes-form", file, "", message, "Write one name a line")
    return [name.strip() for name in doc]
