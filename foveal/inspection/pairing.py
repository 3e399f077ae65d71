"""Which objects of an image its detections find, by COCO's rules at IoU .5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..boxes import pairwise_iou
from ..data.records.dataset import Dataset, Record
from ..evaluation.matching import assign, match_table, rank_detections
from ..evaluation.tables import DetectionTable, GroundTruth
from ..files.aliases import Bools, Ints
from ..types import Detections

ON = 0.5  # IoU from which a box lies on an object
MAX_DETECTIONS = 100  # of an image and class that count, as in COCO's protocol


@dataclass(frozen=True, eq=False)
class Pairing:
    """Which objects (G,) are counted and found, and which detections (N,) found one, by COCO's rules at IoU .5."""

    counted: Bools
    found: Bools
    hits: Bools
    object: Ints  # (N,) the object that a detection overlaps most, any class


def pair(record: Record, detections: Detections, classes: tuple[str, ...]) -> Pairing:
    """Objects that are crowds, difficult or ignored regions are not counted."""
    truth = GroundTruth.of(Dataset(classes, [record]))
    counted = ~(truth.crowd | truth.difficult | truth.ignore)
    rows = np.flatnonzero(~truth.ignore)
    table = DetectionTable.of([detections])
    scored = truth.scored()
    out = (scored.crowd | scored.difficult)[:, None]
    ranking = rank_detections(table, len(classes), scored.image_rank())
    pairs = match_table(scored, table, floor=ON)
    limited = ranking.rank[pairs.detection] < MAX_DETECTIONS
    pairs = replace(
        pairs, detection=pairs.detection[limited], object=pairs.object[limited], iou=pairs.iou[limited]
    )  # fmt: skip
    matching = assign(pairs, ranking, np.array([ON]), out, scored.crowd)
    found, hits = np.zeros(len(truth), bool), np.zeros(len(table), bool)
    found[rows] = matching.used[:, 0, 0]
    hits[matching.rows] = matching.matched[:, 0, 0]
    overlap = overlaps(torch.from_numpy(table.box), torch.from_numpy(truth.box))
    nearest = overlap.argmax(1).numpy() if len(truth) else np.zeros(len(table), np.int64)
    return Pairing(counted, found & counted, hits, nearest)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4) x (M, 4) -> (N, M) IoU in float64."""
    return pairwise_iou(a.double(), b.double())
