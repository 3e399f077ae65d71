"""Selects classes of a dataset, joins several datasets, and splits one in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, nearest
from .dataset import Dataset, Record
from .dropped import renumbered
from .findings import Finding, Findings
from .splits import meant_to_overlap

Others = Literal["background", "ignore", "skip-image"]
OTHERS: tuple[Others, ...] = ("background", "ignore", "skip-image")


def class_list(classes: str | Sequence[str]) -> tuple[str, ...]:
    """``"cat, dog"`` or a sequence -> names. Raises :class:`UsageError` for an empty list or a repeated name."""
    names = [n.strip() for n in classes.split(",")] if isinstance(classes, str) else [str(n) for n in classes]
    names = [n for n in names if n]
    if not names:
        raise UsageError("the list of classes is empty", fix="Name at least one class")
    if len(set(names)) < len(names):
        twice = next(n for n, k in Counter(names).items() if k > 1)
        raise UsageError(f"the class {twice!r} is named twice", fix="Name every class once")
    return tuple(names)


def select_classes(
    dataset: Dataset,
    classes: str | Sequence[str],
    others: Others = "background",
    absent: Literal["refuse", "accept"] = "refuse",
) -> Dataset:
    """The same images with these classes in this order.

    Objects of other classes are background (dropped) or ignored regions (``ignore`` is set and the label is 0), or
    their images are skipped; one finding states their number. A class that the dataset does not have raises
    :class:`UsageError`, or is accepted without objects (a validation set may lack one).
    """
    names = class_list(classes)
    if others not in OTHERS:
        raise UsageError(f"others={others!r} is unknown", fix=nearest(str(others), OTHERS, "values"))
    missing = [n for n in names if n not in dataset.classes]
    if absent == "refuse" and missing and dataset.classes:
        raise UsageError(
            f"there is no class {missing[0]!r}", path=dataset.path, fix=nearest(missing[0], dataset.classes, "classes")
        )
    if names == dataset.classes:
        return dataset
    new_label = np.array([names.index(n) if n in names else -1 for n in dataset.classes] or [-1], np.int64)
    records, skipped = [], 0
    dropped: Counter[str] = Counter()
    for record in dataset.records:
        labels = new_label[record.labels]
        other = labels < 0
        record = replace(record, dropped=renumbered(record.dropped, new_label))
        dropped.update(dataset.classes[k] for k in record.labels[other].tolist())
        if others == "skip-image" and other.any():
            skipped += 1
        elif others == "ignore":
            records.append(replace(record, labels=np.maximum(labels, 0), ignore=record.ignore | other))
        else:
            records.append(take(record, ~other, labels))
    findings = list(dataset.findings)
    if dropped:
        listed = ", ".join(f"{name} {n}" for name, n in sorted(dropped.items(), key=lambda p: (-p[1], p[0])))
        what = {
            "background": "they are background",
            "ignore": "their regions are ignored in training",
            "skip-image": f"the {skipped} images with them are skipped",
        }[others]
        message = f"{sum(dropped.values())} objects of other classes ({listed}): {what}"
        findings.append(Finding("classes-other", "note", str(dataset.path), "", message))
    ids = dataset.category_ids
    if ids is not None:
        spare = iter(k for k in range(1, len(names) + len(ids) + max(ids, default=0) + 2) if k not in ids)
        ids = tuple(ids[dataset.classes.index(n)] if n in dataset.classes else next(spare) for n in names)
    return replace(dataset, classes=names, records=records, findings=findings, category_ids=ids)


def take(record: Record, keep: NDArray[np.bool_], labels: NDArray[np.int64] | None = None) -> Record:
    """The record with the objects of the mask ``keep`` (G,), with new ``labels`` if given."""
    fields: dict[str, Any] = {
        name: getattr(record, name)[keep] for name in ("boxes", "crowd", "difficult", "ignore", "area")
    }
    masks = None
    if record.masks is not None:
        masks = [mask for mask, kept in zip(record.masks, keep.tolist(), strict=True) if kept]
    fields["stated"] = None if record.stated is None else record.stated[keep]
    return replace(record, labels=(record.labels if labels is None else labels)[keep], masks=masks, **fields)


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Several datasets as one (VOC 07+12). Classes are merged by name; ids that collide get the split's name in front.

    A file in two of them is used once, with a finding. Class order: the first dataset's, then what the others add;
    sorted if all the lists are sorted (names from annotations and not from a list).
    """
    if len(datasets) == 1:
        return datasets[0]
    names = list(dict.fromkeys(name for d in datasets for name in d.classes))
    if all(list(d.classes) == sorted(d.classes) and d.category_ids is None for d in datasets):
        names.sort()
    findings = Findings(dict.fromkeys(f for d in datasets for f in d.findings))
    used_ids: set[int | str] = set()
    by_path: dict[str, str] = {}
    records: list[Record] = []
    for k, dataset in enumerate(datasets):
        new_label = np.array([names.index(n) for n in dataset.classes] or [0], np.int64)
        tag = dataset.split or (dataset.path.parent if dataset.path.suffix else dataset.path).name or str(k)
        if k and any(d.split == dataset.split and d.path.name == dataset.path.name for d in datasets[:k]):
            tag = f"{tag}{k + 1}"
        for record in dataset.records:
            key = str(record.path)
            if key in by_path:
                if not meant_to_overlap(by_path[key], tag):
                    message = f"in {by_path[key]} and in {tag}; used once"
                    findings.add("warning", "image-in-two-splits", record.path, "", message, "Keep it in one")
                continue
            by_path[key] = tag
            id = record.id if record.id not in used_ids else f"{tag}/{record.id}"
            while id in used_ids:
                id = f"{id}+"
            used_ids.add(id)
            kept = renumbered(record.dropped, new_label)
            records.append(replace(record, id=id, labels=new_label[record.labels], dropped=kept))
    first = datasets[0]
    formats = {d.format for d in datasets}
    return Dataset(
        tuple(names),
        records,
        list(findings),
        first.path,
        "+".join(sorted(formats)),
        first.split,
        _joined_ids(datasets, names),
        evidence=[evidence for d in datasets for evidence in d.evidence],
    )


