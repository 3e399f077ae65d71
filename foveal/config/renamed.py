"""Names that parts and their fields had in earlier versions, so that the specs of stored runs are still read."""

from __future__ import annotations

from collections.abc import Mapping

PARTS: Mapping[str, str] = {
    "Cell": "GridCoder",
    "CellError": "YOLOBoxLoss",
    "Centreness": "Centerness",
    "Draw": "WindowSampling",
    "Fit": "Recipe",
    "KeptRows": "Sampled",
    "Margin": "SoftmaxOrSVM",
    "Prediction": "PredictionModule",
    "TwoTaps": "RCNNHead",
}

FIELDS: Mapping[str, Mapping[str, str]] = {  # part -> {earlier name of a field: its name}
    "Anchors": {"centre": "center"},
    "Cells": {"reach": "scale_xy"},
    "Letterbox": {"grey": "gray"},
    "PyramidAnchors": {"centre": "center"},
    "YOLOBoxLoss": {"centre": "center", "pull": "warmup_images", "small": "small_box_weight"},
}


def field_name(cls: type, name: str) -> str:
    """The name of a part's field today, given that or an earlier one."""
    return FIELDS.get(cls.__name__, {}).get(name, name)
