"""Whether a dataset can be trained or validated on: the one verdict of ``foveal doctor`` and ``train``."""

from __future__ import annotations

from typing import Literal

from ..records.dataset import Dataset
from ..records.findings import Finding

Role = Literal["train", "val"]


def refusals(dataset: Dataset, role: Role = "train") -> list[Finding]:
    """The errors for which ``train`` refuses a dataset: those of its findings, no image, no object that counts.

    In training, crowds and ignored regions do not count; in validation, difficult objects neither.
    """
    errors = list(dict.fromkeys(f for f in dataset.findings if f.severity == "error"))
    if errors:
        return errors
    warned = [f for f in dataset.findings if f.severity == "warning"]
    first = f" (first of {len(warned)} findings: {warned[0].path}: {warned[0].message})" if warned else ""
    name = f"the split {dataset.split!r}" if dataset.split else "the dataset"
    path = str(dataset.path)
    if not dataset.records:
        return [Finding("no-image", "error", path, "", f"{name} has no usable image{first}", "Add its images")]
    if not any((~r.ignore).any() for r in dataset.records):
        what = f" of the classes {', '.join(dataset.classes[:20])}" if dataset.classes else ""
        message = f"{name} has no box{what} in {len(dataset)} images{first}"
        return [Finding("no-box", "error", path, "", message, "Annotate it, or name another split")]
    total = sum(int((~r.ignore).sum()) for r in dataset.records)
    crowds = sum(int((r.crowd & ~r.ignore).sum()) for r in dataset.records)
    difficult = sum(int((r.difficult & ~r.crowd & ~r.ignore).sum()) for r in dataset.records)
    if total == crowds:
        message = f"all {total} boxes of {name} are crowd regions, which are neither learned nor scored"
        return [Finding("no-box", "error", path, "", message, "Set iscrowd to 0 where a box is one object")]
    if role == "val" and total == crowds + difficult:
        crowd = f" ({crowds} are crowd regions)" if crowds else ""
        message = f"all {total} boxes of {name} are difficult{crowd}, which no protocol scores: its AP is undefined"
        return [Finding("no-box", "error", path, "", message, "Set difficult to 0 where an object is to be found")]
    return []
