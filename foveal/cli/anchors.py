"""``foveal anchors``."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import (
    BoxConvention,
    Classes,
    Data,
    ImagesDir,
    Limit,
    Overrides,
    OwnParts,
    Split,
    limited,
    names,
    own_parts,
    paths,
    print_findings,
    print_out,
    single,
)


def anchors(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help="Name of a YOLO preset, or a run or checkpoint folder.")
    ],
    data: Data,
    overrides: Overrides = None,
    split: Split = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    images: ImagesDir = None,
    limit: Limit = None,
    parts: OwnParts = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Largest number of anchors to try.")] = 9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the clustering.")] = 0,
) -> None:
    """Finds the anchors that fit a dataset best, by k-means (YOLOv2, section 2).

    Prints the mean IoU of each object with its best anchor, for the preset's own anchors and for 1 to --most new ones,
    and the best ones as an override for train.

    \b
    Example:
      foveal anchors yolo_v3_mini --data my-photos
    """
    from ..checkpoints.initial import find_spec
    from ..checks.anchors import anchor_cells, fit_anchors
    from ..config.overrides import override
    from ..data.open import open_dataset

    classes_ = own_parts(parts)
    spec = override(find_spec(preset, classes_)[0], overrides or (), parts=classes_)
    anchor_cells(spec)  # refused before the data is read
    dataset = open_dataset(paths(data), split=split, images=images, classes=names(classes), convention=convention)
    print_findings(dataset)
    fit = fit_anchors(spec, limited(dataset, limit), largest=most, seed=seed)
    count = sum(fit.cells.per_location)
    print_out(f"{fit.objects} objects; the preset's {count} anchors: mean IoU {fit.current:.4f}")
    for k, iou in fit.by_count.items():
        print_out(f"k = {k}: mean IoU {iou:.4f}")
    print_out(f"{count} fitted anchors: mean IoU {fit.fitted:.4f} with")
    print_out(f"  'cells={fit.cells!r}'")


app = single(anchors)
