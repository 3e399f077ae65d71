"""From records to batches: the packed table that workers share, and one batch made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveal.errors import FovealError
from foveal.types import Images, Target, Targets, pad_boxes

from .dataset import Record
from .images import load_image
from .sample import Pixels, Sample, place
from .segmentation import from_json, masks_of, to_json
from .transforms import Transform

if TYPE_CHECKING:
    from foveal.parts.inputs import Input

Treatment = Literal["learn", "ignore", "drop"]


# -------------------------------------------------------------------------------------------------- records
def treated(record: Record, difficult: Treatment, crowd: Treatment) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(G,) bool twice: the objects of a record that are kept, and those of them that are ignored regions."""
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
    keep, ignore = treated(record, difficult, crowd)
    boxes = torch.as_tensor(record.boxes[keep], dtype=torch.float64).reshape(-1, 4)
    drawn = masks_of(record.masks or [None] * len(record), record.width, record.height)[keep] if masks else None
    if frame is not None:
        sx, sy, ox, oy = torch.as_tensor(frame, dtype=torch.float64).tolist()
        drawn = None if drawn is None else drawn.in_frame(sx, sy, ox, oy)
        boxes = boxes * torch.tensor([sx, sy, sx, sy]) + torch.tensor([ox, oy, ox, oy])
    return Target(
        boxes.float(),
        torch.as_tensor(record.labels[keep], dtype=torch.int64),
        crowd=torch.as_tensor(record.crowd[keep]),
        difficult=torch.as_tensor(record.difficult[keep]),
        ignore=torch.as_tensor(ignore[keep]),
        masks=drawn,
    )


class Packed:
    """All records in a few flat arrays: forked workers share these pages, where a hundred thousand objects would be
    copied by their reference counts."""

    def __init__(
        self, records: Sequence[Record], difficult: Treatment, crowd: Treatment, *, masks: bool = False
    ) -> None:
        flags = [treated(r, difficult, crowd) for r in records]
        keep = [k for k, _ in flags]
        ends = np.cumsum([0, *(int(k.sum()) for k in keep)], dtype=np.int64)
        rows = list(zip(records, flags, strict=True))
        self.starts = ends
        self.boxes = np.concatenate([np.zeros((0, 4)), *(r.boxes.reshape(-1, 4)[k] for r, (k, _) in rows)])
        self.labels = np.concatenate([np.zeros(0, np.int64), *(r.labels[k] for r, (k, _) in rows)])
        self.ignore = np.concatenate([np.zeros(0, np.bool_), *(i[k] for _, (k, i) in rows)])
        self.sizes = np.array([(r.height, r.width) for r in records], dtype=np.int64).reshape(-1, 2)
        self.proposals = [r.proposals for r in records]  # views: nothing is copied
        self._names = _Texts([str(r.path).encode("utf-8", "surrogateescape") for r in records])
        self._masks: _Texts | None = None
        if masks:
            segments = [r.masks or [None] * len(r) for r in records]
            kept = [
                [m for m, k in zip(s, flag.tolist(), strict=True) if k] for s, flag in zip(segments, keep, strict=True)
            ]
            self._masks = _Texts([json.dumps(list(map(to_json, k)), separators=(",", ":")).encode() for k in kept])

    def __len__(self) -> int:
        return len(self.sizes)

    def path(self, index: int) -> Path:
        return Path(self._names[index].decode("utf-8", "surrogateescape"))

    def image(self, index: int) -> Pixels:
        """The pixels. Raises :class:`FovealError` where the file is no image or not of the size it was said to be."""
        path = self.path(index)
        image = load_image(path)
        height, width = self.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            found = f"{image.shape[1]} x {image.shape[0]}"
            raise FovealError(f"the image is {found}, its annotations say {width} x {height}", path=path)
        return image

    def sample(self, index: int, fill: tuple[int, int, int]) -> Sample:
        image = self.image(index)
        rows = slice(self.starts[index], self.starts[index + 1])
        found, masks = self.proposals[index], None
        proposals = None if found is None else found.astype(np.float64)
        if self._masks is not None:
            masks = masks_of(list(map(from_json, json.loads(self._masks[index]))), image.shape[1], image.shape[0])
        objects = self.boxes[rows], self.labels[rows], self.ignore[rows]
        return Sample(image, *objects, masks=masks, proposals=proposals, fill=fill)


