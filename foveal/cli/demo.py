"""``foveal demo``."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FovealError
from .common import Device, Precision, print_err, print_out, progress, seconds, single, write_text

PRESET = "faster_rcnn_mini"
IMAGES = 2200
VALIDATE = 10  # one of this many images is for validation
SIDE = 160  # pixels
LIMIT = "7m"  # of training; with the installation, data and report it stays under ten minutes on two cores
# The backbone is trained from scratch, which takes many images: a narrower neck, fewer and smaller regions.
OVERRIDES = (
    f"input.short={SIDE}",
    "neck.channels=64",
    "pool.size=5",
    "roi.sampler=Balanced(64, 0.5)",
    "train_proposals=Counts(200, 200)",
    "fit.batch=8",
    "fit.lr=0.0025",
    "fit.val_every=4",  # two on the way and one at the end: a validation takes eight seconds
)
MARK = ".demo"  # a folder that demo made, and may replace


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder; that of an earlier demo is replaced.")] = Path(
        "runs/demo"
    ),
    images: Annotated[int, typer.Option("--images", min=10, help="Number of images to draw.")] = IMAGES,
    preset: Annotated[str, typer.Option("--preset", help="Preset to train.")] = PRESET,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Number of epochs; overrides the recipe's.")
    ] = None,
    max_time: Annotated[str, typer.Option("--max-time", help="Time limit of the training, as in 7m.")] = LIMIT,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of data and training.")] = 0,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Draws a dataset, trains a small detector on it, scores it and writes a report.

    \b
    Example:
      foveal demo --out runs/demo
    """
    limit = seconds(max_time)
    began = time.monotonic()
    _clear(out)
    _draw(out, images, seed)
    from ..report.run_report import report_run
    from ..report.summary import run_summary
    from ..training.run import train

    train(
        preset,
        data=out / "data",
        out=out,
        epochs=epochs,
        max_time=limit,
        seed=seed,
        device=device,
        precision=precision or "auto",
        overrides=OVERRIDES if preset == PRESET else (),
    )
    page = report_run(out, device=device)
    print_out(run_summary(out))
    print_out(f"report: {page}")
    print_err(f"{(time.monotonic() - began) / 60:.1f} minutes")


def _draw(out: Path, images: int, seed: int) -> None:
    from ..data.synthetic.shapes import make_shapes

    write_text("made by foveal demo, which may replace this folder\n", out / MARK)
    splits = {"train": images - images // VALIDATE, "val": images // VALIDATE}
    with progress("drawing") as update:
        made = make_shapes(out / "data", splits=splits, size=(SIDE, SIDE), seed=seed, masks=False, progress=update)
    print_err(f"{made.path}: {sum(made.images.values())} images drawn, {sum(made.objects.values())} objects")


def _clear(out: Path) -> None:
    """Removes the folder of an earlier demo, and refuses any other."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MARK).is_file():
        raise FovealError("holds something that demo did not make", path=out, fix="Give another folder with --out")
    shutil.rmtree(out)


app = single(demo)
