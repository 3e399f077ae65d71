"""``foveal predict``."""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..files.text import one_line
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
    print_notes,
    print_out,
    print_skipped,
    progress,
    single,
    write_json,
)

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..inference.predict import Prediction
    from ..runner.onnx_detector import OnnxDetector

DEFAULT_MODEL = "accurate"
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] SOURCE... [key=value ...]",
        help="A run, checkpoint, alias or weights file; then images, folders, globs, lists; then settings to replace.",
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
    """Detects objects in images, folders, globs and lists: drawings into --out, detections into --json.

    The first word is the model if it is an alias, a run or checkpoint folder, or a weights file; else the model is
    `accurate`, a Faster R-CNN for the 80 classes of COCO (`foveal weights fetch accurate` downloads it once). A .txt
    file lists the paths of images, one a line, and - takes such a list from standard input.

    A file of `foveal export` (.onnx) runs without torch: `pip install 'foveal[onnx]'` brings what it needs.

    \b
    Example:
      foveal predict runs/first photo.jpg holiday/ 'more/**/*.png' --out drawings --json found.json
      foveal predict runs/first photo.jpg --score .3 --classes cat,dog roi.suppress.iou=.4
      foveal predict yolov3.weights dog.jpg --cfg yolov3.cfg --names coco.names
      foveal predict first.onnx photo.jpg
      find . -name '*.jpg' | foveal predict runs/first - --json found.json
    """
    model, words, overrides = _sorted(arguments, darknet=cfg is not None or names_file is not None)
    chosen = names(classes)
    if out is None and json is None:
        out = Path("predictions")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, fix="Give a folder for the drawings")

    from ..inference.image_proposals import ImageProposals
    from ..inference.predict import find_sources
    from ..inference.predict import predict as run
    from ..runner.onnx_detector import OnnxDetector

    files = find_sources(_with_stdin(words), told=print_err)[:limit]
    what: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "overrides": overrides}
    detector = _open(model, what, own_parts(parts), device, precision, proposals)
    external = None
    if not isinstance(detector, OnnxDetector):
        with progress("proposing") as update:
            external = ImageProposals.of(detector, files, proposals, progress=update)
    options: dict[str, Any] = {"out": out, "score": score, "classes": chosen, "proposals": external}
    with progress("predicting") as update:
        done = run(detector, files, **options, progress=update, each=None if str(json) == "-" else _print)
    write_json([entry.to_dict() for entry in done.images], json)
    print_skipped(done.skipped)
    for name in external.without if external is not None else ():
        print_err(f"{name}: no proposal at all, so nothing can be detected in it")
    where = f", drawings in {out}" if out is not None else ""
    skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
    print_err(f"{len(done.images)} images{skipped}{where}")


def _open(
    model: str,
    what: dict[str, Any],
    parts: tuple[type, ...],
    device: str,
    precision: str | None,
    proposals: list[Path] | None,
) -> Detector | OnnxDetector:
    """``what``: settings of a model, which a file of ``foveal export`` has no use for."""
    from ..inference.exported import is_exported, open_exported

    if is_exported(model):
        if given := [name for name, value in {**what, "proposals": proposals}.items() if value]:
            raise UsageError(f"the settings of an exported file are fixed, and {given[0]} is given", path=model)
        return open_exported(model)
    from ..checkpoints.load import load

    detector = load(model, **what, parts=parts, device=device, precision=precision)
    print_notes(detector.spec)
    return detector


def _sorted(arguments: list[str], darknet: bool) -> tuple[str, list[str], list[str]]:
    """Model, sources and overrides. ``darknet``: the first word is their weights, whatever its name."""
    from ..config.overrides import without_overrides

    words, overrides = without_overrides(arguments)
    model = words.pop(0) if words and (darknet or _is_model(words[0])) else DEFAULT_MODEL
    for word in words:
        if _is_model_for_sure(word):
            raise UsageError(f"{word} is a model, and stands among the images", fix="Name one model, before the images")
    if not words:
        raise UsageError("no image, folder or pattern is given", fix="Run foveal predict --help for the usage")
    return model, words, overrides


def _with_stdin(words: list[str]) -> list[str]:
    """The words, with the names on standard input in place of ``-``."""
    from ..inference.sources import read_list

    out: list[str] = []
    for word in words:
        out += read_list(sys.stdin.buffer.read(), "standard input", Path()) if word == "-" else [word]
    return out


def _is_model(word: str) -> bool:
    """An alias, a run or checkpoint folder, or a weights file. A file or folder that exists is no alias."""
    from ..weights.cache import is_alias
    from ..weights.reading.kinds import MODEL_SUFFIXES, WEIGHTS_SUFFIXES

    path = Path(word)
    if path.is_dir():  # with weights and no images it is another tool's run, whose files are told
        endings = {file.suffix.lower() for file in path.glob("*.*")}
        return _is_model_for_sure(word) or bool(endings & {*WEIGHTS_SUFFIXES} and not endings & {*_IMAGES})
    if path.exists() or is_alias(word):
        return _is_model_for_sure(word)
    bare = path.suffix == "" and not glob.has_magic(word) and word != "-"  # a wrong name: the nearest ones are told
    return bare or path.suffix.lower() in MODEL_SUFFIXES


def _is_model_for_sure(word: str) -> bool:
    from ..weights.cache import is_alias
    from ..weights.reading.kinds import MODEL_SUFFIXES

    path = Path(word)
    if path.is_dir():
        inside = ("run.json", "checkpoints", "model.safetensors", "pytorch_model.bin", "config.json", "SHA256SUMS")
        return any((path / name).exists() for name in inside)
    return path.suffix.lower() in MODEL_SUFFIXES if path.exists() else is_alias(word)


def _print(entry: Prediction) -> None:
    """One line an image."""
    shown = ", ".join(f"{one_line(str(d['label']))} {100 * d['score']:.0f}%" for d in entry.detections.to_list())
    print_out(f"{one_line(entry.image)}: {shown or 'nothing'}")


app = single(predict)