class _Texts:
    """Many byte strings in one array."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._all = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)

    def __getitem__(self, index: int) -> bytes:
        start, end = self._starts[index : index + 2]
        return self._all[start:end].tobytes()


# -------------------------------------------------------------------------------------------------- batches
@dataclass(frozen=True)
class Prepared:
    """A sample whose geometry is done; ``paint`` is the colour that is still to come."""

    sample: Sample
    paint: Callable[[Pixels], Pixels] | None


def prepare(sample: Sample, augment: Sequence[Transform], rng: np.random.Generator) -> Prepared:
    """Runs the geometry and keeps the colours for later: they cost least on the smaller picture."""
    for transform in augment:
        if not transform.colour:
            sample = transform(sample, rng)
    colours = [t for t in augment if t.colour]
    if not colours:
        return Prepared(sample, None)

    def paint(image: Pixels) -> Pixels:
        painted = replace(sample, image=image, masks=None)
        for transform in colours:
            painted = transform(painted, rng)
        return painted.image

    return Prepared(sample, paint)


def collate(prepared: Sequence[Prepared], rule: Input, *, shared: bool = False) -> tuple[Images, Targets]:
    """Resizes, paints, pads: (B, 3, H, W) uint8 channels-last. ``shared`` puts the pixels into shared memory."""
    canvases = [p.sample.canvas for p in prepared]
    places = [resized_rule(rule, p.sample.short).placement(*p.sample.canvas) for p in prepared]
    canvas = rule.canvas([(p.height, p.width) for p in places])
    pixels = _empty((len(prepared), *canvas, 3), shared)
    targets, proposals = [], []
    for item, spot, out in zip(prepared, places, pixels, strict=True):
        sample, finish = item.sample, item.paint
        height, width = sample.canvas
        if finish is not None and height * width <= spot.height * spot.width:
            sample, finish = replace(sample, image=finish(sample.image)), None
        placed = place(sample, out, (spot.height, spot.width, spot.y, spot.x), finish)
        targets.append(_target(placed))
        if placed.proposals is not None:
            proposals.append(torch.from_numpy(placed.proposals))
    images = Images(pixels.permute(0, 3, 1, 2), *rule.frames(canvases, places, canvas))
    if proposals:
        boxes, valid = pad_boxes(proposals)
        images = replace(images, proposals=boxes, proposals_valid=valid)
    return images, Targets.pad(targets)


def _target(sample: Sample) -> Target:
    return Target(
        torch.as_tensor(sample.boxes, dtype=torch.float32).reshape(-1, 4),
        torch.as_tensor(sample.labels, dtype=torch.int64),
        ignore=torch.as_tensor(sample.ignore, dtype=torch.bool),
        masks=sample.masks,
    )


def _empty(shape: tuple[int, ...], shared: bool) -> Tensor:
    if not shared:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's own collate does it: written once, straight into the memory that the main process will map.
    storage = cast("Any", torch.UntypedStorage)._new_shared(int(np.prod(shape)), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def resized_rule(rule: Input, side: int | None) -> Input:
    """The resize rule with another short side (``Resize``) or a canvas whose shorter side is ``side``."""
    if side is None:
        return rule
    known: Any = rule  # the two families of rules share no field
    if hasattr(known, "short"):
        return cast("Input", replace(known, short=side))
    scale = side / min(known.width, known.height)
    return cast("Input", replace(known, width=round(known.width * scale), height=round(known.height * scale)))
