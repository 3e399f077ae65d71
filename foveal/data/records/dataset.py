"""Records and data sets: plain NumPy, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .findings import Finding


@dataclass(frozen=True, repr=False)
class IndexedMask:
    """A mask in an image file: the pixels whose value is ``index`` (VOC's ``SegmentationObject``)."""

    image: str
    index: int  # from 1, in the order of the annotation file

    def __repr__(self) -> str:  # fingerprints of stored runs were made from this text
        return f"Drawn(picture={self.image!r}, object={self.index!r})"


Segmentation = list[list[float]] | dict[str, Any] | IndexedMask  # COCO polygons, COCO RLE (list or string), VOC


@dataclass
class Record:
    """One image and its objects; boxes (G, 4) float64 xyxy half-open pixels of the upright image."""

    id: int | str  # the data set's own id: COCO's number, else the file's name without its ending
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]  # index into Dataset.classes
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    ignore: NDArray[np.bool_]  # regions whose content is unknown or unwanted (``--others ignore``)
    area: NDArray[np.float64]  # COCO's own area where there is one, else width x height
    masks: list[Segmentation | None] | None = None
    source: Path | None = None  # the annotation file
    # (G, 5) x, y, width, height, area in a COCO file's own numbers, over the image's edge too. They are what is scored,
    # as pycocotools does: x2 - x1 is not the width to the last bit, and a clipped box is another box.
    stated: NDArray[np.float64] | None = None
    proposals: NDArray[np.float32] | None = None  # (P, 4) from outside, best first; perhaps a view of a mapped file

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def bare(cls, path: str | Path) -> Record:
        """A picture of which nothing is known, its size neither; its path is its id."""
        flags = np.zeros(0, np.bool_)
        none, labels = np.zeros(0), np.zeros(0, np.int64)
        return cls(str(path), Path(path), 0, 0, np.zeros((0, 4)), labels, flags, flags, flags, none)


@dataclass
class Dataset:
    """What a reader returns: records that can be trusted, and findings about all that could not."""

    classes: tuple[str, ...]
    records: list[Record]
    findings: list[Finding] = field(default_factory=list)
    path: Path = Path()
    format: str = ""  # "voc", "coco", "yolo"
    split: str | None = None
    category_ids: tuple[int, ...] | None = None  # COCO's own category id of each class
    splits: tuple[str, ...] = ()  # the splits that exist at this path

    def __len__(self) -> int:
        return len(self.records)
