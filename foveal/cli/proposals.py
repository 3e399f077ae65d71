"""``foveal proposals``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FovealError, UsageError
from .common import (
    Device,
    ImagesDir,
    Limit,
    Precision,
    Split,
    names,
    note,
    paths,
    progress,
    say,
    single,
    tell_findings,
    write_json,
)

if TYPE_CHECKING:
    from ..evaluate import Found, Truth


def proposals(
    data: Annotated[list[Path], typer.Option("--data", help="A data set; several are joined.", show_default=False)],
    method: Annotated[str, typer.Option("--method", help="A run, checkpoint or alias with proposals.")],
    split: Split = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Objects of these classes alone.")] = None,
    images: ImagesDir = None,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for proposals.npz and recall.json.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="The recall as JSON; - is standard output.")] = None,
    limit: Limit = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """How many of the objects a detector's proposals hold, whatever their class: AR and recall at IoU .5.

    \b
    Example:
      foveal proposals --data my-photos --method runs/first --split val
    """
    from dataclasses import replace

    from ..data.subsets import select_classes
    from ..evaluate import Found, Truth, recall
    from ..loading import load
    from ..scoring import detect, divided_ids, evaluation_set

    where = paths(data)
    detector = load(method, device=device, precision=precision)
    if not detector.has_proposals:
        raise UsageError(
            f"{type(detector.spec).__name__} has no proposals", path=method, fix="Give a Faster R-CNN or RPN"
        )
    dataset = evaluation_set(where, split=split, images=images, divided=divided_ids(method, where))
    if classes is not None:
        dataset = select_classes(dataset, names(classes) or [])
    tell_findings(dataset)
    if limit is not None:
        dataset = replace(dataset, records=dataset.records[:limit])
    with progress("proposing") as update:
        found, skipped = detect(detector, dataset, progress=update, proposals=True)
    for error in skipped:
        note(f"skipped: {error}")
    truth, flat = Truth.of(dataset), Found.of(found)
    result = recall(truth, flat)
    if str(json) != "-":
        say(result.text())
    write_json(result.to_dict(), json)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise FovealError("is a file, not a folder", path=out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(result.to_dict(), out / "recall.json")
        _save(out / "proposals.npz", truth, flat)


def _save(path: Path, truth: Truth, found: Found) -> None:
    """Flat arrays: ``images`` (I,) ids as text, ``image`` (N,) index into them, ``boxes`` (N, 4) xyxy, ``scores``."""
    import numpy as np

    np.savez_compressed(
        path,
        images=np.array([str(i) for i in truth.images]),
        image=found.image,
        boxes=found.box.astype(np.float32),
        scores=found.score.astype(np.float32),
    )


app = single(proposals)
