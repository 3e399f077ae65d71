"""Opens a path as a :class:`Dataset`, or as a training and a validation set."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import FovealError, UsageError, nearest
from ..files.aliases import PathLike
from .diagnosis.classes import alike, empty_classes, only_difficult
from .diagnosis.diagnose import diagnose_parts
from .diagnosis.verdict import Role, refusals
from .formats.source import Source
from .recognition.recognize import recognize
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
    convention: str | None = None,
) -> Dataset:
    """Reads a dataset, whose format is recognized by its content; several paths are joined.

    ``split=None`` is the whole dataset; ``valid`` and ``val`` are aliases. ``images`` is the folder of the images, if
    they are not with the annotations. ``classes`` selects and orders classes, see
    :func:`~.records.subsets.select_classes` for the others; ``absent="accept"`` allows unknown names.
    ``convention`` says what the numbers of the boxes mean where that is not what the format says: words such as
    ``"corners,fractions"``, see :meth:`~.records.convention.Convention.parse`.

    Invalid records are skipped and listed in ``Dataset.findings``. Of the images only the headers are read; with
    ``require_images=False`` not even these where a COCO or VOC file states the size (detections are evaluated without
    images). Raises :class:`~foveal.errors.FovealError` where the path holds no dataset, several datasets, or not this
    split, and :class:`~foveal.errors.UsageError` for an unknown class or convention.
    """
    sources = open_sources(path, images, convention)
    for source in sources:
        source.require_images = require_images
    dataset = diagnose_parts([SplitReader(sources).read(split)], counts=False)[0]
    if len(sources) > 1:
        dataset.splits = _common_splits(sources)
    return dataset if classes is None else select_classes(dataset, classes, others, absent)


def open_sources(
    path: PathLike | Sequence[PathLike], images: PathLike | None = None, convention: str | None = None
) -> list[Source]:
    """The datasets at the paths, recognized but not read."""
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise UsageError("no data is given", fix="Give a folder, a COCO .json or a data.yaml")
    sources = [recognize(Path(p), None if images is None else Path(images)) for p in paths]
    for source in sources if convention is not None else ():
        source.convention = convention
        if source.reading().first_class and source.format not in ("yolo", "coco"):
            message = f"{source.format.upper()} files have no class numbers that could start at 1"
            raise UsageError(message, path=source.path, where="--convention", fix="Leave out from-1")
    return sources


class SplitReader:
    """Reads the splits of some sources as one dataset, each split of each source once."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self.splits = _common_splits(self.sources)
        self._parts: dict[tuple[int, str | None], Dataset] = {}

    def read(self, split: str | None) -> Dataset:
        """A split, or all; its findings on the whole are still to be made (:func:`~.diagnosis.diagnose.diagnose`)."""
        return join([self._part(k, split) for k in range(len(self.sources))])

    def read_training(self) -> Dataset:
        """The training split of each source, where validation data is given."""
        return join([self._part(k, _train_split(source)) for k, source in enumerate(self.sources)])

    def read_validation(self) -> Dataset:
        """The validation split of each source that has one, the others whole."""
        return join([self._part(k, find_split("val", source.splits)) for k, source in enumerate(self.sources)])

    def _part(self, k: int, split: str | None) -> Dataset:
        if (k, split) not in self._parts:
            self._parts[k, split] = _read(self.sources[k], split)
        part = self._parts[k, split]
        return replace(part, findings=list(part.findings))


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
    convention: str | None = None,
) -> tuple[Dataset, Dataset, str]:
    """(training set, validation set, note or ""), with the same classes in the same order.

    ``split_map={"train": "trainval", "val": "test"}`` names the splits; the default is the first of train/val,
    trainval/test and train/test that exists. ``val`` is another dataset for validation; then train, or else trainval,
    is the training set, and :class:`~foveal.errors.FovealError` is raised where there are splits but neither of these.
    A dataset without splits is divided at random by ``seed`` (``fraction`` for validation), as the note states; store
    the ids of the validation records.
    """
    readers = [SplitReader(open_sources(path, images, convention))]
    if val is not None:
        readers.append(SplitReader(open_sources(val, images, convention)))
    train, valid, note = read_pair(*readers, split_map=split_map, seed=seed, fraction=fraction)
    train, valid = select_pair(train, valid, classes, others)
    report_shared(train, valid)
    return train, valid, note


