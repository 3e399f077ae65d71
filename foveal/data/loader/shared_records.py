"""What processes share: records packed into a few flat arrays, and batches; the conversion of records to targets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import Bools, Floats, ImageArray, Ints
from ...recipe import Recipe, Treatment
from ...types import Images, Target, Targets
from ..augment.geometry import Sample, blank_image
from ..images.load import load_image
from ..records.dataset import Record
from ..records.segmentation import from_json, masks_of, to_json


def network_targets(records: Sequence[Record], images: Images, fit: Recipe, *, masks: bool = False) -> Targets:
    """The padded targets of some records in network pixels, as in training, on the device of ``images``."""
    frames = images.frame.cpu()
    rows = zip(records, frames, strict=True)
    treatment: dict[str, Any] = {"difficult": fit.difficult, "crowd": fit.crowd, "masks": masks}
    padded = Targets.pad([targets_of(r, f, **treatment) for r, f in rows])
    return padded.to(images.pixels.device)


# -------------------------------------------------------------------------------------------------- records
def select_objects(record: Record, difficult: Treatment, crowd: Treatment) -> tuple[Bools, Bools]:
    """(G,) bool twice: the objects of a record that are used, and those that are ignored regions."""
    keep = np.ones(len(record), dtype=np.bool_)
    ignore = record.ignore.copy()
    for flag, treatment in ((record.difficult, difficult), (record.crowd, crowd)):
        if treatment == "ignore":
            ignore |= flag
        elif treatment == "drop":
            keep &= ~flag
    return keep, ignore


def targets_of(
    record: Record,
    frame: Sequence[float] | Tensor | None = None,
    *,
    difficult: Treatment = "learn",
    crowd: Treatment = "ignore",
    masks: bool = False,
) -> Target:
    """A record as a training target, in network pixels where ``frame`` = sx, sy, ox, oy is given."""
    keep, ignore = select_objects(record, difficult, crowd)
    boxes = torch.as_tensor(record.boxes[keep], dtype=torch.float64).reshape(-1, 4)
    bitmaps = masks_of(record.masks or [None] * len(record), record.width, record.height)[keep] if masks else None
    if frame is not None:
        sx, sy, ox, oy = torch.as_tensor(frame, dtype=torch.float64).tolist()
        bitmaps = None if bitmaps is None else bitmaps.in_frame(sx, sy, ox, oy)
        boxes = boxes * torch.tensor([sx, sy, sx, sy]) + torch.tensor([ox, oy, ox, oy])
    return Target(
        boxes.float(),
        torch.as_tensor(record.labels[keep], dtype=torch.int64),
        crowd=torch.as_tensor(record.crowd[keep]),
        difficult=torch.as_tensor(record.difficult[keep]),
        ignore=torch.as_tensor(ignore[keep]),
        masks=bitmaps,
    )


class PackedRecords:
    """All records in a few flat arrays, whose memory forked workers share; the reference counts of a hundred thousand
    objects would make a copy for each worker."""

    def __init__(
        self, records: Sequence[Record], difficult: Treatment, crowd: Treatment, *, masks: bool = False
    ) -> None:
        flags = [select_objects(r, difficult, crowd) for r in records]
        keep = [k for k, _ in flags]
        ends = np.cumsum([0, *(int(k.sum()) for k in keep)], dtype=np.int64)
        pairs = list(zip(records, flags, strict=True))
        self.starts = ends
        self.boxes = np.concatenate([np.zeros((0, 4)), *(r.boxes.reshape(-1, 4)[k] for r, (k, _) in pairs)])
        self.labels = np.concatenate([np.zeros(0, np.int64), *(r.labels[k] for r, (k, _) in pairs)])
        self.ignore = np.concatenate([np.zeros(0, np.bool_), *(i[k] for _, (k, i) in pairs)])
        self.sizes = np.array([(r.height, r.width) for r in records], dtype=np.int64).reshape(-1, 2)
        self.proposals = [r.proposals for r in records]  # views, not copies
        self._names = _Texts([str(r.path).encode("utf-8", "surrogateescape") for r in records])
        self._masks: _Texts | None = None
        if masks:
            segments = [r.masks or [None] * len(r) for r in records]
            used = [
                [m for m, k in zip(s, flag.tolist(), strict=True) if k] for s, flag in zip(segments, keep, strict=True)
            ]
            self._masks = _Texts([json.dumps(list(map(to_json, k)), separators=(",", ":")).encode() for k in used])

    def __len__(self) -> int:
        return len(self.sizes)

    def path(self, index: int) -> Path:
        return Path(self._names[index].decode("utf-8", "surrogateescape"))

    def image(self, index: int) -> ImageArray:
        """The pixels. Raises :class:`FovealError` if the file is not an image of the size in the record."""
        path = self.path(index)
        image = load_image(path)
        height, width = self.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise FovealError(f"the image is {size}, its annotation states {width} x {height}", path=path)
        return image

    def repeat_factors(self, threshold: float) -> Floats:
        """(images,) how often each image comes in an epoch: see :func:`repeat_factors`."""
        images = np.repeat(np.arange(len(self)), np.diff(self.starts))[~self.ignore]
        return repeat_factors(images, self.labels[~self.ignore], len(self), threshold)

    def sample(self, index: int, fill: tuple[int, int, int], *, blank: bool = False) -> Sample:
        """The decoded image with its objects; ``blank``: without its pixels.

        Raises :class:`FovealError`, see :meth:`image`.
        """
        image = blank_image(*self.sizes[index].tolist()) if blank else self.image(index)
        rows = slice(self.starts[index], self.starts[index + 1])
        stored, masks = self.proposals[index], None
        proposals = None if stored is None else stored.astype(np.float64)
        if self._masks is not None:
            masks = masks_of(list(map(from_json, json.loads(self._masks[index]))), image.shape[1], image.shape[0])
        objects = self.boxes[rows], self.labels[rows], self.ignore[rows]
        return Sample(image, *objects, masks=masks, proposals=proposals, fill=fill)


def repeat_factors(images: Ints, labels: Ints, count: int, threshold: float) -> Floats:
    """(count,) how often each image comes in an epoch: repeat-factor sampling (Gupta et al. 2019, LVIS, section 3.2).

    ``images`` (G,) is the image of each object and ``labels`` (G,) its class. A class in a share f of the images has
    the factor max(1, sqrt(threshold / f)), an image the largest of its classes.
    """
    factors = np.ones(count)
    if not len(labels):
        return factors
    pairs = np.unique(np.stack([labels, images]), axis=1)
    share = np.bincount(pairs[0]) / count
    of_class = np.sqrt(threshold / share.clip(1 / count)).clip(1.0)
    np.maximum.at(factors, pairs[1], of_class[pairs[0]])
    return factors


class _Texts:
    """Byte strings in one array."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._all = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)

    def __getitem__(self, index: int) -> bytes:
        start, end = self._starts[index : index + 2]
        return self._all[start:end].tobytes()


