"""Tables to be scored: all objects and all detections of a dataset as flat arrays.

Letters: I images, G objects, N detections, C classes. Boxes are ``xyxy`` float64 pixels of the upright image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.records.dropped import with_dropped
from ..errors import FovealError
from ..files.aliases import Bools, Floats, Ints
from ..masks.rle import Masks
from .masks import MaskRuns

if TYPE_CHECKING:
    from ..data.records.dataset import Dataset, Record


def width_height(box: Floats) -> tuple[Floats, Floats]:
    """(..., 4) -> width (...), height (...)."""
    return box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]


def _pixels(box: Floats) -> Floats:
    w, h = width_height(box)
    return w * h


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects to find, of all images, those without objects included. Build it with :meth:`of` or :meth:`build`."""

    images: tuple[int | str, ...]  # (I,) the dataset's own id of each image
    image: Ints  # (G,) index into ``images``
    label: Ints  # (G,) index into ``classes``
    box: Floats  # (G, 4)
    area: Floats  # (G,) decides small, medium, large; COCO's own (the mask's) where there is one
    crowd: Bools  # (G,)
    difficult: Bools  # (G,)
    ignore: Bools  # (G,) regions of unknown content, excluded from every score
    classes: tuple[str, ...]  # (C,)
    sizes: Ints | None = None  # (I, 2) height, width; only diagnosis needs them
    category_ids: tuple[int, ...] | None = None  # (C,) COCO's own id of each class
    box_area: Floats | None = None  # (G,) width x height as the file has them: x2 - x1 may be off by the last bit
    masks: MaskRuns | None = None  # (G,)
    drawn: Bools | None = None  # (G,) whether the file has a mask, where there are masks
    files: tuple[str, ...] | None = None  # (I,) paths of the images, by which detections may name them
    dropped: int = 0  # objects of the data whose boxes cannot be used: without area, outside the image, stated twice
    counts_dropped: bool = False  # whether they are among the G objects

    @classmethod
    def build(
        cls,
        images: Sequence[int | str],
        classes: Sequence[str],
        image: ArrayLike,
        label: ArrayLike,
        box: ArrayLike,
        *,
        area: ArrayLike | None = None,
        crowd: ArrayLike | None = None,
        difficult: ArrayLike | None = None,
        ignore: ArrayLike | None = None,
        sizes: ArrayLike | None = None,
        category_ids: Sequence[int] | None = None,
        box_area: ArrayLike | None = None,
        masks: MaskRuns | None = None,
        drawn: ArrayLike | None = None,
        files: Sequence[str] | None = None,
    ) -> GroundTruth:
        """Builds the table from flat arrays of any kind.

        Flags that are not given are False, an area that is not given is width x height, and all ``masks`` are ``drawn``
        unless ``drawn`` is given.

        Raises :class:`FovealError` where lengths differ, an index is out of range, a number is not finite or an
        image id occurs twice.
        """
        boxes = np.asarray(box, np.float64).reshape(-1, 4)
        w, h = width_height(boxes)

        def flags(values: ArrayLike | None) -> Bools:
            return np.zeros(len(boxes), bool) if values is None else np.asarray(values, bool)

        truth = cls(
            images=tuple(images),
            image=np.asarray(image, np.int64),
            label=np.asarray(label, np.int64),
            box=boxes,
            area=w * h if area is None else np.asarray(area, np.float64),
            crowd=flags(crowd),
            difficult=flags(difficult),
            ignore=flags(ignore),
            classes=tuple(classes),
            sizes=None if sizes is None else np.asarray(sizes, np.int64).reshape(-1, 2),
            category_ids=None if category_ids is None else tuple(category_ids),
            box_area=w * h if box_area is None else np.asarray(box_area, np.float64),
            masks=masks,
            drawn=None if masks is None else ~flags(None) if drawn is None else np.asarray(drawn, bool),
            files=None if files is None else tuple(files),
        )
        truth._check()
        return truth

    @classmethod
    def of(cls, dataset: Dataset, *, masks: bool = False, count_dropped: bool = False) -> GroundTruth:
        """All records of a dataset, in their order; COCO's boxes and areas as the file has them.
        ``masks``: with their masks, where the dataset has any. ``count_dropped``: with the objects whose boxes the
        reader drops, which pycocotools counts as missed.
        """
        dropped = sum(len(r.dropped) for r in dataset.records)
        dataset = with_dropped(dataset) if count_dropped else dataset
        records = dataset.records
        numbers = np.concatenate([np.zeros((0, 6)), *map(_numbers, records)])

        def joined(parts: Iterable[Any], kind: type) -> NDArray[Any]:
            return np.concatenate([np.zeros(0, kind), *parts])

        counts = np.array([len(r) for r in records], np.int64)
        truth = cls.build(
            [r.id for r in records],
            dataset.classes,
            np.repeat(np.arange(len(records)), counts),
            joined((r.labels for r in records), np.int64),
            numbers[:, :4],
            area=numbers[:, 4],
            box_area=numbers[:, 5],
            crowd=joined((r.crowd for r in records), np.bool_),
            difficult=joined((r.difficult for r in records), np.bool_),
            ignore=joined((r.ignore for r in records), np.bool_),
            sizes=[(r.height, r.width) for r in records],
            category_ids=dataset.category_ids,
            files=[str(r.path) for r in records],
            **(_drawn(records) if masks and any(r.masks is not None for r in records) else {}),
        )
        return replace(truth, dropped=dropped, counts_dropped=count_dropped)

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: Any) -> GroundTruth:
        """The objects at an index array, a slice or flags (G,); all images stay."""
        fields = ("image", "label", "box", "area", "crowd", "difficult", "ignore")
        picked = {name: getattr(self, name)[rows] for name in fields}
        for name in ("box_area", "masks", "drawn"):
            values = getattr(self, name)
            picked[name] = None if values is None else values[rows]
        return replace(self, **picked)

    def scored(self) -> GroundTruth:
        """Without the ``ignore`` regions."""
        return self[~self.ignore] if self.ignore.any() else self

    def pixels(self) -> Floats:
        """(G,) width x height of the boxes."""
        return _pixels(self.box) if self.box_area is None else self.box_area

    def image_rank(self) -> Ints:
        """(I,) the rank of each image when sorted by id, which is how pycocotools breaks ties between images.
        Ids of several types keep their order."""
        order = list(range(len(self.images)))
        if len(set(map(type, self.images))) == 1:
            order.sort(key=self.images.__getitem__)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def _check(self) -> None:
        g = len(self.box)
        for name in ("image", "label", "area", "crowd", "difficult", "ignore", "box_area", "drawn"):
            values = getattr(self, name)
            if values is not None and values.shape != (g,):
                raise FovealError(f"{name} has shape {values.shape}, expected ({g},), one for each box")
        if self.masks is not None and len(self.masks) != g:
            raise FovealError(f"{len(self.masks)} masks for {g} boxes")
        _in_range("image", self.image, len(self.images))
        _in_range("label", self.label, len(self.classes))
        _finite("box", self.box)
        _finite("area", self.area)
        if len(set(self.images)) != len(self.images):
            seen: set[int | str] = set()
            duplicate = next(i for i in self.images if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise FovealError(f"image id {duplicate!r} occurs twice", fix="Give every image a unique id")
        if self.sizes is not None and len(self.sizes) != len(self.images):
            raise FovealError(f"{len(self.sizes)} sizes for {len(self.images)} images")
        if self.category_ids is not None and len(self.category_ids) != len(self.classes):
            raise FovealError(f"{len(self.category_ids)} category ids for {len(self.classes)} classes")


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """The detections of all images. Build it with :meth:`of` or :meth:`build`."""

    image: Ints  # (N,) index into ``GroundTruth.images``
    label: Ints  # (N,) index into ``GroundTruth.classes``
    box: Floats  # (N, 4)
    score: Floats  # (N,)
    box_area: Floats | None = None  # (N,) width x height as the file has them
    masks: MaskRuns | None = None  # (N,)
    min_score: float | None = None  # score threshold of the detector, where it is known
    area: Floats | None = None  # (N,) decides small, medium, large; None: that of the box

    @classmethod
    def build(
        cls,
        image: ArrayLike,
        label: ArrayLike,
        box: ArrayLike,
        score: ArrayLike,
        box_area: ArrayLike | None = None,
        masks: MaskRuns | None = None,
    ) -> DetectionTable:
        """From flat arrays of any kind. Raises :class:`FovealError` where lengths differ or a number is not finite."""
        boxes = np.asarray(box, np.float64).reshape(-1, 4)
        w, h = width_height(boxes)
        table = cls(
            np.asarray(image, np.int64),
            np.asarray(label, np.int64),
            boxes,
            np.asarray(score, np.float64),
            w * h if box_area is None else np.asarray(box_area, np.float64),
            masks,
        )
        for name in ("image", "label", "score", "box_area"):
            values = getattr(table, name)
            if values.shape != (len(boxes),):
                raise FovealError(f"{name} has shape {values.shape}, expected ({len(boxes)},), one for each box")
        if masks is not None and len(masks) != len(boxes):
            raise FovealError(f"{len(masks)} masks for {len(boxes)} boxes")
        _finite("box", table.box)
        _finite("score", table.score)
        return table

    @classmethod
    def of(cls, detections: Sequence[Any], *, min_score: float | None = None) -> DetectionTable:
        """One object per image, in the order of ``GroundTruth.images``, with ``boxes`` (n, 4), ``scores`` and
        ``labels`` (n,) that NumPy can read (arrays, CPU tensors), and optionally ``masks``
        (:class:`~foveal.masks.rle.Masks`).

        ``min_score``: the detector's score threshold; None: unknown, and estimated from the lowest score.
        """
        masks_by_image = [getattr(d, "masks", None) for d in detections]
        masks = None
        if any(m is not None for m in masks_by_image):
            masks = MaskRuns.of(
                [
                    Masks.empty((1, 1), len(d.boxes)) if m is None else m
                    for d, m in zip(detections, masks_by_image, strict=True)
                ]
            )
        boxes = [np.asarray(d.boxes, np.float64).reshape(-1, 4) for d in detections]
        table = cls.build(
            np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]),
            np.concatenate([np.zeros(0, np.int64), *(np.asarray(d.labels, np.int64) for d in detections)]),
            np.concatenate([np.zeros((0, 4)), *boxes]),
            np.concatenate([np.zeros(0), *(np.asarray(d.scores, np.float64) for d in detections)]),
            masks=masks,
        )
        return replace(table, min_score=min_score)

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: Any) -> DetectionTable:
        picked = {name: getattr(self, name)[rows] for name in ("image", "label", "box", "score")}
        for name in ("box_area", "masks", "area"):
            values = getattr(self, name)
            picked[name] = None if values is None else values[rows]
        return replace(self, **picked)

    def pixels(self) -> Floats:
        """(N,) width x height of the boxes."""
        return _pixels(self.box) if self.box_area is None else self.box_area

    def range_area(self) -> Floats:
        """(N,) the area that decides small, medium, large."""
        return self.pixels() if self.area is None else self.area

    def check_against(self, truth: GroundTruth) -> None:
        """Raises :class:`FovealError` if an image or a label is not one of ``truth``."""
        _in_range("image of a detection", self.image, len(truth.images))
        _in_range("label of a detection", self.label, len(truth.classes))