def read_pair(
    data: SplitReader,
    val: SplitReader | None = None,
    *,
    split_map: Mapping[str, str] | None = None,
    seed: int = 0,
    fraction: float = 0.2,
) -> tuple[Dataset, Dataset, str]:
    """The two sets of :func:`split_pair` with their diagnosis, before classes are selected."""
    named = dict(split_map or {})
    unknown = set(named) - {"train", "val"}
    if unknown:
        raise UsageError(f"--split names {sorted(unknown)[0]!r}", fix="Write train=NAME,val=NAME")
    if val is not None:
        train = data.read(named["train"]) if "train" in named else data.read_training()
        valid = val.read(named["val"]) if "val" in named else val.read_validation()
    else:
        names = _pair_of(data.splits, named)
        if names is None:
            return _divided(data, named, seed, fraction)
        train, valid = (data.read(name) for name in names)
    train, valid = diagnose_parts([train, valid])
    return train, valid, ""


def _divided(data: SplitReader, named: dict[str, str], seed: int, fraction: float) -> tuple[Dataset, Dataset, str]:
    """A set without a validation split, divided at random."""
    splits = data.splits
    alone = named.get("train") or find_split("train", splits) or find_split("trainval", splits)
    whole = diagnose_parts([data.read(alone)])[0]
    train, valid = seeded_split(whole, fraction, seed)
    what = f"the split {alone!r} has no validation split" if alone else "no splits"
    note = f"{what}: divided with seed {seed} into {len(train)} training and {len(valid)} validation images"
    return train, valid, note


def select_pair(
    train: Dataset, valid: Dataset, classes: str | Sequence[str] | None = None, others: Others = "background"
) -> tuple[Dataset, Dataset]:
    """Both sets with the same classes, and findings on classes that are missing in one of them."""
    names = class_list(classes) if classes is not None else train.classes
    if classes is not None:
        known = replace(train, classes=tuple(dict.fromkeys((*train.classes, *valid.classes))))
        missing = [n for n in names if n not in known.classes]
        if missing and known.classes:
            raise UsageError(
                f"there is no class {missing[0]!r}", path=train.path, fix=nearest(missing[0], known.classes, "classes")
            )
        train = select_classes(train, names, others, "accept")
    train = replace(train, findings=[*train.findings, *empty_classes(train), *only_difficult(train)])
    # only training has ignored regions; validation evaluates the selected classes on the images that remain
    valid = _match_classes(valid, names, "skip-image" if others == "skip-image" else "background", classes is None)
    return train, valid


def check_trainable(dataset: Dataset, role: Role = "train") -> None:
    """Raises :class:`~foveal.errors.FovealError`, with the files at fault, for a dataset that cannot be trained on, or
    validated on: it has a finding of severity error, no image, or no box that counts."""
    errors = refusals(dataset, role)
    doctor = f"Run foveal doctor {dataset.path} for all findings"
    if errors and all(f.code in ("no-image", "no-box") for f in errors):
        raise FovealError(errors[0].message, path=errors[0].path, fix=doctor)
    if errors:
        shown = [f"{f.path}: {f.where + ': ' if f.where else ''}{f.message}" for f in errors[:5]]
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        fix = errors[0].fix if len(errors) == 1 and errors[0].fix else doctor
        raise FovealError("; ".join(shown) + more, fix=fix)


