"""Objects whose boxes cannot be used: without area, outside the image, or stated twice. Other tools count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, DroppedObject, Record, Segmentation


def renumbered(objects: Sequence[DroppedObject], new_label: NDArray[np.int64]) -> tuple[DroppedObject, ...]:
    """With the class ``new_label[k]`` in place of k; without those whose new label is negative."""
    pairs = ((o, int(new_label[o.label])) for o in objects)
    return tuple(replace(o, label=label) for o, label in pairs if label >= 0)


def with_dropped(dataset: Dataset) -> Dataset:
    """The dataset to be scored with its dropped objects, as pycocotools does: they come last in their images."""
    records = [_counted(record) if record.dropped else record for record in dataset.records]
    return replace(dataset, records=records)


def _counted(record: Record) -> Record:
    numbers = np.array([o.numbers for o in record.dropped], np.float64)
    boxes = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]], 1)
    masks: list[Segmentation | None] = [*(record.masks or [None] * len(record)), *(o.mask for o in record.dropped)]

    def joined(values: NDArray[Any], more: Sequence[Any]) -> NDArray[Any]:
        return np.concatenate([values, np.array(more, values.dtype)])

    own = record.boxes
    stated = record.stated
    if stated is None:
        stated = np.concatenate([own[:, :2], own[:, 2:] - own[:, :2], record.area[:, None]], 1)
    return replace(
        record,
        boxes=np.concatenate([own, boxes]),
        labels=joined(record.labels, [o.label for o in record.dropped]),
        crowd=joined(record.crowd, [o.crowd for o in record.dropped]),
        difficult=joined(record.difficult, [o.difficult for o in record.dropped]),
        ignore=joined(record.ignore, [False] * len(record.dropped)),
        area=joined(record.area, numbers[:, 4].tolist()),
        masks=masks if any(mask is not None for mask in masks) else None,
        stated=np.concatenate([stated, numbers]),
        dropped=(),
    )
