"""What is suspicious about the classes of a set: names that are nearly equal, classes without objects, numbers."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..records.dataset import Dataset
from ..records.evidence import Evidence
from ..records.findings import Finding, Severity

SHOWN = 10  # names in a message
_JOINERS = "_-\u2010\u2011\u2013"


def folded(name: str) -> str:
    """A name without what writers vary: capitals, spaces, underscores, hyphens and the Unicode form."""
    return _joined(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()))


def _joined(text: str) -> str:
    return "".join(c for c in text if not c.isspace() and c not in _JOINERS)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two names or more that are equal once folded."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def name_difference(a: str, b: str) -> str:
    """What two names that are alike differ in."""
    if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        return "the Unicode form"
    if a.casefold() == b.casefold():
        return "capitals"

    if _joined(a) == _joined(b):
        return "spaces, underscores or hyphens"
    return "capitals, spaces, underscores, hyphens or the Unicode form"


_JOIN = {
    "voc": "Write the same name in all <name> tags, if they are one class",
    "coco": "Give both categories the same name, if they are one class, for equal names are joined",
    "yolo": "Write the same name for both in the list of names, if they are one class, for equal names are joined",
}


def similar_classes(parts: Sequence[Dataset]) -> Iterator[Finding]:
    """A warning for each group of classes, of one set or of several splits, whose names are nearly equal."""
    counts: dict[str, Counter[str]] = {}  # class -> split -> objects
    for part in parts:
        for record in part.records:
            for label in record.labels.tolist():
                counts.setdefault(part.classes[label], Counter())[part.split or ""] += 1
    for group in alike(name for part in parts for name in part.classes):
        listed = " and ".join(f"{name!r} ({_counted(counts.get(name, Counter()))})" for name in group)
        message = (
            f"the classes {listed} differ only in {name_difference(group[0], group[1])}, and count as separate classes"
        )
        fix = _JOIN.get(parts[0].format, "Write the same name for both, if they are one class")
        yield Finding("classes-similar", "warning", str(parts[0].path), "", message, fix)


def _counted(by_split: Counter[str]) -> str:
    total = sum(by_split.values())
    where = f" in {', '.join(by_split)}" if by_split and all(by_split) else ""
    return f"{total} object{'s' * (total != 1)}{where}"


def empty_classes(training: Dataset) -> Iterator[Finding]:
    """A warning that lists the classes without an object to learn."""
    if not any(map(len, training.records)):  # an error of its own
        return
    learned: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    for record in training.records:
        off = record.crowd | record.ignore
        learned.update(record.labels[~off].tolist())
        crowds.update(record.labels[record.crowd].tolist())
    empty = [k for k in range(len(training.classes)) if not learned[k]]
    if not empty:
        return
    said = [repr(training.classes[k]) + (f" (only {crowds[k]} crowds)" if crowds[k] else "") for k in empty[:SHOWN]]
    more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
    some = f"{len(empty)} of the {len(training.classes)} classes have" if len(empty) > 1 else "a class has"
    message = f"{some} no object in the training data: {', '.join(said)}{more}"
    fix = "Check the names and the annotations, or leave them out with --classes"
    yield Finding("class-without-object", "warning", str(training.path), "", message, fix)


def background_classes(parts: Sequence[Dataset]) -> Iterator[Finding]:
    """A warning where objects have the class of no object: another tool counts it, and the numbers may be one off."""
    used = {part.classes[label] for part in parts for r in part.records for label in r.labels.tolist()}
    for name in sorted(used):
        if folded(name) in ("background", "bg"):
            message = (
                f"objects have the class {name!r}: is it in the list of names by mistake, so that all are one off?"
            )
            fix = "Remove it from the names if no object is meant, or leave it out with --classes"
            yield Finding("class-background", "warning", str(parts[0].path), "", message, fix)


def only_difficult(training: Dataset) -> Iterator[Finding]:
    """A warning where all objects to learn are difficult, which some recipes drop."""
    counted = [record.difficult[~(record.crowd | record.ignore)] for record in training.records]
    total = sum(len(flags) for flags in counted)
    if total and all(bool(flags.all()) for flags in counted):
        message = f"all {total} objects of the training data are difficult; recipes with fit.difficult=drop learn none"
        fix = "Set difficult to 0 where it is wrong, or train with fit.difficult=learn"
        yield Finding("only-difficult", "warning", str(training.path), "", message, fix)


def class_numbers(evidence: Sequence[Evidence], path: str) -> Finding | None:
    """The finding on class numbers that are not those of the names, over all objects of one dataset."""
    counts: Counter[int] = Counter()
    names: dict[int, str] = {}
    for each in evidence:
        counts.update(each.class_numbers)
        names.update(each.class_names)
    shift = evidence[0].convention.first_class
    known = sorted(number + shift for number in names)
    if not counts or not known:
        return None
    total, low, high = sum(counts.values()), min(counts), max(counts)
    lost = sum(count for number, count in counts.items() if number - shift not in names)
    if (
        lost
        and known[-1] not in counts
        and all(n - shift + 1 in names for n in counts)
        and 2 * len(counts) > len(known)
    ):
        message = f"the class numbers seem to be one too low: they go from {low} to {high} where the {len(known)} names"
        message += (
            f" have {known[0]} to {known[-1]}; so {lost} of {total} objects have no class and the others have the"
        )
        message += " class before theirs"
        return _numbers(path, "error", message, "Number the classes as the names are")
    if known[0] in counts:
        return None
    in_order = known == list(range(shift, shift + len(known)))
    said = f"none is {known[0]}, and they go from {low} to {high} where the {len(known)} names have {known[0]}"
    said += f" to {known[-1]}" if len(known) > 1 else ""
    fix = "Number the classes as the names are, or read them with --convention from-1"
    if lost and not shift and all(number - 1 in names for number in counts):
        sure = len(counts) >= max(1, len(known) / 2)
        message = f"the class numbers seem to be one too high, as if they started at 1: {said}; so {lost} of {total}"
        message += " objects have no class and the others have the class after theirs"
        return _numbers(path, "error" if sure else "warning", message, fix)
    if lost and in_order and low > shift and high > known[-1] + 1 and total >= 3:
        message = f"the class numbers are not those of the names: {said}; {lost} of {total} objects have no class"
        return _numbers(path, "error", message, "Give the list of names that the numbers belong to")
    if not lost and not shift and known[0] == 0 and in_order and len(counts) == len(known) - 1 >= 2:
        message = f"all class numbers but 0 ({names[0]!r}) occur: do they start at 1?"
        return _numbers(path, "warning", message, fix)
    return None


def _numbers(path: str, severity: Severity, message: str, fix: str) -> Finding:
    return Finding("class-numbers", severity, path, "", message, fix)
