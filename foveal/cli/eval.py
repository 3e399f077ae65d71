"""``foveal eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import UsageError
from .common import (
    CfgFile,
    Classes,
    Data,
    Device,
    ImagesDir,
    Limit,
    NamesFile,
    Precision,
    ProposalFile,
    Split,
    names,
    note,
    paths,
    progress,
    say,
    single,
    tell_findings,
    write_json,
)

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset
    from ..evaluation import DetectionTable, GroundTruth, Results


def evaluate(
    data: Data,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [key=value ...]",
            help="A run, checkpoint, alias or weights file; not with --detections. Then settings to replace.",
        ),
    ] = None,
    detections: Annotated[
        Path | None, typer.Option("--detections", help="COCO results JSON, or a folder of VOC comp4_det_* files.")
    ] = None,
    split: Split = None,
    protocol: Annotated[Literal["coco", "voc07", "voc10"], typer.Option("--protocol")] = "coco",
    classes: Classes = None,
    images: ImagesDir = None,
    json: Annotated[Path | None, typer.Option("--json", help="The numbers as JSON; - is standard output.")] = None,
    save_detections: Annotated[
        Path | None, typer.Option("--save-detections", help="A .json file (COCO), or a folder (VOC).")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Of a weights file, where it is not clear.")] = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    proposals: ProposalFile = None,
    device: Device = "auto",
    precision: Precision = None,
    limit: Limit = None,
) -> None:
    """Scores a detector, or the detections of any tool, by a named protocol.

    Without --split: val where the data has splits; of a run that divided this data itself, the images that it
    validated on; else the whole set.

    \b
    Example:
      foveal eval runs/first --data my-photos --split test --protocol voc10
      foveal eval yolov3.weights --cfg yolov3.cfg --names coco.names --data coco
      foveal eval --detections results.json --data instances_val.json --json scores.json
    """
    from ..config.overrides import is_override
    from ..data.open import open_dataset

    words = list(arguments or [])
    model = None if not words or is_override(words[0]) else words.pop(0)
    if (model is None) == (detections is None):
        raise UsageError("give a model or --detections, one of the two", fix="Run foveal eval --help for the usage")
    if detections is not None:
        if cfg is not None or names_file is not None:
            raise UsageError("--cfg and --names belong to a model, not to detections")
        if proposals is not None:
            raise UsageError("--proposals belongs to a model, not to detections")
        if words:
            raise UsageError(f"{words[0]!r}: detections have no settings to replace")
        if split is None:
            split = _only_split(paths(data), images)
        dataset = open_dataset(paths(data), split=split, images=images, require_images=False)
        tell_findings(dataset)
        results, truth, found = _score_file(detections, dataset, limit, classes, protocol)
    else:
        assert model is not None
        from ..checkpoints.load import load

        detector = load(
            model, preset=preset, cfg=cfg, names=names_file, device=device, precision=precision, overrides=words
        )
        results, truth, found = _score_model(detector, model, data, split, images, classes, protocol, limit, proposals)
    if str(json) != "-":
        say(results.text())
    write_json(results.to_dict(), json)
    if save_detections is not None:
        from ..evaluation import save_detections as save

        coco = save_detections.suffix.lower() == ".json"
        save(found, truth, save_detections, "coco" if coco else "voc", split=results.split or "val")


def _only_split(data: Path | list[Path], images: Path | None) -> str | None:
    """``val`` where there are split files, which then say what is in it; else the whole set."""
    from ..data.open import open_sources

    return "val" if any(source.splits for source in open_sources(data, images)) else None


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    from dataclasses import replace

    return dataset if limit is None else replace(dataset, records=dataset.records[:limit])


def _score_file(
    file: Path, dataset: Dataset, limit: int | None, classes: str | None, protocol: str
) -> tuple[Results, GroundTruth, DetectionTable]:
    """Detections of images beyond the limit are read, and checked, but not scored."""
    from ..data.records.subsets import select_classes
    from ..evaluation import GroundTruth, read_detections, score_detections

    if classes is not None:
        dataset = select_classes(dataset, names(classes) or [])
    found = read_detections(file, GroundTruth.of(dataset), unknown_classes="error" if classes is None else "drop")
    truth = GroundTruth.of(_limited(dataset, limit), masks=found.masks is not None)
    found = found[found.image < len(truth.images)]
    return score_detections(truth, found, protocol, split=dataset.split), truth, found


def _score_model(
    detector: Detector,
    model: str,
    data: list[Path],
    split: str | None,
    images: Path | None,
    classes: str | None,
    protocol: str,
    limit: int | None,
    proposals: list[Path] | None,
) -> tuple[Results, GroundTruth, DetectionTable]:
    from ..evaluation.scoring import divided_ids, evaluation_set, score_detector
    from ..external_proposals.detector import with_proposals

    where = paths(data)
    dataset = evaluation_set(where, split=split, images=images, divided=divided_ids(model, where))
    dataset = _limited(dataset, limit)
    with progress("proposing") as update:
        dataset = with_proposals(detector, dataset, proposals, progress=update)
    tell_findings(dataset)
    with progress("evaluating") as update:
        scored = score_detector(detector, dataset, protocol=protocol, classes=names(classes), progress=update)
    for error in scored.skipped:
        note(f"skipped: {error}")
    if scored.skipped:
        note(f"{len(scored.skipped)} of {len(dataset)} images could not be read; nothing counts as found there")
    if scored.left_out:
        note(f"classes of the data that the detector does not know, left out: {', '.join(scored.left_out)}")
    return scored.results, scored.truth, scored.found


app = single(evaluate)