# ------------------------------------------------------------------------------------------------- inner
def _read(source: Source, split: str | None) -> Dataset:
    if split is None:
        return source.read(None)
    name = find_split(split, (*source.splits, *source.class_splits))
    if name is not None:
        return source.read(name)
    if split == "trainval":  # not a split of its own: train and val together
        both = [find_split(part, source.splits) for part in ("train", "val")]
        if None not in both:
            return replace(join([source.read(part) for part in both]), split="trainval", splits=source.splits)
    if not source.splits:
        broken = source.read(None)
        if any(f.severity == "error" for f in broken.findings):
            return broken  # its findings are more specific than "no such split"
        raise FovealError(
            f"there are no splits, so {split!r} does not exist", path=source.path, fix="Leave --split out"
        )
    raise FovealError(f"there is no split {split!r}", path=source.path, fix=nearest(split, source.splits, "splits"))


def _common_splits(sources: Sequence[Source]) -> tuple[str, ...]:
    """The splits that all of the datasets have, as the first names them."""
    return tuple(s for s in sources[0].splits if all(find_split(s, other.splits) for other in sources[1:]))


def _pair_of(splits: tuple[str, ...], named: dict[str, str]) -> tuple[str, str] | None:
    """The splits for training and validation, or ``None`` where the dataset has to be divided."""
    if "train" in named and "val" in named:
        return named["train"], named["val"]
    if not splits:
        if named:
            name = next(iter(named.values()))
            raise FovealError(f"there are no splits, so {name!r} does not exist", fix="Leave --split out")
        return None
    if "train" in named:
        other = next((s for name in ("val", "test") if (s := find_split(name, splits)) and s != named["train"]), None)
        return (named["train"], other) if other else None
    for train, valid in DEFAULT_SPLITS:
        first, second = find_split(train, splits), named.get("val") or find_split(valid, splits)
        if first and second:
            return first, second
    return None


def training_splits(splits: tuple[str, ...]) -> set[str]:
    """The splits that ``train`` reads where none is named; empty: everything."""
    pair = _pair_of(splits, {})
    alone = find_split("train", splits) or find_split("trainval", splits)
    return set(pair) if pair else {alone} if alone else set()


def _train_split(source: Source) -> str | None:
    """The training split where validation data is given: never a split for testing."""
    name = find_split("train", source.splits) or find_split("trainval", source.splits)
    if name is None and source.splits:
        raise FovealError(
            f"there is no split train or trainval, only {', '.join(source.splits)}",
            path=source.path,
            fix=f"Name the training split: --split train={source.splits[0]}",
        )
    return name


def _match_classes(dataset: Dataset, names: Sequence[str], others: Others, report: bool) -> Dataset:
    """The validation set with the classes of the training set; other classes with objects become findings."""
    if not names:  # training data without classes is an error anyway
        return dataset
    others_here = [n for n in dataset.classes if n not in names]
    matched = select_classes(dataset, names, others, "accept")
    if report and others_here:
        used = {dataset.classes[k] for r in dataset.records for k in r.labels.tolist()}
        similar = {name for group in alike((*names, *others_here)) for name in group}  # a finding of its own
        for name in others_here:
            if name in used and name not in similar:
                message = f"the class {name!r} is not a class of the training data; its objects are not evaluated"
                matched.findings.append(Finding("class-unknown", "warning", str(dataset.path), "", message))
    return matched


def report_shared(train: Dataset, valid: Dataset) -> None:
    """A finding for each image in both sets, which would make validation too optimistic."""
    if len(train) == len(valid) == 1 and train.path == valid.path:
        return
    paths_of: dict[str, list[Path]] = {}
    for record in train.records:
        paths_of.setdefault(record.path.name, []).append(record.path)
    findings = Findings(valid.findings)
    for record in valid.records:
        same = next((p for p in paths_of.get(record.path.name, ()) if _same_file(p, record.path)), None)
        if same is not None:
            message = f"in the training and in the validation data ({train.split or 'train'}, {valid.split or 'val'})"
            if same != record.path:
                message += f", in training as {same}"
            findings.add("warning", "image-in-two-splits", record.path, "", message, "Keep it in one of them")
    valid.findings = list(findings)


def _same_file(a: Path, b: Path) -> bool:
    """Whether two paths are the same file or have the same content; sizes are compared first, which is fast."""
    try:
        return a == b or a.samefile(b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False
