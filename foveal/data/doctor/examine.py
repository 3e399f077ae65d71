"""``foveal doctor``: examines a dataset before it is used for training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FovealError
from ...files.aliases import OnProgress, PathLike
from ..convert import split_parts
from ..diagnosis.verdict import refusals
from ..images.load import MOST_SKIPPED, ImageError, load_image
from ..images.ranges import is_dark
from ..open import SplitReader, open_sources, read_pair, report_shared, select_pair, training_splits
from ..records.dataset import Dataset, Record
from ..records.findings import SEVERITY_ORDER, Finding, Findings, Severity, count
from ..records.splits import find_split, meant_to_overlap
from .duplicates import Seen, report_copies, seen
from .report import ClassCount, Report, SplitCount

_OF_PAIRS = ("class-without-object", "only-difficult", "class-unknown")  # findings that compare train and val


def examine(
    path: PathLike | Sequence[PathLike],
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    decode: bool = True,
    progress: OnProgress | None = None,
    convention: str | None = None,
) -> Report:
    """The report of :func:`examine_parts` alone."""
    return examine_parts(path, images, classes, decode, progress, convention)[0]


def examine_parts(
    path: PathLike | Sequence[PathLike],
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    decode: bool = True,
    progress: OnProgress | None = None,
    convention: str | None = None,
) -> tuple[Report, dict[str, Dataset]]:
    """Reads every split with the readers of ``train``, decodes every image (``decode``) and compares the splits.

    Returns the report and the splits by name (``""``: the whole set, where there are none).

    The verdict on the splits that ``train`` would use is its own. Raises :class:`~foveal.errors.FovealError` only where
    the path has no dataset or several.
    """
    data = SplitReader(open_sources(path, images, convention))
    parts = split_parts(data, classes=classes)
    findings = Findings(dict.fromkeys(f for part in parts.values() for f in part.findings))
    records = {str(r.path): r for part in parts.values() for r in part.records}
    splits_of: dict[str, list[str]] = {}
    for name, part in parts.items():
        for record in part.records:
            splits_of.setdefault(str(record.path), []).append(name)
    used = training_splits(data.splits)
    unused = {name for name in parts if name and used and name not in used}
    findings = _of_unused(parts, unused, findings)
    _shared_images(splits_of, findings)
    if decode:
        damaged = _decode(records, splits_of, findings, progress)
        _report_damaged(parts, unused, damaged, findings)
    first = next(iter(parts.values()))
    whole = Dataset(first.classes, list(records.values()), list(findings), _root(path))
    findings += _verdict(data, classes, findings, decode)
    findings.sort(key=lambda f: (SEVERITY_ORDER[f.severity], f.code))
    boxes = [r.boxes for r in whole.records]
    report = Report(
        path=whole.path,
        format=first.format,
        classes=first.classes,
        splits=tuple(_count(name, part) for name, part in parts.items()),
        findings=tuple(findings),
        image_sizes=tuple((*size, n) for size, n in Counter((r.width, r.height) for r in whole.records).most_common()),
        box_sides=_sides(np.concatenate(boxes) if boxes else np.zeros((0, 4))),
        decoded=decode,
        images=len(records),
        objects=sum(map(len, boxes)),
        counts={str(k): v for k, v in count(findings).items()},
    )
    return report, parts


def for_training(parts: Mapping[str, Dataset]) -> Dataset:
    """The images that training would learn from, where a split says so by its name; else all."""
    names = tuple(parts)
    name = find_split("train", names) or find_split("trainval", names)
    if name is not None:
        return replace(parts[name], split=f"split {name}")
    first = next(iter(parts.values()))
    records = {str(r.path): r for part in parts.values() for r in part.records}
    return replace(first, records=list(records.values()), split="the whole set")


# ------------------------------------------------------------------------------------------------- inner
def _of_unused(parts: dict[str, Dataset], unused: set[str], findings: Findings) -> Findings:
    """The findings, with errors of ``unused`` splits alone as warnings: ``train`` would not refuse the set for them."""
    kept = Findings()
    for f in findings:
        of = [name for name, part in parts.items() if f in part.findings]
        if f.severity == "error" and of and unused.issuperset(of):
            f = replace(
                f, severity="warning", message=f"{f.message} (in the split {of[0]!r}, which train does not use)"
            )
        kept.append(f)
    return kept


def _verdict(data: SplitReader, classes: str | Sequence[str] | None, found: Findings, decoded: bool) -> list[Finding]:
    """What ``train`` says about the sets that it would train and validate on, beyond what was ``found`` in them."""
    try:
        train, valid = select_pair(*read_pair(data)[:2], classes)
        if not decoded:  # else equal pixels have been found, whatever their files are called
            report_shared(train, valid)
    except FovealError as error:
        message = f"train refuses it: {error.message}"
        return [Finding("no-training-split", "error", str(error.path or data.sources[0].path), "", message, error.fix)]
    said = [f for dataset in (train, valid) for f in dataset.findings if f.code in _OF_PAIRS]
    if not any(f.severity == "error" for f in found):
        said += refusals(train) or refusals(valid, "val")
    shared = {f.path for f in found if f.code == "image-in-two-splits"}
    said += [f for f in valid.findings if f.code == "image-in-two-splits" and f.path not in shared]
    return [f for f in dict.fromkeys(said) if f not in found]


def _root(path: PathLike | Sequence[PathLike]) -> Path:
    return Path(path) if isinstance(path, str | os.PathLike) else Path(next(iter(path)))


def _shared_images(splits_of: dict[str, list[str]], findings: Findings) -> None:
    """A finding for each file in two splits that should be disjoint."""
    for path, names in splits_of.items():
        apart = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a != b and not meant_to_overlap(a, b)]
        if apart:
            message = f"in the splits {apart[0][0]!r} and {apart[0][1]!r}"
            findings.add("warning", "image-in-two-splits", path, "", message, "Keep it in one of them", [path])


def _decode(
    records: dict[str, Record], splits_of: dict[str, list[str]], findings: Findings, progress: OnProgress | None
) -> set[str]:
    """Decodes every image and compares the pictures. Returns the images that cannot be decoded."""

    def look(path: str) -> Seen | ImageError:
        try:
            pixels = load_image(path)
        except ImageError as error:
            return error
        if is_dark(pixels):
            dark.append(path)
        return seen(pixels)

    same: dict[str, Seen] = {}
    damaged: set[str] = set()
    dark: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for n, (path, result) in enumerate(zip(records, pool.map(look, records), strict=True), 1):
            if isinstance(result, ImageError):
                damaged.add(path)
                findings.add("warning", "image-unreadable", path, "", f"{result.message}; skipped", result.fix)
            else:
                same[path] = result
            if progress is not None:
                progress(n, len(records))
    if dark and not any(f.code == "image-dark" for f in findings):
        message = f"{len(dark)} of {len(records)} images are nearly black (are they masks, or of another range?)"
        findings.add("note", "image-dark", min(dark), "", message, "Look at them", sorted(dark)[:8])
    report_copies(same, splits_of, findings)
    return damaged


def _report_damaged(parts: dict[str, Dataset], unused: set[str], damaged: set[str], findings: Findings) -> None:
    """An error for each split with more damaged images than training skips; of an ``unused`` one a warning."""
    for name, part in parts.items():
        bad = [r.path for r in part.records if str(r.path) in damaged]
        if len(bad) > MOST_SKIPPED * len(part):
            what = f"the {len(part)} images of {name!r}" if name else f"the {len(part)} images"
            message = f"{len(bad)} of {what} cannot be decoded, more than {MOST_SKIPPED:.0%}: {bad[0]}"
            severity: Severity = "warning" if name in unused else "error"
            findings.add(severity, "images-unreadable", part.path, "", message, "Replace or remove them")


def _count(name: str, part: Dataset) -> SplitCount:
    n = len(part.classes)
    labels = [r.labels for r in part.records]
    flat = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    difficult = np.concatenate([r.difficult for r in part.records]) if labels else np.zeros(0, np.bool_)
    crowd = np.concatenate([r.crowd for r in part.records]) if labels else np.zeros(0, np.bool_)
    area = np.concatenate([r.area for r in part.records]) if labels else np.zeros(0)
    objects, hard, crowds = (np.bincount(flat[m], minlength=n) for m in (slice(None), difficult, crowd))
    images = np.bincount(np.concatenate([np.unique(k) for k in labels]) if labels else flat, minlength=n)
    rows = zip(part.classes, images.tolist(), objects.tolist(), hard.tolist(), crowds.tolist(), strict=True)
    small, medium = int((area < 32**2).sum()), int(((area >= 32**2) & (area < 96**2)).sum())
    return SplitCount(
        name=name,
        images=len(part),
        empty=sum(len(r) == 0 for r in part.records),
        objects=len(flat),
        difficult=int(difficult.sum()),
        crowd=int(crowd.sum()),
        classes=tuple(ClassCount(*row) for row in rows),
        sizes=(small, medium, len(flat) - small - medium),
    )


def _sides(boxes: np.ndarray[Any, Any]) -> tuple[int, ...]:
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    edges = [0.0, *(4.0 * 2**k for k in range(9)), np.inf]  # 0, 4, 8, ..., 1024, more
    return tuple(np.histogram(side, edges)[0].tolist())
