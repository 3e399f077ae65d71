"""``foveal check``."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import (
    Classes,
    Data,
    Device,
    ImagesDir,
    Overrides,
    OwnParts,
    ProposalFile,
    Split,
    names,
    note,
    own_parts,
    paths,
    progress,
    say,
    seconds,
    single,
    tell_findings,
)

SHOWN = 10  # lines of each list; the rest is counted


def check(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name, or a run or checkpoint folder.")],
    data: Data,
    overrides: Overrides = None,
    split: Split = None,
    classes: Classes = None,
    images: ImagesDir = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Images to encode.")] = 200,
    max_time: Annotated[str, typer.Option("--max-time", help="Of the overfitting.")] = "5m",
    skip_overfit: Annotated[bool, typer.Option("--encode-only", help="Only encode and decode.")] = False,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    device: Device = "auto",
) -> int:
    """Is a detector wired up right for this data?

    Encodes the annotated objects as the detector's targets, decodes them again (AP must be 1.0, but for listed
    collisions), then learns 8 images by heart, as a training would begin: from the weights of a run or checkpoint where
    one is given. Exit status 1 where one of them fails.

    \b
    Example:
      foveal check retinanet_mini --data my-photos
      foveal check faster_rcnn_mini --data my-photos --max-time 15m input.short=600
    """
    budget = seconds(max_time) or 300.0
    from dataclasses import replace

    from ..checkpoints.initial import find_spec
    from ..checks.assignment import encode
    from ..checks.overfit import overfit
    from ..config.overrides import override
    from ..data.open import check_trainable, open_dataset

    own = own_parts(parts)
    found, weights = find_spec(preset, own)
    spec = override(found, overrides or (), parts=own)
    if split is None:
        from ..data.open import open_sources

        split = "train" if any(source.splits for source in open_sources(paths(data), images)) else None
    dataset = open_dataset(paths(data), split=split, images=images, classes=names(classes))
    tell_findings(dataset)
    check_trainable(dataset)
    part = replace(dataset, records=dataset.records[:limit])
    with progress("encoding") as update:
        stages = encode(spec, part, update)
    passed = True
    for stage in stages:
        passed = passed and stage.passed
        ap = "undefined" if stage.ap is None else f"{stage.ap:.4f}"
        verdict = "passed" if stage.passed else "FAILED: encoding and decoding do not agree"
        say(f"encode {stage.name}: {stage.objects} objects, AP {ap}, {len(stage.lost)} collisions: {verdict}")
        for line in (*stage.broken[:SHOWN], *stage.lost[:SHOWN]):
            say(f"  {line}")
        for what, lines in (("broken", stage.broken), ("collisions", stage.lost)):
            if len(lines) > SHOWN:
                say(f"  and {len(lines) - SHOWN} more {what}")
    if skip_overfit or not passed:
        return 0 if passed else 1
    note(f"overfitting 8 images, {budget:.0f} s at most")
    learned = overfit(spec, dataset, max_time=budget, device=device, weights=weights, proposals=proposals, parts=own)
    ap50 = "undefined" if learned.ap50 is None else f"{learned.ap50:.4f}"
    say(
        f"overfit: {learned.images} images, AP50 {ap50}: {'passed' if learned.passed else f'FAILED: {learned.verdict}'}"
    )
    return 0 if learned.passed else 1


app = single(check)
