"""``foveal train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from .common import (
    Classes,
    Data,
    Device,
    ImagesDir,
    Limit,
    Overrides,
    OwnParts,
    Precision,
    ProposalFile,
    names,
    note,
    own_parts,
    paths,
    say,
    seconds,
    single,
)


def train(
    preset: Annotated[
        str,
        typer.Argument(metavar="PRESET", help="A preset's name, or a run or checkpoint folder.", show_default=False),
    ],
    data: Data,
    overrides: Overrides = None,
    val: Annotated[list[Path] | None, typer.Option("--val", help="Another data set to validate on.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="train=NAME,val=NAME: the splits to use.", metavar="train=A,val=B")
    ] = None,
    classes: Classes = None,
    others: Annotated[
        Literal["background", "ignore", "skip-image"],
        typer.Option("--others", help="What objects of classes that are not in --classes become."),
    ] = "background",
    images: ImagesDir = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/PRESET, numbered.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="In place of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images an update, over all processes.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="So many runs; mean and spread.")] = 1,
    weights: Annotated[str | None, typer.Option("--weights", help="A detector to start from.")] = None,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Device = "auto",
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="Processes on this machine.")] = None,
    precision: Precision = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that load images.")] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Wall time, such as 30m; alone without --epochs.")
    ] = None,
    limit: Limit = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html when it is done.")] = True,
) -> None:
    """Trains a detector and leaves a run folder: run.json, metrics.jsonl, results.json, checkpoints, report.html.

    key=value replaces any setting of the preset (`foveal models PRESET` lists them), by path.

    \b
    Example:
      foveal train retinanet_mini --data my-photos --out runs/first --max-time 30m
      foveal train faster_rcnn_mini --data VOC2012 --classes cat,dog 'rpn.cls_loss=Focal(gamma=1.5)' input.short=600
    """
    seconds_, chosen, pair = seconds(max_time), names(classes), _split(split)
    from ..training.run import default_out
    from ..training.run import train as run

    own = own_parts(parts)
    target = out or default_out(preset, resume=resume)
    done = run(
        preset,
        data=paths(data),
        out=target,
        val=None if val is None else paths(val),
        split=pair,
        classes=chosen,
        others=others,
        images=images,
        epochs=epochs,
        batch=batch,
        seed=seed,
        seeds=seeds,
        weights=weights,
        proposals=proposals,
        resume=resume,
        device=device,
        devices=devices,
        precision=precision,
        workers=workers,
        max_time=seconds_,
        limit=limit,
        overrides=overrides or (),
        parts=own,
    )
    from ..report.run_report import headline
    from ..runtime.processes import first_process

    if not first_process():
        return
    for each in done.runs or (done,):
        say(headline(each.path))
        if report:
            from ..report.run_report import report_run

            note(f"report: {report_run(each.path, device=device, parts=own)}")


def _split(text: str | None) -> dict[str, str] | None:
    """``train=trainval,val=test`` -> ``{"train": "trainval", "val": "test"}``."""
    if text is None:
        return None
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not pair[1].strip() for pair in pairs):
        raise UsageError(f"{text!r} is not of the form train=NAME,val=NAME", where="--split")
    return {name.strip(): value.strip() for name, value in pairs}


app = single(train)
