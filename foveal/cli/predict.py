"""``foveal predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    print_out,
    print_skipped,
    progress,
    single,
    write_json,
)
from .predict_words import open_model, sort_words, with_stdin

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..inference.annotations import AnnotationFormat, AnnotationWriter
    from ..inference.predict import PredictedImages, Prediction
    from ..runner.onnx_detector import OnnxDetector

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] SOURCE... [key=value ...]",
        help="A run, checkpoint, alias or weights file; then images, folders, globs, lists; then settings to replace.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the drawings; default: predictions. With --format: a new file or folder."),
]
Score = Annotated[float, typer.Option("--score", help="Score threshold of the detections.")]
Format = Annotated[
    Literal["labelstudio", "cvat", "coco", "yolo", "voc"] | None,
    typer.Option("--format", help="Write annotations to correct in a labeling tool, in place of drawings."),
]
LabelFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="With --format: the labels of the project, which the classes must match: Label Studio's XML, CVAT's JSON "
        "or a list of names.",
    ),
]
ImagePrefix = Annotated[
    str | None,
    typer.Option(
        "--image-prefix",
        help="With --format labelstudio: what the address of an image begins with; default: /data/local-files/?d=",
    ),
]
Link = Annotated[bool, typer.Option("--link", help="With --format: link the images instead of copying them.")]


def predict(
    arguments: Arguments,
    out: Out = None,
    score: Score = 0.5,
    classes: Classes = None,
    json: Json = None,
    format: Format = None,
    labels: LabelFile = None,
    image_prefix: ImagePrefix = None,
    link: Link = False,
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
      foveal predict runs/first photos/ --format labelstudio --labels project.xml --out tasks.json
    """
    model, words, overrides = sort_words(arguments, darknet=cfg is not None or names_file is not None)
    writer = _writer(format, out, model, labels=labels, prefix=image_prefix, link=link)
    folder = out if writer is None else None
    if out is None and json is None:
        folder = Path("predictions")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError("is a file, not a folder", path=folder, fix="Give a folder for the drawings")
    what: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "overrides": overrides}
    options: dict[str, Any] = {"out": folder, "score": score, "classes": names(classes)}

    from ..inference.predict import find_sources

    files = find_sources(with_stdin(words), told=print_err)[:limit]
    detector = open_model(model, what, own_parts(parts), device, precision, proposals)
    _run(detector, files, proposals, options, json, writer)


def _run(
    detector: Detector | OnnxDetector,
    files: list[str],
    proposals: list[Path] | None,
    options: dict[str, Any],
    json: Path | None,
    writer: AnnotationWriter | None,
) -> None:
    """``options`` are those of :func:`foveal.predict`."""
    from ..inference.image_proposals import ImageProposals
    from ..inference.predict import predict as run
    from ..runner.onnx_detector import OnnxDetector

    known = list(options["classes"] or detector.classes)
    if writer is not None:
        writer.label_of(known)
    external = None
    if not isinstance(detector, OnnxDetector):
        with progress("proposing") as update:
            external = ImageProposals.of(detector, files, proposals, progress=update)
    each = None if str(json) == "-" else _print
    with progress("predicting") as update:
        done = run(detector, files, **options, proposals=external, progress=update, each=each)
    write_json([entry.to_dict() for entry in done.images], json)
    print_skipped(done.skipped)
    for name in external.without if external is not None else ():
        print_err(f"{name}: no proposal at all, so nothing can be detected in it")
    where = f", drawings in {options['out']}" if options["out"] is not None else ""
    skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
    print_err(f"{len(done.images)} images{skipped}{where}")
    if writer is not None:
        _write(writer, done, known)


def _print(entry: Prediction) -> None:
    """One line an image."""
    shown = ", ".join(f"{one_line(str(d['label']))} {100 * d['score']:.0f}%" for d in entry.detections.to_list())
    print_out(f"{one_line(entry.image)}: {shown or 'nothing'}")


# ------------------------------------------------------------------------------------------- annotations
def _writer(
    format: AnnotationFormat | None,
    out: Path | None,
    model: str,
    *,
    labels: Path | None,
    prefix: str | None,
    link: bool,
) -> AnnotationWriter | None:
    """Raises :class:`UsageError` for options that do not belong together."""
    if format is None:
        given = {"--labels": labels is not None, "--image-prefix": prefix is not None, "--link": link}
        if alone := [name for name, is_given in given.items() if is_given]:
            raise UsageError(f"{alone[0]} belongs to --format", fix="Give --format too")
        return None
    if out is None:
        what = "a new file, tasks.json" if format == "labelstudio" else "a new folder"
        raise UsageError(f"--format {format} needs --out: {what}", fix="Give --out")
    from ..inference.annotations import AnnotationWriter

    return AnnotationWriter(out, format, labels, Path(model).name, prefix, link)


def _write(writer: AnnotationWriter, done: PredictedImages, classes: list[str]) -> None:
    from ..data.records.findings import fold

    written = writer.write(done, classes)
    for line in fold(written.findings):
        print_err(line)
    if written.unknown:
        listed = ", ".join(one_line(name) for name in written.unknown[:10])
        more = f" and {len(written.unknown) - 10} more" if len(written.unknown) > 10 else ""
        print_err(f"{writer.labels}: no label for {listed}{more}; {written.left_out} detections left out")
    if written.config is not None:
        print_err(f"{written.config}: a labeling configuration with the classes of the detector")
    print_err(f"{written.path}: {writer.format}, {written.images} images, {written.objects} objects")


app = single(predict)
