"""What may be compared: evaluations of the same images, objects and classes, brought into one order, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import FovealError, UsageError, nearest
from ...evaluation.diagnosis import LOWEST_SCORE
from ...evaluation.tables import DetectionTable, GroundTruth
from ...files.text import one_line
from ..evaluation_file import RunEvaluation
from ..read_run import RunRecord

NAMED = 3  # images in a message


@dataclass(frozen=True, eq=False)
class NamedEvaluation:
    """The evaluation of a run, with what to call the run in a message."""

    path: Path
    evaluation: RunEvaluation


def check_versions(records: Sequence[RunRecord], accepted: Sequence[str]) -> list[str]:
    """Sentences on versions that differ. Raises :class:`FovealError` for runs of different versions of foveal, unless
    ``version`` is ``accepted``."""
    notes = []
    for name in ("foveal", "torch", "torchvision"):
        found = [str(r.run.get("environment", {}).get("versions", {}).get(name, "unknown")) for r in records]
        other = next((k for k, version in enumerate(found) if version != found[0]), None)
        if other is None:
            continue
        if name == "foveal" and "version" not in accepted:
            raise FovealError(
                f"was trained with foveal {found[other]}, and {records[0].path} with {found[0]}",
                path=records[other].path,
                fix="Train both with one version, or compare them all the same with --accept version",
            )
        notes.append(f"The runs were trained with different versions of {name}: {', '.join(dict.fromkeys(found))}.")
    return notes


def common_protocol(records: Sequence[RunRecord], asked: str | None) -> str:
    """The protocol to score by. Raises :class:`FovealError` where the results of the runs are of different ones."""
    if asked is not None:
        return asked
    found = [str(r.results.get("protocol", "coco")) for r in records]
    for record, protocol in zip(records, found, strict=True):
        if protocol != found[0]:
            raise FovealError(
                f"was scored by the protocol {protocol}, and {records[0].path} by {found[0]}",
                path=record.path,
                fix="Name one for all with --protocol coco",
            )
    return found[0]


def comparable(
    given: Sequence[NamedEvaluation], classes: Sequence[str] | None = None, min_score: float | None = None
) -> list[RunEvaluation]:
    """The evaluations with the images, objects and classes of the first in its order.

    ``classes``: only these; ``min_score``: without the detections below. Raises :class:`FovealError` that names the
    two runs where images, objects, classes or the cut of scores differ.
    """
    first = given[0]
    if classes is None:
        for other in given[1:]:
            _same_classes(first, other)
    chosen = tuple(classes) if classes is not None else first.evaluation.truth.classes
    out = [_of_classes(one, chosen) for one in given]
    same = [out[0]]
    for one, evaluation in zip(given[1:], out[1:], strict=True):
        same.append(_in_order(first.path, out[0], one.path, evaluation))
    if min_score is not None:
        return [replace(e, table=_cut(e.table, min_score)) for e in same]
    _same_cut(given)
    return same


def _same_classes(a: NamedEvaluation, b: NamedEvaluation) -> None:
    mine, other = a.evaluation.truth.classes, b.evaluation.truth.classes
    if set(mine) == set(other):
        return
    both = [c for c in mine if c in other]
    fix = (
        f"Compare them on those that both know: --classes {','.join(both)}"
        if both
        else "Compare runs that share a class"
    )
    raise FovealError(f"knows the classes {_listed(other)}, and {a.path} {_listed(mine)}", path=b.path, fix=fix)


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(one_line(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _of_classes(one: NamedEvaluation, classes: tuple[str, ...]) -> RunEvaluation:
    """With these classes in this order."""
    evaluation = one.evaluation
    truth, table = evaluation.truth, evaluation.table
    if truth.classes == classes:
        return evaluation
    missing = [c for c in classes if c not in truth.classes]
    if missing:
        raise UsageError(
            f"does not know the class {missing[0]!r}", path=one.path, fix=nearest(missing[0], truth.classes, "classes")
        )
    label = np.array([classes.index(c) if c in classes else -1 for c in truth.classes] or [-1], np.int64)
    objects, rows = label[truth.label] >= 0, label[table.label] >= 0
    kept = replace(truth[objects], classes=classes, label=label[truth.label[objects]], category_ids=None)
    detections = table[rows]
    verdicts = None if evaluation.verdicts is None else evaluation.verdicts[objects]
    return replace(evaluation, truth=kept, table=replace(detections, label=label[detections.label]), verdicts=verdicts)


def _in_order(a_path: Path, a: RunEvaluation, b_path: Path, b: RunEvaluation) -> RunEvaluation:
    """The second with the images in the order of the first."""
    mine, other = _keys(a), _keys(b)
    if mine != other:
        if len(set(other)) < len(other) or len(set(mine)) < len(mine) or set(mine) != set(other):
            _refuse_images(a_path, a, b_path, b, mine, other)
        b = _reordered(b, np.array([mine.index(key) for key in other], np.int64))
    left, right = a.truth, b.truth
    names = ("image", "label", "box", "crowd", "difficult", "ignore")
    if len(left) == len(right) and all(np.array_equal(getattr(left, n), getattr(right, n)) for n in names):
        return replace(b, truth=left)
    _refuse_objects(a_path, left, b_path, right)
    raise AssertionError


def _keys(evaluation: RunEvaluation) -> list[str]:
    """What identifies each image: its content, else its id."""
    pairs = zip(evaluation.hashes, evaluation.truth.images, strict=True)
    return [key or f"id {image}" for key, image in pairs]


def _reordered(b: RunEvaluation, place: np.ndarray[tuple[int], np.dtype[np.int64]]) -> RunEvaluation:
    """``place`` (I,): the new index of each image."""
    back = np.argsort(place)
    truth, table = b.truth, b.table
    order = np.argsort(place[truth.image], kind="stable")
    moved = truth[order]
    renamed: GroundTruth = replace(
        moved,
        images=tuple(truth.images[i] for i in back),
        image=place[moved.image],
        sizes=None if truth.sizes is None else truth.sizes[back],
        files=None if truth.files is None else tuple(truth.files[i] for i in back),
    )
    rows = np.argsort(place[table.image], kind="stable")
    detections = table[rows]
    return replace(
        b,
        truth=renamed,
        table=replace(detections, image=place[detections.image]),
        hashes=tuple(b.hashes[i] for i in back),
        verdicts=None if b.verdicts is None else b.verdicts[order],
    )


def _refuse_images(
    a_path: Path, a: RunEvaluation, b_path: Path, b: RunEvaluation, mine: list[str], other: list[str]
) -> None:
    alone = [str(image) for image, key in zip(b.truth.images, other, strict=True) if key not in set(mine)]
    lost = [str(image) for image, key in zip(a.truth.images, mine, strict=True) if key not in set(other)]
    splits = f" (split {b.split}, there {a.split})" if a.split != b.split else ""
    parts = []
    if alone:
        parts.append(f"{len(alone)} of its {len(other)} images are not among those of {a_path} ({_some(alone)})")
    if lost:
        parts.append(f"{len(lost)} of the {len(mine)} of {a_path} are not among its own ({_some(lost)})")
    message = " and ".join(parts) or f"images of the same content stand in another order than in {a_path}"
    raise FovealError(
        f"was scored on other images{splits}: {message}",
        path=b_path,
        fix="Score all runs on one dataset that trained none of them: --data DATA --split SPLIT",
    )


def _some(names: list[str]) -> str:
    return ", ".join(one_line(n) for n in names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _refuse_objects(a_path: Path, a: GroundTruth, b_path: Path, b: GroundTruth) -> None:
    count_a, count_b = (np.bincount(t.image, minlength=len(a.images)) for t in (a, b))
    other = np.flatnonzero(count_a != count_b)
    if len(other):
        i = int(other[0])
        what = f"{a.images[i]} has {count_b[i]} objects, there {count_a[i]}"
    else:
        what = "boxes, classes or flags of some differ"
    raise FovealError(
        f"was scored on the same images with other objects than {a_path}: {what}",
        path=b_path,
        fix="Give one dataset for all with --data, or score anew with --fresh",
    )


def _same_cut(given: Sequence[NamedEvaluation]) -> None:
    cuts = [one.evaluation.threshold for one in given]
    high, low = int(np.argmax(cuts)), int(np.argmin(cuts))
    if cuts[high] > max(LOWEST_SCORE, cuts[low]):
        raise FovealError(
            f"drops detections below a score of {cuts[high]:g}, and {given[low].path} below {cuts[low]:g}",
            path=given[high].path,
            fix=f"Cut all alike with --min-score {cuts[high]:g}",
        )


def _cut(table: DetectionTable, score: float) -> DetectionTable:
    return replace(table[table.score >= score], min_score=max(score, table.min_score or 0.0))
