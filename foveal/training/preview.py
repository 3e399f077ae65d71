"""A sheet of training images as the detector gets them: augmented, resized, with their objects drawn in."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..checkpoints.initial import initial_pixels
from ..data.augment.combine import Combination
from ..data.loader.loader import Batch, Loader
from ..files.aliases import PathLike
from ..files.atomic import write_bytes
from ..inference.draw import draw_boxes
from ..masks.rle import Masks
from .arguments import TrainArguments, with_fields
from .launch import open_sets
from .run import resolved

if TYPE_CHECKING:
    from ..assembly.detector import Spec

NAME = "preview.png"
COLUMNS, ROWS, SIDE, GAP = 4, 3, 320, 6  # of the sheet; pixels
BACKGROUND = (255, 255, 255)


@with_fields(TrainArguments)
def preview(spec: Spec | PathLike | None, arguments: TrainArguments) -> Path:
    """Draws twelve training images of the first epoch into ``preview.png`` of the run folder, and returns its path.

    Nothing is trained. The arguments are those of :func:`foveal.train`. Where mosaic or mix-up end before the training
    does, the last row is of the end. Regions that the loss ignores are marked so.
    """
    found, arguments = resolved(spec, arguments)
    found = found.with_pixels(initial_pixels(found, arguments.weights, None, arguments.parts))
    dataset, fit = open_sets(arguments).training, found.fit
    masks = bool(found.build(dataset.classes).has_masks)
    loader = Loader(
        dataset, found.input, fit.augment, COLUMNS, arguments.seed, masks=masks, difficult=fit.difficult,
        crowd=fit.crowd, repeat_threshold=fit.repeat_threshold,
    )  # fmt: skip
    ends = any(isinstance(t, Combination) and t.until < 1 for t in fit.augment)
    cells: list[Image.Image] = []
    names = (*dataset.classes, "ignored")
    for row in range(ROWS):
        done = 1.0 if ends and row == ROWS - 1 else 0.0
        epoch, number = divmod(row, len(loader))
        batch = next(loader.epoch(epoch, number, (done, done)))
        cells += [_cell(batch, k, names) for k in range(len(batch.indices))]
    out = arguments.folder / NAME
    data = io.BytesIO()
    _sheet(cells).save(data, "PNG")
    write_bytes(out, data.getvalue())
    return out


def _cell(batch: Batch, k: int, names: tuple[str, ...]) -> Image.Image:
    """One image of a batch, its longer side :data:`SIDE` pixels."""
    pixels, targets = batch.images.pixels[k].permute(1, 2, 0).contiguous().numpy(), batch.targets
    known = (targets.valid[k] | targets.ignore[k]).numpy()
    labels = np.where(targets.ignore[k], len(names) - 1, targets.labels[k])[known]
    boxes = targets.boxes[k].numpy()[known]
    factor = SIDE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    drawn: Any = None
    if targets.masks is not None:
        runs = targets.masks[k].numpy()[known]
        owner = np.repeat(np.arange(len(runs)), runs.shape[1])
        flat = Masks.of_runs(pixels.shape[:2], len(runs), owner, *runs.reshape(-1, 3).T)
        drawn = flat.resized(size[1], size[0]).dense()
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return draw_boxes(small, (boxes * factor).tolist(), labels.tolist(), names, masks=drawn)


def _sheet(cells: list[Image.Image]) -> Image.Image:
    """The cells in rows of :data:`COLUMNS`, each row as high as its highest cell."""
    rows = [cells[k : k + COLUMNS] for k in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = max(sum(cell.width + GAP for cell in row) for row in rows) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), BACKGROUND)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for cell in row:
            sheet.paste(cell, (left, top))
            left += cell.width + GAP
        top += height + GAP
    return sheet
