"""What cannot be a table of objects or detections is refused in one sentence."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.errors import FovealError, UsageError
from foveal.evaluation import DetectionTable, GroundTruth, read_detections
from foveal.evaluation.masks import MaskRuns
from foveal.masks.rle import Masks

BOX = [[0.0, 0.0, 4.0, 5.0]]
ONE = MaskRuns.of([Masks.of_dense(np.ones((1, 8, 8), bool))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"area": [1.0, 2.0]}, r"area has shape \(2,\), expected \(1,\), one for each box"),
        ({"box": BOX * 2}, r"image has shape \(1,\), expected \(2,\)"),
        (
            {"box": BOX * 2, "image": [0, 0], "label": [0, 0], "masks": ONE, "drawn": [True, True]},
            "1 masks for 2 boxes",
        ),
        ({"image": [3]}, "image"),
        ({"label": [-1]}, "label"),
        ({"box": [[0, 0, np.nan, 5]]}, "box"),
        ({"area": [np.inf]}, "area"),
        ({"images": [7, 7]}, "image id 7 occurs twice"),
        ({"sizes": [[8, 8]] * 3}, "3 sizes for 2 images"),
        ({"category_ids": [1, 2]}, "2 category ids for 1 classes"),
    ],
)
def test_objects(change: dict[str, Any], words: str) -> None:
    given = {"images": [7, 8], "classes": ["a"], "image": [0], "label": [0], "box": BOX, **change}
    with pytest.raises(FovealError, match=words):
        GroundTruth.build(**given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": [0.5, 0.6]}, r"score has shape \(2,\), expected \(1,\)"),
        ({"score": [np.nan]}, "score"),
        ({"box": [[0, 0, np.inf, 5]]}, "box"),
        ({"box": BOX * 2, "image": [0, 0], "label": [0, 0], "score": [0.5, 0.5], "masks": ONE}, "1 masks for 2 boxes"),
    ],
)
def test_detections(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FovealError, match=words):
        DetectionTable.build(**{"image": [0], "label": [0], "box": BOX, "score": [0.5], **change})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label,score,x1,y1,x2\n", "there is no column y2"),
        ("image,label,score,x1,y1,x2,y2\na,cat,.5,1\n", "line 2: 4 columns, expected 7"),
        ('image,label,score,x1,y1,x2,y2\na,"cat\n' + "x" * 200_000 + "\n", "not CSV: field larger than field limit"),
    ],
)
def test_csv(tmp_path: Path, text: str, words: str) -> None:
    truth = GroundTruth.build(["a"], ["cat"], [0], [0], BOX)
    path = tmp_path / "found.csv"
    path.write_text(text)
    limit = csv.field_size_limit(131_072)  # Python's own; readers of annotations raise it for the process
    try:
        with pytest.raises(FovealError, match=words):
            read_detections(path, truth)
    finally:
        csv.field_size_limit(limit)


def test_csv_of_left_top_width_and_height(tmp_path: Path) -> None:
    truth = GroundTruth.build(["a"], ["cat"], [0], [0], BOX)
    path = tmp_path / "found.csv"
    path.write_text("image;label;score;x1;y1;width;height\na;cat;.5;1;2;3;4\n\n")
    assert read_detections(path, truth).box.tolist() == [[1, 2, 4, 6]]
    path.write_text("\n\n")
    assert len(read_detections(path, truth)) == 0


def test_masks_need_sizes(tmp_path: Path) -> None:
    truth = GroundTruth.build([1], ["cat"], [0], [0], BOX)
    path = tmp_path / "found.json"
    row = '{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 4, 5], "segmentation": [[0, 0, 4, 0, 4, 5]]}'
    path.write_text(f"[{row}]")
    with pytest.raises(UsageError, match="masks need the image sizes"):
        read_detections(path, truth)
