"""Finds the class names of label files that no yaml describes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_bytes, read_yaml
from ..formats.class_list import CLASS_FILES, read_class_list
from ..records.findings import Findings
from .listing import Listing


def find_names(
    listing: Listing, folders: Iterable[Path], labels: Iterable[Path], findings: Findings
) -> tuple[list[str], Path | None]:
    """The class names for label files in ``folders``, and the file that lists them.

    Lists are looked for in these folders and above, up to the folder that was given. Several must agree. Without one,
    the classes are called ``class_0``, ``class_1``, ... as far as the files ``labels`` have numbers.
    """
    lists: dict[Path, list[str]] = {}
    labels = list(labels)
    for file in _candidates(listing, folders):
        try:
            if file.suffix in (".yaml", ".yml"):
                names = names_in_yaml(file)
            else:  # a single line with commas may be one name
                names = read_class_list(file, findings, lambda lines: len(lines) == 1 and _first_words(labels) == {"0"})
        except Unreadable as error:
            if file.suffix not in (".json", ".yaml", ".yml"):
                findings.add("warning", "classes-unreadable", file, "", error.message, error.fix)
            continue
        if names:
            lists[file] = names
    if not lists:
        return _numbered(listing, labels, findings), None
    longest = max(lists, key=lambda file: len(lists[file]))
    names = lists[longest]
    for file, other in lists.items():
        if other != names[: len(other)]:
            message = f"its class names differ from those in {longest}, so the class numbers are ambiguous"
            findings.add("error", "classes-ambiguous", file, "", message, "Remove the list that is wrong")
            return [], None
        if len(other) < len(names):
            message = f"lists the first {len(other)} of the {len(names)} classes in {longest}, which is used"
            findings.add("note", "classes-shorter", file, "", message)
    return names, longest


def _candidates(listing: Listing, folders: Iterable[Path]) -> list[Path]:
    """The files that may list class names, nearest first."""
    around: dict[Path, None] = {}
    for folder in folders:
        while True:
            around[folder] = None
            if folder == listing.root or folder.parent == folder or listing.root not in folder.parents:
                break
            folder = folder.parent
    found = []
    for folder in around:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        known = [n for n in names if n.lower() in CLASS_FILES or n.lower().endswith((".names", ".labels"))]
        if not known:  # voc_classes.txt
            known = [n for n in names if n.lower().endswith("classes.txt")]
        found += [folder / name for name in sorted(known, key=lambda n: n.lower() != "classes.txt")]
        found += [file for file in listing.yamls if file.parent == folder]
    return found


def names_in_yaml(file: Path) -> list[str]:
    """The class names in a yaml that has nothing else to say about the dataset."""
    doc: Any = read_yaml(file)
    names = doc.get("names") if isinstance(doc, dict) else None
    if isinstance(names, dict):
        names = [names.get(str(k)) for k in range(len(names))]
    return names if isinstance(names, list) and all(isinstance(n, str) and n.strip() for n in names) else []


def _numbered(listing: Listing, labels: Iterable[Path], findings: Findings) -> list[str]:
    """``class_0``, ... up to the largest number in the label files; their own words where these are no numbers."""
    words = _first_words(labels)
    numbers = {word for word in words if word.isascii() and word.isdigit() and len(word) < 6}
    if words and not numbers:
        found = sorted(words)
        message = f"there is no list of class names; the {len(found)} names in the label files are used"
        findings.add("warning", "classes-missing", listing.root, "", message, "Add classes.txt, with one name a line")
        return found
    count = max(map(int, numbers), default=-1) + 1
    if not count:
        fix = "Add classes.txt, with one name a line in the order of the class numbers"
        findings.add("error", "classes-missing", listing.root, "", "there is no list of class names", fix)
        return []
    called = "class_0" if count == 1 else f"class_0 to class_{count - 1}"
    message = f"there is no list of class names; the classes are called {called}, by the numbers in the label files"
    fix = "Add classes.txt, with one name a line in the order of the class numbers"
    findings.add("warning", "classes-missing", listing.root, "", message, fix)
    return [f"class_{k}" for k in range(count)]


def _first_words(labels: Iterable[Path]) -> set[str]:
    """The first word of every line of label files."""
    words: set[str] = set()
    for file in labels:
        try:
            data = read_bytes(file)
        except Unreadable:
            continue
        words.update(line.split(None, 1)[0].decode("utf-8", "replace") for line in data.splitlines() if line.strip())
    return words
