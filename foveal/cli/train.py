"""``foveal train``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..config.overrides import is_override
from ..errors import UsageError
from ..training.arguments import TrainArguments
from .common import print_err, print_out, single
from .options import with_options

Preset = Annotated[
    str | None,
    typer.Argument(
        metavar="PRESET",
        help="Name of a preset, or a run or checkpoint folder; default: auto, which chooses one.",
        show_default=False,
    ),
]
WithReport = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end of the run.")]
Preview = Annotated[
    bool, typer.Option("--preview", help="Draw augmented training images into preview.png, and do not train.")
]
FindLR = Annotated[
    bool, typer.Option("--find-lr", help="Try rising learning rates, suggest one (lr_finder.png), and stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what auto chooses, and train nothing.")]


def train(
    preset: Preset = None,
    report: WithReport = True,
    preview: Preview = False,
    find_lr: FindLR = False,
    dry_run: DryRun = False,
    **options: Any,
) -> None:
    """Trains a detector and leaves a run folder: run.json, metrics.jsonl, results.json, checkpoints, report.html.

    Without a preset, or with auto, the data, the machine and --max-time decide preset and settings; the reasons are
    printed, and the command that trains the same. key=value replaces any setting of the preset (`foveal models PRESET`
    lists them), by path.

    \b
    Example:
      foveal train --data my-photos --max-time 15m
      foveal train retinanet_mini --data my-photos --out runs/first --max-time 30m
      foveal train faster_rcnn_mini --data VOC2012 --classes cat,dog 'rpn.cls_loss=Focal(gamma=1.5)' input.short=600
    """
    if preset is not None and is_override(preset):
        preset, options["overrides"] = None, [preset, *options["overrides"]]
    if preview + find_lr + dry_run > 1:
        raise UsageError("--preview, --find-lr and --dry-run are commands of their own", fix="Give one of them")
    if dry_run:
        _print_plan(preset, options)
        return
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


def _print_plan(preset: str | None, options: dict[str, Any]) -> None:
    from ..training.auto import AUTO, plan

    if preset not in (None, AUTO):
        fix = f"Leave out {preset}, or see its settings: foveal models {preset}"
        raise UsageError("is for the automatic choice", where="--dry-run", fix=fix)
    for line in plan(TrainArguments(**options)).lines():
        print_out(line)


app = single(with_options(train, TrainArguments))
