"""``foveal predict``."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .common import (
    CfgFile,
    Classes,
    Device,
    NamesFile,
    Precision,
    ProposalFile,
    names,
    note,
    progress,
    say,
    single,
    write_json,
)

if TYPE_CHECKING:
    from ..inference.predict import Prediction

DEFAULT_MODEL = "accurate"
WEIGHTS = (".pth", ".pt", ".safetensors", ".th", ".weights", ".ckpt")


def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCE... [key=value ...]",
            help="A run, checkpoint, alias or weights file; then images, folders, globs; then settings to replace.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where drawings go. Default: predictions.")] = None,
    score: Annotated[float, typer.Option("--score", help="Show detections from this score on.")] = 0.5,
    classes: Classes = None,
    json: Annotated[Path | None, typer.Option("--json", help="Detections as JSON; - is standard output.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Of a weights file, where it is not clear.")] = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    proposals: ProposalFile = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Detects objects in images, folders and globs: drawings into --out, detections into --json.

    The first word is the model if it is an alias, a run or checkpoint folder, or a weights file; else the model is
    `accurate`, a Faster R-CNN for the 80 classes of COCO (`foveal weights fetch accurate` gets it once).

    \b
    Example:
      foveal predict runs/first photo.jpg holiday/ 'more/**/*.png' --out drawings --json found.json
      foveal predict runs/first photo.jpg --score .3 --classes cat,dog roi.suppress.iou=.4
      foveal predict yolov3.weights dog.jpg --cfg yolov3.cfg --names coco.names
    """
    from ..config.overrides import is_override

    overrides = [word for word in arguments if is_override(word) and not Path(word).exists()]
    words = [word for word in arguments if word not in overrides]
    darknet = cfg is not None or names_file is not None  # then the first word is their weights, whatever its name
    model = words.pop(0) if words and (darknet or _is_model(words[0])) else DEFAULT_MODEL
    if not words:
        raise UsageError("no image, folder or pattern is given", fix="Run foveal predict --help for the usage")
    wanted = names(classes)
    if out is None and json is None:
        out = Path("predictions")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, fix="Name a folder for the drawings")

    from ..inference.predict import Outside, find_sources
    from ..inference.predict import predict as run

    files = find_sources(words)
    from ..checkpoints.load import load

    detector = load(
        model, preset=preset, cfg=cfg, names=names_file, device=device, precision=precision, overrides=overrides
    )
    with progress("proposing") as update:
        outside = Outside.of(detector, files, proposals, progress=update)
    with progress("predicting") as update:
        done = run(
            detector, files, out=out, score=score, classes=wanted, proposals=outside, progress=update, each=_tell(json)
        )
    write_json([entry.to_dict() for entry in done.images], json)
    for error in done.skipped:
        note(f"skipped: {error}")
    for name in outside.without if outside is not None else ():
        note(f"{name}: no proposal at all, so nothing can be found here")
    where = f", drawings in {out}" if out is not None else ""
    skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
    note(f"{len(done.images)} images{skipped}{where}")


def _is_model(word: str) -> bool:
    """An alias, a run or checkpoint folder, or a weights file. A file or folder that exists is no alias."""
    from ..weights.cache import is_alias

    path = Path(word)
    if path.is_dir():
        inside = ("run.json", "checkpoints", "model.safetensors", "pytorch_model.bin", "config.json", "SHA256SUMS")
        return any((path / name).exists() for name in inside)
    if path.exists():
        return path.suffix.lower() in WEIGHTS
    bare = path.suffix == "" and not glob.has_magic(word)  # a name that is wrong is told with the nearest ones
    return bare or is_alias(word) or path.suffix.lower() in WEIGHTS


def _tell(json: Path | None) -> Callable[[Prediction], None] | None:
    """Prints one line a picture, unless JSON goes to the same place."""

    def tell(entry: Prediction) -> None:
        found = ", ".join(f"{d['label']} {100 * d['score']:.0f}%" for d in entry.detections.to_list())
        say(f"{entry.image}: {found or 'nothing'}")

    return None if str(json) == "-" else tell


app = single(predict)
