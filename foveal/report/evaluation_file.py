"""The evaluation of a run as a file: the objects of a dataset, the detections of the run's weights, and the verdicts.

A safetensors file whose header holds the rest as JSON. With it a run can be compared and reported again without the
detector, and without the data. Never imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FovealError
from ..evaluation.tables import DetectionTable, GroundTruth
from ..files.aliases import Ints
from ..files.atomic import write_bytes

FOLDER = "evaluations"  # within a run
SCHEMA = 1
FLAGS = ("crowd", "difficult", "ignore")


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """What one set of weights detected on one dataset. Masks are not held."""

    truth: GroundTruth
    table: DetectionTable
    weights: str  # digest of the checkpoint
    data: str  # fingerprint of the images' ids, sizes and objects
    split: str | None
    hashes: tuple[str, ...]  # (I,) of the content of the images; empty: it could not be read
    seconds: float  # of detecting, for each image, with reading it
    device: str
    version: str  # of foveal
    verdicts: Ints | None = None  # (G,) index into ``verdict_names``; -1: does not count; None: not asked for
    verdict_names: tuple[str, ...] = ()
    verdict_texts: tuple[str, ...] = ()
    skipped: tuple[str, ...] = field(default=())  # images that could not be read, a sentence each

    @property
    def threshold(self) -> float:
        """The score below which the detector drops detections."""
        return self.table.min_score or 0.0

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.truth.images)


def write_evaluation(evaluation: RunEvaluation, path: Path) -> None:
    """Writes the file, complete or not at all. Raises :class:`FovealError` where it cannot be written."""
    from safetensors.numpy import save

    truth, table = evaluation.truth, evaluation.table
    tensors: dict[str, NDArray[Any]] = {
        "objects.image": truth.image,
        "objects.label": truth.label,
        "objects.box": truth.box,
        "objects.area": truth.area,
        "objects.box_area": truth.pixels(),
        "detections.image": table.image.astype(np.int32),
        "detections.label": table.label.astype(np.int32),
        "detections.box": table.box.astype(np.float32),
        "detections.score": table.score.astype(np.float32),
    }
    flags = zip(FLAGS, (truth.crowd, truth.difficult, truth.ignore), strict=True)
    tensors |= {f"objects.{name}": values.view(np.uint8) for name, values in flags}
    if truth.sizes is not None:
        tensors["sizes"] = truth.sizes
    if evaluation.verdicts is not None:
        tensors["objects.verdict"] = evaluation.verdicts
    header = {
        "schema": SCHEMA,
        "images": truth.images,
        "files": truth.files or (),
        "classes": truth.classes,
        "threshold": table.min_score,
        "weights": evaluation.weights,
        "data": evaluation.data,
        "split": evaluation.split,
        "hashes": evaluation.hashes,
        "seconds": evaluation.seconds,
        "device": evaluation.device,
        "version": evaluation.version,
        "verdict_names": evaluation.verdict_names,
        "verdict_texts": evaluation.verdict_texts,
        "skipped": evaluation.skipped,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(header)  # ASCII: names that are no text survive
    write_bytes(path, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, {"foveal_evaluation": text}))


def read_evaluation(path: Path) -> RunEvaluation | None:
    """The evaluation in a file; ``None``: there is none, or one of another schema.

    Raises :class:`FovealError` for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})["foveal_evaluation"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return None if header["schema"] != SCHEMA else _evaluation(header, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, FovealError) as error:
        raise FovealError(
            f"not an evaluation of a run ({error})", path=path, fix="Delete it: it is made again when it is needed"
        ) from error


def _evaluation(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> RunEvaluation:
    truth = GroundTruth.build(
        header["images"],
        header["classes"],
        tensors["objects.image"],
        tensors["objects.label"],
        tensors["objects.box"],
        area=tensors["objects.area"],
        box_area=tensors["objects.box_area"],
        crowd=tensors["objects.crowd"],
        difficult=tensors["objects.difficult"],
        ignore=tensors["objects.ignore"],
        sizes=tensors.get("sizes"),
        files=header["files"] or None,
    )
    table = DetectionTable.build(
        tensors["detections.image"],
        tensors["detections.label"],
        tensors["detections.box"],
        tensors["detections.score"],
    )
    table.check_against(truth)
    return RunEvaluation(
        truth,
        replace(table, min_score=header["threshold"]),
        weights=header["weights"],
        data=header["data"],
        split=header["split"],
        hashes=tuple(header["hashes"]),
        seconds=header["seconds"],
        device=header["device"],
        version=header["version"],
        verdicts=tensors.get("objects.verdict"),
        verdict_names=tuple(header["verdict_names"]),
        verdict_texts=tuple(header["verdict_texts"]),
        skipped=tuple(header["skipped"]),
    )
