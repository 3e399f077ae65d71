"""``foveal predict``."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .common import (
    CfgFile,
    Classes,
    Device,
    Json,
    Limit,
    NamesFile,
    OwnParts,
    Precision,
    PresetOf,
    ProposalFile,
    names,
    own_parts,
    print_err,
    print_out,
    progress,
    single,
    write_json,
)

if TYPE_CHECKING:
    from ..inference.predict import Prediction

DEFAULT_MODEL = "accurate"
WEIGHTS = (".pth", ".pt", ".safetensors", ".th", ".weights", ".ckpt")


Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] SOURCE... [key=value ...]",
        help="A run, checkpoint, alias or weights file; then images, folders, globs; then settings to replace.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the drawings; default: predictions.")]
Score = Annotated[float, typer.Option("--score", help="Score threshold of the detections.")]


def predict(
    arguments: Arguments,
    out: Out = None,
    score: Score = 0.5,
    classes: Classes = None,
    json: Json = None,
    preset: PresetOf = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    device: Device = "auto",
    precision: Precision = None,
    limit: Limit = None,
) -> None:
    """Detects objects in images, folders and globs: drawings into --out, detections into --json.

    The first word is the model if it is an alias, a run or checkpoint folder, or a weights file; else the model is
    `accurate`, a Faster R-CNN for the 80 classes of COCO (`foveal weights fetch accurate` downloads it once).

    \b
    Example:
      foveal predict runs/first photo.jpg holiday/ 'more/**/*.png' --out drawings --json found.json
      foveal predict runs/first photo.jpg --score .3 --classes cat,dog roi.suppress.iou=.4
      foveal predict yolov3.weights dog.jpg --cfg yolov3.cfg --names coco.names
    """
    model, words, overrides = _sorted(arguments, darknet=cfg is not None or names_file is not None)
    chosen = names(classes)
    if out is None and json is None:
        out = Path("predictions")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, fix="Give a folder for the drawings")

    from ..inference.predict import ImageProposals, find_sources
    from ..inference.predict import predict as run

    files = find_sources(words)[:limit]
    from ..checkpoints.load import load

    what: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "parts": own_parts(parts)}
    detector = load(model, **what, device=device, precision=precision, overrides=overrides)
    with progress("proposing") as update:
        external = ImageProposals.of(detector, files, proposals, progress=update)
    options: dict[str, Any] = {"out": out, "score": score, "classes": chosen, "proposals": external}
    with progress("predicting") as update:
        done = run(detector, files, **options, progress=update, each=None if str(json) == "-" else _print)
    write_json([entry.to_dict() for entry in done.images], json)
    for error in done.skipped:
        print_err(f"skipped: {error}")
    for name in external.without if external is not None else ():
        print_err(f"{name}: no proposal at all, so nothing can be detected in it")
    where = f", drawings in {out}" if out is not None else ""
    skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
    print_err(f"{len(done.images)} images{skipped}{where}")


def _sorted(arguments: list[str], darknet: bool) -> tuple[str, list[str], list[str]]:
    """Model, sources and overrides. ``darknet``: the first word is their weights, whatever its name."""
    from ..config.overrides import is_override

    overrides = [word for word in arguments if is_override(word) and not Path(word).exists()]
    words = [word for word in arguments if word not in overrides]
    model = words.pop(0) if words and (darknet or _is_model(words[0])) else DEFAULT_MODEL
    if not words:
        raise UsageError("no image, folder or pattern is given", fix="Run foveal predict --help for the usage")
    return model, words, overrides


def _is_model(word: str) -> bool:
    """An alias, a run or checkpoint folder, or a weights file. A file or folder that exists is no alias."""
    from ..weights.cache import is_alias

    path = Path(word)
    if path.is_dir():
        inside = ("run.json", "checkpoints", "model.safetensors", "pytorch_model.bin", "config.json", "SHA256SUMS")
        return any((path / name).exists() for name in inside)
    if path.exists():
        return path.suffix.lower() in WEIGHTS
    bare = path.suffix == "" and not glob.has_magic(word)  # a wrong name is reported with the nearest ones
    return bare or is_alias(word) or path.suffix.lower() in WEIGHTS


def _print(entry: Prediction) -> None:
    """One line an image."""
    shown = ", ".join(f"{d['label']} {100 * d['score']:.0f}%" for d in entry.detections.to_list())
    print_out(f"{entry.image}: {shown or 'nothing'}")


app = single(predict)
