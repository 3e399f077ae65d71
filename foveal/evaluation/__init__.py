"""Evaluation: COCO and PASCAL VOC metrics, proposal recall, detections of other tools. Importing it needs no torch."""

from .coco import Coco
from .curves import Curve, Curves
from .detections import read_detections, read_text_detections, save_detections
from .diagnosis import diagnose
from .matching import MatchTable, match_table
from .protocols import PROTOCOLS, Results, compare_pairs, intervals, pair_influence, score_detections
from .recall import ProposalRecall, recall
from .statistics.comparing import PairComparison, ScoreDifference
from .statistics.error_kinds import ErrorKinds
from .statistics.influence import Influence
from .statistics.intervals import Interval, Intervals
from .tables import DetectionTable, GroundTruth
from .voc import Voc

__all__ = [
    "PROTOCOLS",
    "Coco",
    "Curve",
    "Curves",
    "DetectionTable",
    "ErrorKinds",
    "GroundTruth",
    "Influence",
    "Interval",
    "Intervals",
    "MatchTable",
    "PairComparison",
    "ProposalRecall",
    "Results",
    "ScoreDifference",
    "Voc",
    "compare_pairs",
    "diagnose",
    "intervals",
    "match_table",
    "pair_influence",
    "read_detections",
    "read_text_detections",
    "recall",
    "save_detections",
    "score_detections",
]
