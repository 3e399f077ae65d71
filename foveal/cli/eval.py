"""``foveal eval``. With --detections it never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from .common import (
    BoxConvention,
    CfgFile,
    Classes,
    Data,
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
    from ..evaluation import Coco, DetectionTable, GroundTruth, Results, Voc


Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] [key=value ...]",
        help="A run, checkpoint, alias or weights file (not with --detections), then settings to replace.",
    ),
]
DetectionFile = Annotated[
    Path | None,
    typer.Option(
        "--detections",
        help="Score these instead: COCO results, JSON of predict, JSON lines, CSV, or a folder of comp4_det_* files.",
    ),
]
Protocol = Annotated[Literal["coco", "voc07", "voc10"], typer.Option("--protocol", help="Protocol to score by.")]
ShowIntervals = Annotated[
    bool, typer.Option("--intervals/--no-intervals", help="Print the 95 % interval of every score beside it.")
]
ShowErrors = Annotated[
    bool, typer.Option("--errors", help="Print how many detections are false and objects missed, by kind of error.")
]
CountDropped = Annotated[
    bool,
    typer.Option("--count-dropped", help="Count objects without area, outside the image or repeated as pycocotools."),
]
MaxDets = Annotated[
    int | None,
    typer.Option("--max-dets", help="Detections of a class that count in an image (coco; 100).", min=10),
]
SaveTo = Annotated[
    Path | None,
    typer.Option("--save-detections", help="Write the detections to a .json file (COCO), or to a folder (VOC)."),
]


def evaluate(
    data: Data,
    arguments: Arguments = None,
    detections: DetectionFile = None,
    split: Split = None,
    protocol: Protocol = "coco",
    classes: Classes = None,
    convention: BoxConvention = None,
    images: ImagesDir = None,
    json: Json = None,
    save_detections: SaveTo = None,
    intervals: ShowIntervals = True,
    errors: ShowErrors = False,
    preset: PresetOf = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    device: Device = "auto",
    precision: Precision = None,
    limit: Limit = None,
    count_dropped: CountDropped = False,
    max_dets: MaxDets = None,
) -> None:
    """Scores a detector, or the detections of any tool, by a named protocol.

    Without --split: val where the data has splits; for a run that divided this data itself, the images that it
    validated on; else the whole set.

    \b
    Example:
      foveal eval runs/first --data my-photos --split test --protocol voc10
      foveal eval yolov3.weights --cfg yolov3.cfg --names coco.names --data coco
      foveal eval --detections results.json --data instances_val.json --json scores.json
      foveal eval --detections results.json --data cells.json --max-dets 500 --count-dropped
    """
    from ..config.overrides import is_override

    words = list(arguments or [])
    model = None if not words or is_override(words[0]) else words.pop(0)
    if (model is None) == (detections is None):
        raise UsageError("give a model or --detections, one of the two", fix="Run foveal eval --help for the usage")
    shared: dict[str, Any] = {"data": paths(data), "split": split, "images": images}
    shared |= {"protocol": _protocol(protocol, max_dets), "count_dropped": count_dropped}
    shared |= {"classes": names(classes), "limit": limit, "convention": convention}
    if detections is not None:
        _refuse(cfg or names_file, proposals, words)
        results, truth, table = _score_file(detections, **shared)
    else:
        options: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "device": device}
        options |= {"precision": precision, "overrides": words, "parts": own_parts(parts)}
        results, truth, table = _score_model(str(model), options, proposals, shared)
    more = {"intervals": intervals, "errors": errors}
    if str(json) != "-":
        print_out(results.text(**more))
    if json is not None:
        write_json(results.to_dict(**more), json)
    if save_detections is not None:
        _save(table, truth, save_detections, results.split or "val")


def _protocol(name: str, max_dets: int | None) -> Coco | Voc:
    """The protocol, for more detections of an image if asked for. Raises :class:`UsageError` where it has no limit."""
    from ..evaluation.protocols import resolve

    if max_dets is None:
        return resolve(name)
    if name != "coco":
        raise UsageError(f"--max-dets belongs to the protocol coco; {name} counts all detections", fix="Leave it out")
    return resolve(name, max_dets=(1, 10, max_dets))


def _save(table: DetectionTable, truth: GroundTruth, target: Path, split: str) -> None:
    """To a COCO file or VOC files."""
    from ..evaluation import save_detections

    save_detections(table, truth, target, "coco" if target.suffix.lower() == ".json" else "voc", split=split)


def _refuse(darknet: Path | None, proposals: list[Path] | None, words: list[str]) -> None:
    """What belongs to a model and not to detections."""
    if darknet is not None:
        raise UsageError("--cfg and --names belong to a model, not to detections")
    if proposals is not None:
        raise UsageError("--proposals belongs to a model, not to detections")
    if words:
        raise UsageError(f"{words[0]!r}: detections have no settings to replace")


def _score_file(
    file: Path,
    data: Path | list[Path],
    split: str | None,
    images: Path | None,
    protocol: Coco | Voc,
    classes: list[str] | None,
    limit: int | None,
    convention: str | None,
    count_dropped: bool,
) -> tuple[Results, GroundTruth, DetectionTable]:
    """Detections of images beyond the limit are read, and checked, but not scored."""
    from ..data.open import open_dataset, open_sources
    from ..data.records.subsets import select_classes
    from ..evaluation import GroundTruth, read_detections, score_detections

    if split is None:  # where there are split files, they define what is in it
        split = "val" if any(source.splits for source in open_sources(data, images)) else None
    dataset = open_dataset(data, split=split, images=images, require_images=False, convention=convention)
    print_findings(dataset)
    if classes is not None:
        dataset = select_classes(dataset, classes)
    unknown: Literal["error", "drop"] = "error" if classes is None else "drop"
    table = read_detections(file, GroundTruth.of(dataset), unknown_classes=unknown, on_note=print_err)
    truth = GroundTruth.of(limited(dataset, limit), masks=table.masks is not None, count_dropped=count_dropped)
    table = table[table.image < len(truth.images)]
    return score_detections(truth, table, protocol, split=dataset.split), truth, table


def _score_model(
    model: str, options: dict[str, Any], proposals: list[Path] | None, shared: dict[str, Any]
) -> tuple[Results, GroundTruth, DetectionTable]:
    """Reports on standard error what is not in the score."""
    from ..checkpoints.load import load
    from ..evaluation.scoring import score_model

    detector = load(model, **options)
    print_notes(detector.spec)
    scored = score_model(detector, source=model, proposals=proposals, on_data=print_findings, task=progress, **shared)
    print_skipped(scored.skipped)
    if scored.skipped:
        count = f"{len(scored.skipped)} of {len(scored.truth.images)}"
        print_err(f"{count} images could not be read; they count as images without detections")
    if scored.left_out:
        print_err(f"classes of the data that the detector does not know, left out: {', '.join(scored.left_out)}")
    return scored.results, scored.truth, scored.table


app = single(evaluate)
