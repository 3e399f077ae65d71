"""``foveal check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    BoxConvention,
    Classes,
    Data,
    Device,
    ImagesDir,
    Overrides,
    OwnParts,
    ProposalFile,
    Split,
    limited,
    names,
    own_parts,
    paths,
    print_err,
    print_findings,
    print_out,
    progress,
    seconds,
    single,
)

if TYPE_CHECKING:
    from ..checks.assignment import TaskCheck

SHOWN = 10  # lines of each list; the rest is counted


Images = Annotated[int, typer.Option("--limit", min=1, help="Use only the first N images for the round trip.")]
MaxTime = Annotated[str, typer.Option("--max-time", help="Time limit of the overfitting, as in 90s or 5m.")]
EncodeOnly = Annotated[bool, typer.Option("--encode-only", help="Skip the overfitting.")]


def check(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset, or a run or checkpoint folder.")],
    data: Data,
    overrides: Overrides = None,
    split: Split = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    images: ImagesDir = None,
    limit: Images = 200,
    max_time: MaxTime = "5m",
    skip_overfit: EncodeOnly = False,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    device: Device = "auto",
) -> int:
    """Checks a detector on your data: encode/decode round trip, then overfits 8 images.

    The objects are encoded as the detector's targets and decoded again: AP must be 1.0, except for collisions, which
    are listed (objects that share an anchor or suppress each other). The overfitting starts as a training run would,
    from the weights of a run or checkpoint where one is given, and must reach an AP50 of 0.9. Exit status 1 where one
    of them fails.

    \b
    Example:
      foveal check retinanet_mini --data my-photos
      foveal check faster_rcnn_mini --data my-photos --max-time 15m input.short=600
    """
    budget = seconds(max_time) or 300.0
    from ..checkpoints.initial import find_spec
    from ..checks.assignment import encode
    from ..config.overrides import override
    from ..data.open import check_trainable, open_dataset, open_sources

    own = own_parts(parts)
    base, weights = find_spec(preset, own)
    spec = override(base, overrides or (), parts=own)
    if split is None:
        split = "train" if any(source.splits for source in open_sources(paths(data), images)) else None
    dataset = open_dataset(paths(data), split=split, images=images, classes=names(classes), convention=convention)
    print_findings(dataset)
    check_trainable(dataset)
    with progress("encoding") as update:
        checked = encode(spec, limited(dataset, limit), update)
    for task in checked:
        _print(task)
    if not all(task.passed for task in checked):
        return 1
    if skip_overfit:
        return 0
    from ..checks.overfit import overfit

    print_err(f"overfitting 8 images, {budget:.0f} s at most")
    options: dict[str, Any] = {"device": device, "weights": weights, "proposals": proposals, "parts": own}
    outcome = overfit(spec, dataset, max_time=budget, **options)
    ap50 = "undefined" if outcome.ap50 is None else f"{outcome.ap50:.4f}"
    verdict = "passed" if outcome.passed else f"FAILED: {outcome.verdict}"
    print_out(f"overfit: {outcome.images} images, AP50 {ap50}: {verdict}")
    return 0 if outcome.passed else 1


def _print(task: TaskCheck) -> None:
    ap = "undefined" if task.ap is None else f"{task.ap:.4f}"
    verdict = "passed" if task.passed else "FAILED: encoding and decoding do not agree"
    if not task.objects:
        verdict = "FAILED: there is nothing to check"
    print_out(f"encode {task.name}: {task.objects} objects, AP {ap}, {len(task.lost)} collisions: {verdict}")
    for line in (*task.broken[:SHOWN], *task.lost[:SHOWN]):
        print_out(f"  {line}")
    for what, lines in (("broken", task.broken), ("collisions", task.lost)):
        if len(lines) > SHOWN:
            print_out(f"  and {len(lines) - SHOWN} more {what}")


app = single(check)
