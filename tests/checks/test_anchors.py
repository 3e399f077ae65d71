"""Fitting anchors to a dataset: the function returns the clustering's sizes in network pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveal import presets
from foveal.checks.anchors import fit_anchors, input_sides
from foveal.data.anchor_clusters import cluster, mean_iou
from foveal.data.open import open_dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import UsageError


def test_anchors_match_the_clustering(tmp_path: Path) -> None:
    make_shapes(tmp_path / "d", images=12, size=(96, 96), masks=False)
    dataset = open_dataset(tmp_path / "d", split="train")
    spec = presets.get("yolo_v3_mini")
    sides = input_sides(spec, dataset)
    width = spec.input.size(96, 96)[1]
    box = dataset.records[0].boxes[0]
    np.testing.assert_allclose(sides[0], (box[2:] - box[:2]) * width / 96)

    fit = fit_anchors(spec, dataset, largest=3, seed=2)
    assert fit.objects == len(sides) and list(fit.by_count) == [1, 2, 3]
    assert fit.by_count[2] == cluster(sides, 2, seed=2).mean_iou
    assert fit.by_count[1] < fit.by_count[2] < fit.by_count[3] < fit.fitted
    shapes = np.array([shape for level in fit.cells.shapes for shape in level])
    assert fit.cells.per_location == spec.cells.per_location  # type: ignore[attr-defined]
    assert fit.fitted == pytest.approx(mean_iou(sides, shapes)) and fit.fitted > fit.current
    again = fit_anchors(replace(spec, cells=fit.cells), dataset, largest=1)  # type: ignore[call-arg]
    assert again.current == pytest.approx(fit.fitted)


def test_detectors_without_anchors_are_rejected(tmp_path: Path) -> None:
    make_shapes(tmp_path / "d", images=4, size=(64, 64), masks=False)
    dataset = open_dataset(tmp_path / "d", split="train")
    for name in ("retinanet_mini", "yolo_v1_mini"):
        with pytest.raises(UsageError, match="no anchors"):
            fit_anchors(presets.get(name), dataset)