def _joined_ids(datasets: Sequence[Dataset], names: list[str]) -> tuple[int, ...] | None:
    """COCO's category ids of the joined classes, if every dataset has them; a collision gets the next free number."""
    ids: dict[str, int] = {}
    for dataset in datasets:
        if dataset.category_ids is None:
            return None
        for name, id in zip(dataset.classes, dataset.category_ids, strict=True):
            if name not in ids:
                ids[name] = id if id not in ids.values() else max(ids.values()) + 1
    return tuple(ids[name] for name in names)


def seeded_split(dataset: Dataset, fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """(train, val): a random fraction of the images in ``val``, which depends on their ids and the seed alone.

    Each part has at least one image if there are two; a single image is in both. Where no image of ``val`` would have
    an object that counts and several others have, one of those takes the place of one in ``val``. An image with the
    only objects of a class is for training: another takes its place.
    """
    order = sorted(range(len(dataset)), key=lambda i: str(dataset.records[i].id))
    count = len(order)
    size = min(max(round(count * fraction), 1), count - 1) if count > 1 else count
    chosen = {order[i] for i in np.random.default_rng(seed).permutation(count)[:size].tolist()}
    scored = {i for i, r in enumerate(dataset.records) if not (r.crowd | r.difficult | r.ignore).all()}
    if chosen and not chosen & scored and len(scored) > 1:
        chosen = chosen - {max(chosen)} | {next(i for i in order if i in scored)}
    if count > 1:
        _exchange_rare(dataset.records, order, chosen)
    val = [r for i, r in enumerate(dataset.records) if i in chosen]
    train = [r for i, r in enumerate(dataset.records) if i not in chosen or count == 1]
    return replace(dataset, records=train, split="train"), replace(dataset, records=val, split="val")


def _exchange_rare(records: Sequence[Record], order: Sequence[int], chosen: set[int]) -> None:
    """Changes ``chosen``, the validation part, so that the rest has an object of every class that has one."""
    objects = [Counter(r.labels[~(r.crowd | r.difficult | r.ignore)].tolist()) for r in records]
    learned: Counter[int] = Counter()
    for i in (i for i in order if i not in chosen):
        learned.update(objects[i])
    for i in [i for i in order if i in chosen]:
        if all(learned[k] for k in objects[i]):
            continue
        spare = (j for j in order if j not in chosen and all(learned[k] > n for k, n in objects[j].items()))
        j = max(spare, key=lambda j: bool(objects[j]), default=None)  # the first of those with objects
        if j is None:
            continue
        chosen.symmetric_difference_update((i, j))
        learned = learned + objects[i] - objects[j]


def merged(dataset: Dataset) -> Dataset:
    """The same objects, all of the class ``object``."""
    label = np.zeros(max(1, len(dataset.classes)), np.int64)
    records = [
        replace(r, labels=np.zeros_like(r.labels), dropped=renumbered(r.dropped, label)) for r in dataset.records
    ]
    return replace(dataset, classes=("object",), records=records, category_ids=None)
