"""``foveal train``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..training.arguments import TrainArguments
from .common import print_err, print_out, single
from .options import with_options


def train(
    preset: Annotated[
        str,
        typer.Argument(metavar="PRESET", help="Name of a preset, or a run or checkpoint folder.", show_default=False),
    ],
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html at the end of the run.")
    ] = True,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw augmented training images into preview.png, and do not train.")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Try rising learning rates, suggest one (lr_finder.png), and stop.")
    ] = False,
    **options: Any,
) -> None:
    """Trains a detector and leaves a run folder: run.json, metrics.jsonl, results.json, checkpoints, report.html.

    key=value replaces any setting of the preset (`foveal models PRESET` lists them), by path.

    \b
    Example:
      foveal train retinanet_mini --data my-photos --out runs/first --max-time 30m
      foveal train faster_rcnn_mini --data VOC2012 --classes cat,dog 'rpn.cls_loss=Focal(gamma=1.5)' input.short=600
    """
    if preview and find_lr:
        raise UsageError("--preview and --find-lr are two commands", fix="Give one of them")
    if preview:
        from ..training.preview import preview as draw

        print_out(str(draw(preset, **options)))
        return
    if find_lr:
        from ..report.lr_plot import find_and_plot

        print_out(find_and_plot(preset, **options))
        return
    from ..training.run import train as run

    done = run(preset, **options)
    from ..report.run_report import report_run
    from ..report.summary import run_summary, seeds_summary
    from ..runtime.processes import first_process

    if not first_process():
        return
    for each in done.runs or (done,):
        if not (each.path / "results.json").exists():  # the session's time is up, and the run not at its end
            continue
        page = report_run(each.path, device=options["device"], parts=options["parts"]) if report else None
        print_out(run_summary(each.path))
        if page is not None:
            print_err(f"report: {page}")
    if done.runs:
        print_out(seeds_summary(done.path))


app = single(with_options(train, TrainArguments))
