"""The way in: a path becomes a :class:`Dataset`, or a training and a validation set."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import FovealError, UsageError, nearest
from ..files.paths import PathLike
from .formats.sniff import recognize
from .formats.source import Source
from .records.dataset import Dataset
from .records.findings import Finding, Findings
from .records.splits import find_split
from .records.subsets import Others, class_list, join, seeded_split, select_classes

DEFAULT_SPLITS = (("train", "val"), ("trainval", "test"), ("train", "test"))  # the first that exists is used


def open_dataset(
    path: PathLike | Sequence[PathLike],
    *,
    split: str | None = None,
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    others: Others = "background",
    absent: Literal["refuse", "accept"] = "refuse",
    require_images: bool = True,
) -> Dataset:
    """Reads a data set, recognized by what it holds; several paths are joined.

    ``split=None`` means the whole set; ``valid`` and ``val`` mean the same. ``images`` is where the images lie, if not
    with the annotations. ``classes`` chooses and orders classes (:func:`~.subsets.select_classes` says what happens to
    the others; ``absent="accept"`` allows names that the set does not have).

    Invalid records are skipped and listed in ``Dataset.findings``. Of the images only the headers are read; with
    ``require_images=False`` not even these where a COCO or VOC file states the size (detections are evaluated without
    images). Raises :class:`~foveal.errors.FovealError` where the path holds no dataset, several datasets, or not this
    split, and :class:`~foveal.errors.UsageError` for an unknown class.
    """
    sources = open_sources(path, images)
    for source in sources:
        source.require_images = require_images
    dataset = join([_read(source, split) for source in sources])
    if len(sources) > 1:
        dataset.splits = _common_splits(sources)
    return dataset if classes is None else select_classes(dataset, classes, others, absent)


def open_sources(path: PathLike | Sequence[PathLike], images: PathLike | None = None) -> list[Source]:
    """What the paths hold, recognized but not read."""
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise UsageError("no data is given", fix="Name a folder, a COCO .json or a data.yaml")
    return [recognize(Path(p), None if images is None else Path(images)) for p in paths]


def split_pair(
    path: PathLike | Sequence[PathLike],
    *,
    val: PathLike | Sequence[PathLike] | None = None,
    split_map: Mapping[str, str] | None = None,
    seed: int = 0,
    fraction: float = 0.2,
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    others: Others = "background",
) -> tuple[Dataset, Dataset, str]:
    """(training set, validation set, what was done or ""): both have the same classes in the same order.

    ``split_map={"train": "trainval", "val": "test"}`` names the splits; else the first of train/val, trainval/test and
    train/test that exists. ``val`` is another data set to validate on; then train, or else trainval, is trained on, and
    :class:`~foveal.errors.FovealError` is raised where there are splits but neither of these. Without splits the set is
    divided by ``seed`` (``fraction`` for validation), and the note says so; store the ids of the validation records.
    """
    wanted = dict(split_map or {})
    unknown = set(wanted) - {"train", "val"}
    if unknown:
        raise UsageError(f"--split names {sorted(unknown)[0]!r}", fix="Write train=NAME,val=NAME")
    sources = open_sources(path, images)
    splits = _common_splits(sources)
    note = ""
    if val is not None:
        train = join([_read(source, wanted.get("train") or _train_split(source)) for source in sources])
        valid = join([_read(s, wanted.get("val") or find_split("val", s.splits)) for s in open_sources(val, images)])
    else:
        names = _pair_of(splits, wanted, path)
        if names is None:
            alone = wanted.get("train") or find_split("train", splits) or find_split("trainval", splits)
            whole = join([_read(source, alone) for source in sources])
            train, valid = seeded_split(whole, fraction, seed)
            what = f"the split {alone!r} has no companion" if alone else "no splits"
            note = f"{what}: divided with seed {seed} into {len(train)} images to train and {len(valid)} to validate"
        else:
            train, valid = (join([_read(source, name) for source in sources]) for name in names)
    names_ = class_list(classes) if classes is not None else train.classes
    if classes is not None:
        known = replace(train, classes=tuple(dict.fromkeys((*train.classes, *valid.classes))))
        missing = [n for n in names_ if n not in known.classes]
        if missing and known.classes:
            raise UsageError(
                f"there is no class {missing[0]!r}", path=train.path, fix=nearest(missing[0], known.classes, "classes")
            )
        train = select_classes(train, names_, others, "accept")
    # Ignored regions are a matter of training; validation counts what was asked for, on the images that are left.
    valid = _match_classes(valid, names_, "skip-image" if others == "skip-image" else "background", classes is None)
    _report_shared(train, valid)
    return train, valid, note


def check_trainable(dataset: Dataset) -> None:
    """Raises :class:`~foveal.errors.FovealError`, naming the culprits, for a set that must not be trained on: a finding
    is an error, there is no image, or there is not one box."""
    errors = list(dict.fromkeys(f for f in dataset.findings if f.severity == "error"))
    doctor = f"foveal doctor {dataset.path} lists everything"
    if errors:
        shown = [f"{f.path}: {f.where + ': ' if f.where else ''}{f.message}" for f in errors[:5]]
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        fix = errors[0].fix if len(errors) == 1 and errors[0].fix else doctor
        raise FovealError("; ".join(shown) + more, fix=fix)
    warned = [f for f in dataset.findings if f.severity == "warning"]
    first = f" (first of {len(warned)} findings: {warned[0].path}: {warned[0].message})" if warned else ""
    name = f"the split {dataset.split!r}" if dataset.split else "the data set"
    if not dataset.records:
        raise FovealError(f"{name} has no image that can be used{first}", path=dataset.path, fix=doctor)
    if not any((~r.ignore).any() for r in dataset.records):
        what = f" of the classes {', '.join(dataset.classes[:20])}" if dataset.classes else ""
        message = f"{name} has not one box{what} in {len(dataset)} images{first}"
        raise FovealError(message, path=dataset.path, fix=doctor)


# ------------------------------------------------------------------------------------------------- inner
def _read(source: Source, split: str | None) -> Dataset:
    if split is None:
        return source.read(None)
    name = find_split(split, (*source.splits, *source.class_splits))
    if name is not None:
        return source.read(name)
    if split == "trainval":  # not listed as such: train and val together
        both = [find_split(part, source.splits) for part in ("train", "val")]
        if None not in both:
            return replace(join([source.read(part) for part in both]), split="trainval", splits=source.splits)
    if not source.splits:
        broken = source.read(None)
        if any(f.severity == "error" for f in broken.findings):
            return broken  # its findings say more than "no such split"
        raise FovealError(
            f"there are no splits, so none is called {split!r}", path=source.path, fix="Leave --split out"
        )
    raise FovealError(f"there is no split {split!r}", path=source.path, fix=nearest(split, source.splits, "splits"))


def _common_splits(sources: Sequence[Source]) -> tuple[str, ...]:
    """Splits that every one of the data sets has, as the first calls them."""
    return tuple(s for s in sources[0].splits if all(find_split(s, other.splits) for other in sources[1:]))


def _pair_of(splits: tuple[str, ...], wanted: dict[str, str], path: object) -> tuple[str, str] | None:
    """The splits to train and validate on, or ``None`` where the set has to be divided."""
    if "train" in wanted and "val" in wanted:
        return wanted["train"], wanted["val"]
    if not splits:
        if wanted:
            name = next(iter(wanted.values()))
            raise FovealError(f"there are no splits, so none is called {name!r}", fix="Leave --split out")
        return None
    if "train" in wanted:
        other = next((s for name in ("val", "test") if (s := find_split(name, splits)) and s != wanted["train"]), None)
        return (wanted["train"], other) if other else None
    for train, valid in DEFAULT_SPLITS:
        first, second = find_split(train, splits), wanted.get("val") or find_split(valid, splits)
        if first and second:
            return first, second
    return None


def _train_split(source: Source) -> str | None:
    """What to train on where validation data is given: never the splits that are kept for testing."""
    found = find_split("train", source.splits) or find_split("trainval", source.splits)
    if found is None and source.splits:
        raise FovealError(
            f"there is no split train or trainval, only {', '.join(source.splits)}",
            path=source.path,
            fix=f"Name the one to train on: --split train={source.splits[0]}",
        )
    return found


def _match_classes(dataset: Dataset, names: Sequence[str], others: Others, report: bool) -> Dataset:
    """Validation data with the classes of training; a class that training does not know is a finding."""
    if not names:  # training data without classes is refused anyway
        return dataset
    strange = [n for n in dataset.classes if n not in names]
    matched = select_classes(dataset, names, others, "accept")
    if report and strange:
        used = {dataset.classes[k] for r in dataset.records for k in r.labels.tolist()}
        for name in strange:
            if name in used:
                message = f"the class {name!r} is not among those of the training data; its objects are not scored"
                matched.findings.append(Finding("class-unknown", "warning", str(dataset.path), "", message))
    return matched


def _report_shared(train: Dataset, valid: Dataset) -> None:
    """Images on both sides: validation would be flattered."""
    if len(train) == len(valid) == 1 and train.path == valid.path:
        return
    own: dict[str, list[Path]] = {}
    for record in train.records:
        own.setdefault(record.path.name, []).append(record.path)
    findings = Findings(valid.findings)
    for record in valid.records:
        same = next((p for p in own.get(record.path.name, ()) if _same_file(p, record.path)), None)
        if same is not None:
            message = f"in the training and in the validation data ({train.split or 'train'}, {valid.split or 'val'})"
            if same != record.path:
                message += f", there as {same}"
            findings.add("warning", "image-in-two-splits", record.path, "", message, "Keep it in one of them")
    valid.findings = list(findings)


def _same_file(a: Path, b: Path) -> bool:
    """One file, or two of the same content; sizes are compared first, so this costs next to nothing."""
    try:
        return a == b or a.samefile(b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False
