"""Runs to compare without a detector: simulated detections on real image files, with the records that runs have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveal.evaluation import DetectionTable, GroundTruth
from foveal.report.comparison.compared import ComparedRun, RunComparison, compare, compared_run
from foveal.report.comparison.sides import setting_differences, side_groups
from foveal.report.evaluation_file import RunEvaluation
from foveal.report.read_run import RunRecord
from tests.helpers.simulated_runs import Objects, make_objects, make_run

SIZE = (420, 320)  # of the simulated images
TEXTS = ("found", "score too low", "badly placed")


def make_evaluation(truth: GroundTruth, table: DetectionTable, **fields: Any) -> RunEvaluation:
    """An evaluation of these detections."""
    verdicts = np.arange(len(truth)) % len(TEXTS)
    given: dict[str, Any] = {
        "weights": "w",
        "data": "d",
        "split": "val",
        "hashes": tuple(f"{i:012x}" for i in range(len(truth.images))),
        "seconds": 0.04,
        "device": "cpu, 1 threads",
        "version": "0.1.0",
        "verdicts": verdicts,
        "verdict_names": ("found", "score", "place"),
        "verdict_texts": TEXTS,
    }
    return RunEvaluation(truth, replace(table, min_score=0.05), **{**given, **fields})


def make_record(path: Path, spec: str = "RetinaNet(fit=Recipe(lr=0.01))", seed: int = 0, **run: Any) -> RunRecord:
    """The record of a run that has ended."""
    losses = [
        {"epoch": 1, "step": step, "split": "train", "loss": 2 / step, "cls": 1 / step, "lr": 0.01, "seconds_step": 3.0}
        for step in range(1, 9)
    ]
    scores = [{"epoch": 1, "step": step, "split": "val", "loss": 1 / step, "AP": 0.04 * step} for step in (2, 4, 8)]
    record = {"spec": spec, "seed": seed, "arguments": {"data": "shapes"}, "classes": ["a"], **run}
    return RunRecord(path, record, [*losses, *scores], {"protocol": "coco", "AP": 0.3, "steps": 8, "ended": "finished"})


def make_images(folder: Path, objects: Objects) -> GroundTruth:
    """The objects, with an image file for each image in which they are drawn as they are."""
    truth = objects.table
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = []
    for i in range(len(truth.images)):
        pixels = rng.integers(0, 90, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for g in np.flatnonzero(truth.image == i):
            x1, y1, x2, y2 = truth.box[g].astype(int)
            pixels[y1:y2, x1:x2, int(truth.label[g]) % 3] = 230
        files.append(str(folder / f"{i:03d}.jpg"))
        Image.fromarray(pixels).save(files[-1], quality=80)
    sizes = np.array([[SIZE[1] // 8 * 8, SIZE[0] // 8 * 8]] * len(truth.images))
    return replace(truth, files=tuple(files), sizes=sizes)


def make_comparison(
    folder: Path, images: int, sides: dict[str, tuple[float, int]], classes: tuple[str, ...] = ("a", "b", "c")
) -> RunComparison:
    """``sides``: spec -> quality of its detections, and the number of its seeds."""
    rng = np.random.default_rng(3)
    objects = make_objects(rng, images, len(classes))
    truth = replace(make_images(folder / "images", objects), classes=classes)
    runs: list[ComparedRun] = []
    for spec, (quality, seeds) in sides.items():
        for seed in range(seeds):
            record = make_record(folder / f"run-{len(runs)}", spec, seed)
            evaluation = make_evaluation(truth, make_run(rng, objects, quality))
            runs.append(compared_run(record.path.name, record, evaluation, "coco"))
    groups = side_groups([run.record for run in runs])
    first = runs[groups[0][0]].record
    settings = [setting_differences([first, runs[group[0]].record]) for group in groups[1:]]
    return compare([[runs[i] for i in group] for group in groups], settings, ["A note."])
