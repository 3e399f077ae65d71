"""K-means over the shapes of boxes, against a reference loop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from foveal.cli.main import main
from foveal.data.anchor_clusters import cluster, mean_iou
from foveal.data.open import open_dataset
from foveal.errors import FovealError


def plain_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    both = min(a[0], b[0]) * min(a[1], b[1])
    return both / (a[0] * a[1] + b[0] * b[1] - both)


def plain_cluster(boxes: list[tuple[float, float]], k: int, seed: int, runs: int) -> float:
    """Equal initial centers; everything else box by box. Returns the best mean IoU."""
    distinct = sorted(set(boxes))
    rng, best = np.random.default_rng(seed), 0.0
    for _ in range(runs):
        shapes = [distinct[i] for i in rng.choice(len(distinct), k, replace=False)]
        owners: list[int] = []
        while True:
            new = []
            for box in boxes:
                overlaps = [plain_iou(box, shape) for shape in shapes]
                new.append(overlaps.index(max(overlaps)))
            if new == owners:
                break
            owners = new
            for j in range(k):
                mine = [box for box, owner in zip(boxes, owners, strict=True) if owner == j]
                if mine:
                    shapes[j] = (math.fsum(b[0] for b in mine) / len(mine), math.fsum(b[1] for b in mine) / len(mine))
        best = max(best, sum(max(plain_iou(box, s) for s in shapes) for box in boxes) / len(boxes))
    return best


def test_matches_a_reference_loop_on_bccd(data: Path) -> None:
    dataset = open_dataset(data / "bccd", split="trainval")
    sides = np.concatenate([r.boxes[:, 2:] - r.boxes[:, :2] for r in dataset.records])[::7]
    boxes = [(float(w), float(h)) for w, h in sides]
    previous = 0.0
    for k in range(1, 10):
        found = cluster(sides, k, seed=3, runs=2)
        assert found.mean_iou == pytest.approx(plain_cluster(boxes, k, seed=3, runs=2), abs=1e-9)
        assert mean_iou(sides, found.shapes) == found.mean_iou and len(found.shapes) == k
        previous = max(previous, found.mean_iou)
    assert previous > cluster(sides, 1).mean_iou


def test_too_few_boxes() -> None:
    with pytest.raises(FovealError, match="3 shapes were requested, but the boxes have 2 different sizes"):
        cluster(np.array([[1.0, 2], [1, 2], [3, 4]]), 3)


def test_command_prints_a_valid_override(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foveal import presets
    from foveal.config.overrides import override

    cells = str(data / "bccd")
    assert main(["anchors", "yolo_v3_mini", "--data", cells, "--split", "val", "--most", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the preset's 6 anchors" in lines[0] and "k = 2: mean IoU" in lines[2]
    assert override(presets.get("yolo_v3_mini"), [lines[-1].strip().strip("'")]) != presets.get("yolo_v3_mini")
    assert main(["anchors", "retinanet_mini", "--data", cells]) == 2
    capsys.readouterr()
    assert main(["anchors", "yolo_v1_mini", "--data", cells]) == 2  # without anchors to override
    assert "boxes have no anchors" in capsys.readouterr().err
