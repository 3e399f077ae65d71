"""Evaluation: COCO and PASCAL VOC metrics, proposal recall, detections of other tools. Importing it needs no torch."""

from .coco import Coco
from .curves import Curve, Curves
from .detections import read_detections, read_text_detections, save_detections
from .diagnosis import diagnose
from .matching import MatchTable, match_table
from .protocols import PROTOCOLS, Results, score_detections
from .recall import ProposalRecall, recall
from .tables import DetectionTable, GroundTruth
from .voc import Voc

__all__ = [
    "PROTOCOLS",
    "Coco",
    "Curve",
    "Curves",
    "DetectionTable",
    "GroundTruth",
    "MatchTable",
    "ProposalRecall",
    "Results",
    "Voc",
    "diagnose",
    "match_table",
    "read_detections",
    "read_text_detections",
    "recall",
    "save_detections",
    "score_detections",
]
