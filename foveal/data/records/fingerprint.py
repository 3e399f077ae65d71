"""Hashes of a dataset and of its proposals, by which a resumed run recognizes its data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .dataset import Dataset


def proposal_fingerprint(dataset: Dataset) -> str | None:
    """A hash of the proposals in the records of a dataset; ``None`` if there are none."""
    boxes = [r.proposals for r in dataset.records if r.proposals is not None]
    if not boxes:
        return None
    digest = hashlib.sha256()
    for rows in boxes:
        digest.update(len(rows).to_bytes(8, "little") + np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


def fingerprint(dataset: Dataset, *, masks: bool = False) -> str:
    """A hash of image ids, sizes and objects (and their ``masks``): all that training uses but the pixels."""
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for record in dataset.records:
        digest.update(repr((record.id, record.width, record.height)).encode())
        for values in (record.boxes, record.labels, record.crowd, record.difficult, record.ignore):
            digest.update(np.ascontiguousarray(values).tobytes())
        if masks:
            digest.update(repr(record.masks).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
