"""The diagnosis of a whole set, which ``foveal doctor`` and ``train`` share: findings that no single file shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..images.ranges import range_findings
from ..records.convention import Convention
from ..records.dataset import Dataset
from ..records.evidence import Evidence
from ..records.findings import Finding, Severity
from .boxes import BoxVerdict, judge_boxes
from .classes import background_classes, class_numbers, similar_classes

MISREAD = ("box-convention", "class-numbers")  # of severity error: what is read is not what was meant
_FEW_UNLABELED, _MANY_UNLABELED = 3, 0.5  # images, and their share: fewer without a label file are a note
# findings on single boxes that a wrong convention explains, and on single lines that wrong numbers explain
_OF_BOXES = ("box-over-edge", "box-outside", "box-inverted", "box-empty")
_OF_NUMBERS = ("class-unknown",)
_Judged = tuple[int, list[Evidence], BoxVerdict]  # index of a part, its evidence of one reading, the verdict


def diagnose_parts(parts: Sequence[Dataset], *, counts: bool = True) -> list[Dataset]:
    """The datasets, splits of one set or sets that are used together, with the findings on them as a whole.

    A finding on a whole set replaces those on single objects that it explains. The evidence is used up. ``counts``
    adds notes on how much there is of what need not be a fault, such as images without a label file.
    """
    added: list[list[Finding]] = [[] for _ in parts]
    explained: list[set[str]] = [set() for _ in parts]
    found: list[tuple[Finding, list[int], tuple[str, ...]]] = []
    found += [(finding, which, _OF_BOXES) for finding, which in _boxes(parts)]
    found += [(finding, which, _OF_NUMBERS) for finding, which in _numbers(parts)]
    for finding, which, codes in found:
        for k in which:
            added[k].append(finding)
            explained[k].update(codes if finding.severity == "error" else ())
    for k, part in enumerate(parts):
        added[k] += [f for f in (*_labels(part), *_turned(part)) if counts or f.severity != "note"]
    if parts:
        added[0] += [*similar_classes(parts), *background_classes(parts), *(_unlisted(parts) if counts else ())]
        added[0] += range_findings([r.path for part in parts for r in part.records], parts[0].path)
    return [
        replace(part, findings=[*new, *(f for f in part.findings if f.code not in codes)], evidence=[])
        for part, new, codes in zip(parts, added, explained, strict=True)
    ]


def _boxes(parts: Sequence[Dataset]) -> Iterator[tuple[Finding, list[int]]]:
    """The findings on boxes in another convention, each with the indices of the parts that it is about."""
    groups: dict[object, list[_Judged]] = {}
    for k, part in enumerate(parts):
        by_reading: dict[tuple[Convention, bool], list[Evidence]] = {}
        for evidence in part.evidence:
            by_reading.setdefault((evidence.convention, evidence.around), []).append(evidence)
        for read_as, same in by_reading.items():
            verdict = judge_boxes(same)
            if verdict is not None:
                groups.setdefault((read_as, part.path), []).append((k, same, verdict))
    for members in groups.values():
        for group in _alike(members):
            which = [k for k, _, _ in group]
            names = [str(parts[k].split) for k in which if parts[k].split]
            where = f"split {', '.join(names)}" if names and len(which) < len(parts) else ""
            whole = [each for _, of_part, _ in group for each in of_part]
            joint = (judge_boxes(whole) if len(group) > 1 else None) or group[0][2]
            yield _box_finding(joint, whole[0], parts[which[0]].path, where), which


def _alike(members: list[_Judged]) -> list[list[_Judged]]:
    """The parts whose verdicts name a convention in common, or none, as groups."""
    groups: list[list[_Judged]] = []
    for member in sorted(members, key=lambda m: len(m[2].looks)):
        for group in groups:
            first = group[0][2]
            if first.claim == member[2].claim and (not first.looks or set(first.looks) & set(member[2].looks)):
                group.append(member)
                break
        else:
            groups.append([member])
    return [sorted(group, key=lambda m: m[0]) for group in groups]


def _numbers(parts: Sequence[Dataset]) -> Iterator[tuple[Finding, list[int]]]:
    """The findings on class numbers, over all splits that have the same list of names."""
    by_names: dict[object, list[tuple[int, Evidence]]] = {}
    for k, part in enumerate(parts):
        for e in part.evidence:
            if e.class_names:
                by_names.setdefault((part.format, tuple(e.class_names.items())), []).append((k, e))
    for members in by_names.values():
        which = list(dict.fromkeys(k for k, _ in members))
        finding = class_numbers([e for _, e in members], str(parts[which[0]].path))
        if finding is not None:
            yield finding, which
            continue
        for k, e in members:  # one split alone
            finding = class_numbers([e], str(parts[k].path)) if len(members) > 1 else None
            if finding is not None and finding.severity == "error":
                yield replace(finding, where=f"split {parts[k].split}" if parts[k].split else ""), [k]


def _box_finding(verdict: BoxVerdict, evidence: Evidence, path: Path, where: str) -> Finding:
    read_as = evidence.convention
    severity: Severity = "error" if verdict.sure else "warning"
    if not verdict.looks:
        message, fix = f"{verdict.claim}: {verdict.evidence}", verdict.fix
    else:
        looks = " or ".join(map(str, verdict.looks))
        what = "polygons" if evidence.around else "boxes"
        message = f"the {what} look like {looks}, not like {read_as}: {verdict.evidence}"
        options = " or ".join(f"--convention {c.words(read_as)}" for c in verdict.looks)
        fix = f"Read them so with {options}, or correct the file"
    return Finding("box-convention", severity, str(path), where, message, fix)


def _labels(part: Dataset) -> Iterator[Finding]:
    """Images without a label file, and empty label files, where the format has one for each image."""
    unlabeled = [path for e in part.evidence for path in e.unlabeled]
    blank = [path for e in part.evidence for path in e.blank]
    orphans = sum(len(e.orphans) for e in part.evidence)
    total = len(unlabeled) + sum(e.labeled for e in part.evidence)
    of_split = f" of {part.split!r}" if part.split else ""
    if unlabeled:
        few = len(unlabeled) < max(_FEW_UNLABELED, _MANY_UNLABELED * total) and len(unlabeled) < total and not orphans
        none = len(unlabeled) == total
        count = f"none of the {total} images{of_split} has a" if none else f"{len(unlabeled)} of the {total} images"
        count += "" if none else f"{of_split} have no"
        message = f"{count} label file, and they count as images without objects (first: {unlabeled[0].name})"
        if orphans:
            message += f"; {orphans} label files have no image: are they named differently?"
        fix = "Add the label files; an empty one states that there is no object"
        yield Finding("labels-missing", "note" if few else "warning", str(unlabeled[0].parent), "", message, fix)
    if blank:
        message = f"{len(blank)} label files{of_split} are empty: their images have no objects (first: {blank[0].name})"
        yield Finding("labels-empty", "note", str(blank[0].parent), "", message)


def _turned(part: Dataset) -> Iterator[Finding]:
    """Images that are stored turned, where no stated size tells on which side up they were annotated."""
    turned = [path for e in part.evidence for path in e.turned]
    if turned:
        message = (
            f"{len(turned)} of {len(part)} images are stored turned (EXIF orientation), and the annotations state no "
        )
        message += f"size: their boxes are read on the upright image (first: {turned[0].name})"
        fix = "Look at one of them; if its boxes are wrong, remove the EXIF orientation from the images"
        yield Finding("image-turned", "note", str(turned[0].parent), "", message, fix)


def _unlisted(parts: Sequence[Dataset]) -> Iterator[Finding]:
    """Images that lie among those of the splits and are in none."""
    unlisted = sorted({path for part in parts for e in part.evidence for path in e.unlisted})
    if unlisted:
        message = f"{len(unlisted)} images are in no split and are not used (first: {unlisted[0]})"
        yield Finding("images-unlisted", "note", str(parts[0].path), "", message, "Name them in a split to use them")
