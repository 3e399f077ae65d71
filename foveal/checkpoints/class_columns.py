"""The rows of a detector's last layers that belong to a class: taken from other weights by the name of the class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..weights.coco_names import COCO_NAMES

# One class under two names, without spaces: VOC's and Darknet's name, COCO's
SYNONYMS = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}
COCO_80 = tuple(name for name in COCO_NAMES if not name.startswith("unused"))
_BOXES = re.compile(r"\bbbox_pred\.(weight|bias)$")
_LEADING = (
    5,
    9,
)  # values of an anchor before its classes: YOLO's box and objectness, and Gaussian YOLO's uncertainties


def class_key(name: str) -> str:
    """A class name without case, spaces, hyphens and underscores; of two names for one thing COCO's."""
    plain = re.sub(r"[\s_-]+", "", name.casefold())
    return SYNONYMS.get(plain, plain)


def same_classes(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Index here -> index there of the classes with the same name; the first of several."""
    there: dict[str, int] = {}
    for index, name in enumerate(theirs):
        there.setdefault(class_key(name), index)
    return {index: there[key] for index, name in enumerate(ours) if (key := class_key(name)) in there}


def with_columns(
    name: str,
    state: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    per_class: int,
    counts: tuple[int, int],
    same: Mapping[int, int],
) -> Tensor | None:
    """The tensor ``name`` of the first state with rows of the second: of the classes in ``same``, and of no class.

    ``per_class``: rows that a class adds to the tensor; ``counts``: classes here and there. None where the rows of a
    class are not known, or the tensors differ in something else.
    """
    here, there = (each[name] for each in state)
    if per_class > 1 and state[0][f"{name.rpartition('.')[0]}.weight"].dim() != 4 and not _BOXES.search(name):
        return None  # YOLOv1's layer: the classes of all cells, then everything else
    ours, theirs = (_rows(name, len(t), n, per_class) for t, n in zip((here, there), counts, strict=True))
    if ours is None or theirs is None or here.shape[1:] != there.shape[1:] or ours[1].shape != theirs[1].shape:
        return None
    result = here.clone()
    result[ours[1]] = there[theirs[1]].to(here.dtype)
    for index, other in same.items():
        result[ours[0][index]] = there[theirs[0][other]].to(here.dtype)
    return result


def _rows(name: str, rows: int, classes: int, per_class: int) -> tuple[Tensor, Tensor] | None:
    """The rows (classes, per_class) of the classes, and those of none; None: not known.

    A box layer of RoIs has the four values of a class together. Every other layer has a group for each prior: its
    classes and then the background, or the box and objectness and then its classes.
    """
    numbers = torch.arange(rows)
    if _BOXES.search(name):
        return (numbers.view(classes, per_class), numbers[:0]) if rows == classes * per_class else None
    others, remainder = divmod(rows - classes * per_class, per_class)
    if remainder or others not in (0, 1, *_LEADING):
        return None
    groups = numbers.view(per_class, classes + others)
    first = others if others in _LEADING else 0
    of_classes = groups[:, first : first + classes]
    rest = torch.cat([groups[:, :first], groups[:, first + classes :]], 1)
    return of_classes.T, rest.flatten()
