"""``foveal inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..files.text import one_line
from .common import (
    BoxConvention,
    CfgFile,
    Classes,
    Device,
    ImagesDir,
    Json,
    Limit,
    NamesFile,
    OwnParts,
    Precision,
    PresetOf,
    ProposalFile,
    Split,
    limited,
    names,
    own_parts,
    paths,
    print_err,
    print_findings,
    print_notes,
    print_out,
    print_skipped,
    progress,
    single,
    write_json,
)

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL [IMAGE...] [key=value ...]",
        help="A run, checkpoint, alias or weights file; then images, folders, globs; then settings to replace.",
        show_default=False,
    ),
]
DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Dataset with the objects; several are joined.", show_default=False),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the pages (default: inspection), or the .html file of a single one. Without images: the "
        "page of the miss funnel, which is written only where --out is given.",
        show_default=False,
    ),
]


def inspect(
    arguments: Arguments,
    data: DataOption = None,
    split: Split = None,
    out: Out = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    images: ImagesDir = None,
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
    """Looks inside a detector: one page an image, or where a whole set loses its objects.

    With images: a page for each, which opens in any browser without a network: the image as the network sees it, priors
    and their assignment, score maps, proposals, RoIs, what NMS removed and by whom, and the result. Its sliders decide
    again as the detector would. With --data the page also knows the objects, and gives each a verdict.

    Without images: the miss funnel of --data, the verdicts on all objects; the lost ones add up to 1 - recall.

    \b
    Example:
      foveal inspect runs/first photo.jpg holiday/ --out pages
      foveal inspect runs/first my-photos/JPEGImages/007.jpg --data my-photos
      foveal inspect runs/first --data my-photos --split val --out funnel.html --json funnel.json
    """
    from ..checkpoints.load import load
    from ..config.overrides import without_overrides

    sources, overrides = without_overrides(arguments[1:])
    if not sources and data is None:
        raise UsageError("neither an image nor --data is given", fix="Run foveal inspect --help for the usage")
    if sources and json is not None:
        raise UsageError("--json is the result of a dataset; an image has a page", fix="Leave the images out")
    what: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "parts": own_parts(parts)}
    detector = load(arguments[0], **what, device=device, precision=precision, overrides=overrides)
    print_notes(detector.spec)
    options: dict[str, Any] = {"split": split, "images": images, "convention": convention}
    if sources:
        known = None if data is None else _known(detector, data, names(classes), options)
        _pages(detector, arguments[0], sources, known, proposals, out, limit)
    else:
        _funnel(detector, arguments[0], data or [], names(classes), proposals, options, out, json, limit)


def _known(detector: Detector, data: list[Path], classes: list[str] | None, options: dict[str, Any]) -> Dataset:
    """The dataset that the objects of the images come from."""
    from ..data.open import open_dataset
    from ..inspection.funnel import for_detector

    dataset = open_dataset(paths(data), **options)
    print_findings(dataset)
    return for_detector(detector, dataset, classes)


def _pages(
    detector: Detector,
    model: str,
    sources: list[str],
    known: Dataset | None,
    proposals: list[Path] | None,
    out: Path | None,
    limit: int | None,
) -> None:
    """A page for each image."""
    from ..data.images.load import ImageError, load_image
    from ..errors import FovealError
    from ..inference.image_proposals import ImageProposals
    from ..inference.predict import find_sources
    from ..inspection.funnel import record_of
    from ..inspection.page import page_paths, write_inspection
    from ..inspection.traced import trace_image

    files = find_sources(sources, told=print_err)[:limit]
    targets = page_paths(files, out or Path("inspection"))
    with progress("proposing") as update:
        external = ImageProposals.of(detector, files, proposals, progress=update)
    skipped: list[FovealError] = []
    for name, target in zip(files, targets, strict=True):
        try:
            array = load_image(name)
        except ImageError as error:
            skipped.append(error)
            continue
        record = None if known is None else record_of(known, Path(name))
        notes = [] if known is None or record is not None else ["The dataset does not hold this image."]
        traced = trace_image(detector, array, record, None if external is None else external.boxes(name, array))
        write_inspection(traced, array, target, Path(name).name, _short(model), notes)
        size = target.stat().st_size / 1e6
        print_out(f"{one_line(name)}: {one_line(str(target))} ({size:.1f} MB)")
        for note in notes:
            print_err(f"{one_line(name)}: {note}")
    if len(files) == len(skipped) == 1:
        raise skipped[0]
    print_skipped(skipped)
    if len(skipped) == len(files):
        raise FovealError("none of the images can be read")


def _short(model: str) -> str:
    """What a page calls a model: the page may be shared, and the folders of this machine are nobody's business."""
    return Path(model).name if Path(model).is_absolute() else model


def _funnel(
    detector: Detector,
    model: str,
    data: list[Path],
    classes: list[str] | None,
    proposals: list[Path] | None,
    options: dict[str, Any],
    out: Path | None,
    json: Path | None,
    limit: int | None,
) -> None:
    """The verdicts on all objects of a dataset."""
    from ..evaluation.scoring import divided_ids, evaluation_set
    from ..external_proposals.detector import with_proposals
    from ..inspection.funnel import miss_funnel
    from ..inspection.funnel_page import write_funnel

    where = paths(data)
    options |= {"divided": divided_ids(model, where), "trained_on": detector.trained_on}
    dataset = limited(evaluation_set(where, **options), limit)
    with progress("proposing") as update:
        dataset = with_proposals(detector, dataset, proposals, progress=update)
    print_findings(dataset)
    with progress("inspecting") as update:
        funnel = miss_funnel(detector, dataset, classes=classes, progress=update)
    print_skipped(funnel.skipped)
    if str(json) != "-":
        print_out(funnel.text())
    write_json(funnel.to_dict(), json)
    if out is not None:
        target = out if out.suffix.lower() == ".html" else out / "funnel.html"
        write_funnel(funnel, target, _short(model))
        print_err(f"page: {target}")
    if funnel.skipped:
        print_err(f"{len(funnel.skipped)} images could not be read; their objects are not counted")


app = single(inspect)
