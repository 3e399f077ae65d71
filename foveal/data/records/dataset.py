"""The records of a dataset: images with their objects, as NumPy arrays, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .evidence import Evidence
from .findings import Finding


@dataclass(frozen=True, repr=False)
class IndexedMask:
    """A mask in an image file: the pixels whose value is ``index`` (VOC's ``SegmentationObject``)."""

    image: str
    index: int  # from 1, in the order of the annotation file

    def __repr__(self) -> str:  # fingerprints of stored runs were made from this text
        return f"Drawn(picture={self.image!r}, object={self.index!r})"


Segmentation = list[list[float]] | dict[str, Any] | IndexedMask  # COCO polygons, COCO RLE (list or string), VOC


@dataclass(frozen=True)
class DroppedObject:
    """An object as its file states it. It is in no training batch, and scored only on request."""

    label: int  # index into Dataset.classes
    numbers: tuple[float, float, float, float, float]  # x, y, width, height, area; finite
    crowd: bool = False
    difficult: bool = False
    mask: Segmentation | None = None  # valid


@dataclass
class Record:
    """One image and its objects; boxes (G, 4) float64 xyxy half-open pixels of the upright image."""

    id: int | str  # COCO's image id, else the file name without its extension
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]  # index into Dataset.classes
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    ignore: NDArray[np.bool_]  # regions that are excluded from training (``--others ignore``)
    area: NDArray[np.float64]  # COCO's area if stated, else width x height
    masks: list[Segmentation | None] | None = None
    source: Path | None = None  # the annotation file
    # (G, 5) x, y, width, height, area as stated in a COCO file, also beyond the image's edge. Evaluation uses them
    # like pycocotools: x2 - x1 differs from the width in the last bit, and a clipped box is another box.
    stated: NDArray[np.float64] | None = None
    proposals: NDArray[np.float32] | None = None  # (P, 4) external, best first; may be a view of a mapped file
    dropped: tuple[DroppedObject, ...] = ()  # see :func:`~.dropped.with_dropped`

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def bare(cls, path: str | Path) -> Record:
        """An image without objects and of unknown size; its path is its id."""
        flags = np.zeros(0, np.bool_)
        none, labels = np.zeros(0), np.zeros(0, np.int64)
        return cls(str(path), Path(path), 0, 0, np.zeros((0, 4)), labels, flags, flags, flags, none)


@dataclass
class Dataset:
    """The result of a reader: valid records, and findings about everything invalid."""

    classes: tuple[str, ...]
    records: list[Record]
    findings: list[Finding] = field(default_factory=list)
    path: Path = Path()
    format: str = ""  # "voc", "coco", "yolo", ...
    split: str | None = None
    category_ids: tuple[int, ...] | None = None  # COCO's category id of each class
    splits: tuple[str, ...] = ()  # all splits at this path
    evidence: list[Evidence] = field(default_factory=list, repr=False)  # empty once it has been diagnosed

    def __len__(self) -> int:
        return len(self.records)
