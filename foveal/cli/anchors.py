"""``foveal anchors``."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from .common import (
    Classes,
    Data,
    ImagesDir,
    Overrides,
    OwnParts,
    Split,
    names,
    own_parts,
    paths,
    say,
    single,
    tell_findings,
)


def anchors(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="A YOLO preset, or a run or checkpoint folder.")],
    data: Data,
    overrides: Overrides = None,
    split: Split = None,
    classes: Classes = None,
    images: ImagesDir = None,
    parts: OwnParts = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Tries 1 to so many shapes.")] = 9,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Finds the shapes of boxes that fit a data set best, by k-means (YOLOv2, section 2).

    Says how well the preset's own shapes fit (mean IoU of each object with the nearest one), how well as many found
    shapes would, and prints them as an override for train.

    \b
    Example:
      foveal anchors yolo_v3_mini --data my-photos
    """
    from dataclasses import replace

    import numpy as np
    import torch

    from ..checkpoints.initial import find_spec
    from ..config.overrides import override
    from ..data.anchor_clusters import cluster, mean_iou
    from ..data.open import check_trainable, open_dataset
    from ..errors import UsageError
    from ..parts.coders import GridCoder
    from ..parts.necks.fpn import Neck
    from ..parts.priors.cells import Cells

    own = own_parts(parts)
    spec = override(find_spec(preset, own)[0], overrides or (), parts=own)
    cells = getattr(spec, "cells", None)
    if not isinstance(cells, Cells):
        raise UsageError(f"{preset} has no shapes to find", fix="Choose one of the YOLO presets: `foveal models`")
    coder = getattr(getattr(spec, "task", None), "coder", None)
    if isinstance(coder, GridCoder) and coder.sides == "square":
        raise UsageError(f"{preset} is a YOLOv1, whose boxes have no shapes", fix="Choose a YOLOv2 or YOLOv3")
    dataset = open_dataset(paths(data), split=split, images=images, classes=names(classes))
    tell_findings(dataset)
    check_trainable(dataset)
    sides = []
    for record in dataset.records:
        height, width = spec.input.size(record.height, record.width)
        boxes = record.boxes[~record.ignore]
        sides.append((boxes[:, 2:] - boxes[:, :2]) * [width / record.width, height / record.height])
    every = np.concatenate(sides).astype(np.float64)
    with torch.device("meta"):  # only to learn the strides
        strides = cast(Neck, spec.build(dataset.classes).get_submodule("neck")).strides
    unit = np.repeat(strides if cells.unit == "cells" else np.ones(len(strides)), cells.per_location)[:, None]
    own = np.array([shape for level in cells.shapes for shape in level]) * unit
    say(f"{len(every)} objects; the preset's {len(own)} shapes: mean IoU {mean_iou(every, own):.4f}")
    clusters = {k: cluster(every, k, seed=seed) for k in range(1, min(most, len(np.unique(every, axis=0))) + 1)}
    for k, best in clusters.items():
        say(f"k = {k}: mean IoU {best.mean_iou:.4f}")
    best = clusters.get(len(own)) or cluster(every, len(own), seed=seed)
    found = (best.shapes / unit).round(3 if cells.unit == "cells" else 1)
    new = replace(cells, shapes=_by_level(found.tolist(), cells.per_location))
    say(f"{len(own)} found shapes: mean IoU {mean_iou(every, found * unit):.4f} with")
    say(f"  'cells={new!r}'")


def _by_level(shapes: list[list[float]], sizes: tuple[int, ...]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Shapes by rising area, dealt out to the levels, finest first."""
    pairs = iter([(w, h) for w, h in shapes])
    return tuple(tuple(next(pairs) for _ in range(size)) for size in sizes)


app = single(anchors)