# -------------------------------------------------------------------------------------------------- batches
@dataclass
class WorkerBatch:
    """What a worker sends to the main process. Only pixels are tensors, since each tensor costs a file descriptor."""

    pixels: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of the images, in the records
    skipped: dict[int, str] = field(default_factory=dict)  # index of an unusable image -> reason
    error: bool = False  # too many images are unusable


def packed_batch(result: WorkerBatch, images: Images, targets: Targets) -> WorkerBatch:
    """``result`` with a batch; :func:`unpacked_batch` is the inverse.

    ``arrays``: sizes, frame, original; boxes, labels, valid, ignore; then, if there are any, proposals and their valid
    flags; then masks, if there are any.
    """
    result.pixels = [images.pixels, *images.frozen_maps]
    tensors = [images.sizes, images.frame, images.original]
    tensors += [targets.boxes, targets.labels, targets.valid, targets.ignore]
    if images.proposals is not None and images.proposals_valid is not None:
        tensors += [images.proposals, images.proposals_valid]
    tensors += [] if targets.masks is None else [targets.masks]
    result.arrays = [np.asarray(t.numpy()) for t in tensors]
    return result


def unpacked_batch(built: WorkerBatch) -> tuple[Images, Targets]:
    """The batch of :func:`packed_batch`."""
    sizes, frame, original, boxes, labels, valid, ignore, *more = map(torch.from_numpy, built.arrays)
    masks = more.pop() if len(more) % 2 else None  # proposals are two arrays
    pixels, *maps = built.pixels
    images = Images(pixels, sizes, frame, original, frozen_maps=tuple(maps))
    if more:
        images = replace(images, proposals=more[0], proposals_valid=more[1])
    return images, Targets(boxes, labels, valid, ignore, bool(ignore.any()), masks)


def sample_target(sample: Sample) -> Target:
    """The objects of a sample as a training target, in the same pixels."""
    return Target(
        torch.as_tensor(sample.boxes, dtype=torch.float32).reshape(-1, 4),
        torch.as_tensor(sample.labels, dtype=torch.int64),
        ignore=torch.as_tensor(sample.ignore, dtype=torch.bool),
        masks=sample.masks,
    )


def repeated(indices: Ints, repeats: Floats, rng: np.random.Generator, shuffle: bool) -> Ints:
    """Each image ``repeats`` times on average over the epochs: that number rounded down or up (systematic sampling)."""
    ends = np.cumsum(repeats[indices]).round(9) + (rng.random() if shuffle else 0.0)
    times = np.diff(np.floor(ends), prepend=0.0).astype(np.int64)
    copies = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    numbers = np.repeat(indices, times) + copies * len(indices)
    return rng.permutation(numbers) if shuffle else numbers


def allocate_pixels(shape: tuple[int, ...], shared: bool) -> Tensor:
    """A uint8 tensor without values; ``shared``: in shared memory."""
    if not shared:
        return torch.empty(shape, dtype=torch.uint8)
    # like torch's default collate function: written once, directly into the memory that the main process will map
    storage = cast("Any", torch.UntypedStorage)._new_shared(int(np.prod(shape)), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
