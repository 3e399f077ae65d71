"""Converts datasets from every format that is read to those that are written, and writes seeded splits.

Everything is written into a new folder, images included; the source is only read. All formats but CreateML preserve
crowd and difficult: VOC in a ``<crowd>`` tag, COCO in a ``difficult`` key, YOLO in a ``flags.json`` beside
``data.yaml``, CSV in columns, LabelMe in the flags of a shape, CVAT in attributes. What a format cannot store is told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..errors import FovealError, UsageError, nearest
from ..files.aliases import PathLike
from ..files.atomic import atomic_folder
from .diagnosis.diagnose import MISREAD, diagnose_parts
from .open import SplitReader, open_sources
from .records.dataset import Dataset
from .records.findings import Finding
from .records.subsets import Others, join, seeded_split, select_classes
from .writing.plan import ExportPlan
from .writing.writers import WRITERS

Format = Literal["voc", "coco", "yolo", "csv", "labelme", "createml", "cvat"]


@dataclass(frozen=True)
class Conversion:
    """The result of :func:`convert` and :func:`split`."""

    path: Path
    format: Format
    images: int
    objects: int
    splits: tuple[str, ...]
    findings: list[Finding] = field(default_factory=list)  # of reading, and of what the new format cannot store


def read_splits(
    path: PathLike | Sequence[PathLike],
    *,
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    others: Others = "background",
    convention: str | None = None,
) -> dict[str, Dataset]:
    """Split -> dataset, all with the same classes; ``{"": whole dataset}`` where there are no splits."""
    return split_parts(SplitReader(open_sources(path, images, convention)), classes=classes, others=others)


def split_parts(
    data: SplitReader, *, classes: str | Sequence[str] | None = None, others: Others = "background"
) -> dict[str, Dataset]:
    """:func:`read_splits` of sources that are open."""
    names = data.splits if len(data.sources) == 1 else ()
    read = diagnose_parts([data.read(name) for name in names or (None,)])
    parts = dict(zip(names or ("",), read, strict=True))
    # the union of the classes and category ids: a COCO file of one split may lack some
    whole = join(list(parts.values()))
    known = Dataset(whole.classes, [], path=whole.path, category_ids=whole.category_ids)
    union = known if classes is None else select_classes(known, classes, others)
    if not union.classes:
        return parts
    chosen = {name: select_classes(part, union.classes, others, "accept") for name, part in parts.items()}
    return {name: replace(part, category_ids=union.category_ids) for name, part in chosen.items()}


def convert(
    data: PathLike | Sequence[PathLike] | Dataset | Mapping[str, Dataset],
    out: PathLike,
    format: Format,
    *,
    images: PathLike | None = None,
    classes: str | Sequence[str] | None = None,
    others: Others = "background",
    convention: str | None = None,
    link: bool = False,
) -> Conversion:
    """Writes data (paths, a dataset, or one for every split) in another format into a new folder.

    ``link`` makes symbolic links to the images instead of copies. Raises :class:`~foveal.errors.FovealError` if ``out``
    is not empty or is inside the source, if there is no image to write, or if the boxes or class numbers mean something
    else than the format says (see ``convention`` of :func:`~.open.open_dataset`).
    """
    if format not in WRITERS:
        raise UsageError(f"the format {format!r} is unknown", fix=nearest(str(format), WRITERS, "formats"))
    if others == "ignore":
        raise UsageError("ignored regions cannot be written", fix="Use others=background or others=skip-image")
    if isinstance(data, Dataset):
        parts: dict[str, Dataset] = {data.split or "": data}
    elif isinstance(data, Mapping):
        parts = dict(data)
    else:
        parts = read_splits(data, images=images, classes=classes, others=others, convention=convention)
    if classes is not None and isinstance(data, Dataset | Mapping):
        parts = {name: select_classes(part, classes, others, "accept") for name, part in parts.items()}
    if len({part.classes for part in parts.values()}) != 1:
        raise UsageError("the splits have different classes", fix="Give the classes with classes=")
    for finding in (f for part in parts.values() for f in part.findings):
        if finding.severity == "error" and finding.code in MISREAD:
            raise FovealError(finding.message, path=finding.path, where=finding.where, fix=finding.fix)
    if not any(parts.values()):
        raise FovealError("there is no image to write", path=next(iter(parts.values())).path)
    if any(r.ignore.any() for part in parts.values() for r in part.records):
        raise UsageError("ignored regions cannot be written", fix="Use others=background or others=skip-image")
    final = _new_folder(Path(out), [part.path for part in parts.values()])
    plan = ExportPlan.of(parts, nested=format != "voc")
    with atomic_folder(final) as partial:
        WRITERS[format](plan, partial, link)
    findings = list(dict.fromkeys(f for part in parts.values() for f in part.findings))
    findings += [Finding(loss.code, loss.severity, str(final), "", loss.message) for loss in plan.losses]
    return Conversion(
        final, format, len(plan.records), sum(map(len, plan.records)), tuple(s for s in parts if s), findings
    )


def split(
    data: PathLike | Sequence[PathLike] | Dataset,
    out: PathLike,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    format: Format | None = None,
    images: PathLike | None = None,
    convention: str | None = None,
    link: bool = False,
) -> Conversion:
    """Divides the whole dataset into train, val and (if ``test`` > 0) test, and writes it into a new folder.

    The splits depend on the image ids and the seed alone. ``format`` is by default that of the source.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise UsageError(f"val={val:g} and test={test:g} leave nothing to train on", fix="Give fractions like 0.2")
    if not isinstance(data, Dataset):
        data = diagnose_parts([SplitReader(open_sources(data, images, convention)).read(None)])[0]
    whole = data
    if len(whole) < (3 if test else 2):
        raise FovealError(f"{len(whole)} images are too few to split", path=whole.path)
    train, held_out = seeded_split(whole, val + test, seed)
    parts = {"train": train, "val": held_out}
    if test:
        parts["val"], parts["test"] = seeded_split(held_out, test / (val + test), seed + 1)
        parts["test"].split = "test"
    return convert(parts, out, format or _format(whole.format), link=link)


# ------------------------------------------------------------------------------------------------- inner
def _new_folder(out: Path, sources: list[Path]) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("exists already", path=out, fix="Choose a new or empty folder")
    real = Path(os.path.realpath(out))
    for source in sources:
        root = Path(os.path.realpath(source if source.is_dir() else source.parent))
        if root == real or (root in real.parents and source != Path()):
            raise FovealError(
                f"is inside the source {source}, which is never written to", path=out, fix="Choose another folder"
            )
    return out


def _format(name: str) -> Format:
    return name if name in WRITERS else "coco"  # type: ignore[return-value]