def _numbers(record: Record) -> Floats:
    """(G, 6) of the G objects of a record: box xyxy, area, width x height."""
    if record.stated is None:
        w, h = width_height(record.boxes)
        return np.column_stack([record.boxes, record.area, w * h])
    x, y, w, h, area = record.stated.T
    return np.column_stack([x, y, x + w, y + h, area, w * h])


def _drawn(records: Sequence[Record]) -> dict[str, Any]:
    """The arguments ``masks`` and ``drawn`` (G,) of :meth:`GroundTruth.build` for all records."""
    from ..data.records.segmentation import masks_of

    masks_by_image = [r.masks or [None] * len(r) for r in records]
    rows = zip(masks_by_image, records, strict=True)
    flags = [m is not None for masks in masks_by_image for m in masks]
    return {"masks": MaskRuns.of([masks_of(m, r.width, r.height) for m, r in rows]), "drawn": np.array(flags, bool)}


def _in_range(name: str, index: Ints, n: int) -> None:
    if len(index) and (index.min() < 0 or index.max() >= n):
        row = int(np.flatnonzero((index < 0) | (index >= n))[0])
        raise FovealError(f"{name} {int(index[row])} (row {row}) is not in 0..{n - 1}")


def _finite(name: str, values: Floats) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argwhere(bad)[0, 0])
        raise FovealError(f"{name} of row {row} is {values[row].tolist()}, expected finite numbers")
