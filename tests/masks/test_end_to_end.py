"""Masks in every command: train, eval (a run and a detections file), predict, drawings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.cli import main as cli
from foveal.data.synthetic.shapes import make_shapes
from foveal.evaluation.coco import NUMBERS
from foveal.masks.rle import Masks, unsqueeze

SMALL = (
    "input.short=64", "input.long=64", "neck.channels=16", "roi_head.width=16", "backbone=SmallResNet((8, 16, 16, 16))",
    "mask=MaskHead(RoIAlign(4, ratio=2), convs=1, channels=8, rows=4)", "train_proposals=Counts(20, 20)",
    "test_proposals=Counts(20, 20)", "roi.select.score=0.0", "fit.batch=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("masks")
    make_shapes(folder / "data", splits={"train": 8, "val": 4}, size=(64, 64), format="coco")
    words = ["train", "mask_rcnn_mini", "--data", str(folder / "data"), "--out", str(folder / "run"), "--epochs", "1"]
    assert cli.main([*words, "--workers", "0", "--device", "cpu", *SMALL]) == 0
    return folder / "run", folder / "data"


def test_run_has_masks(run: tuple[Path, Path]) -> None:
    results = json.loads((run[0] / "results.json").read_text())
    assert list(results["masks"]) == [*NUMBERS, "per_class"]
    assert set(results["masks"]["per_class"]) == set(results["per_class"])
    lines = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    assert any("mask" in line for line in lines if line["split"] == "train")
    assert any("mask" in line for line in lines if line["split"] == "val")


def test_eval_and_its_detections(run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = run
    found, first, second = (str(tmp_path / name) for name in ("found.json", "a.json", "b.json"))
    words = ["--data", str(data), "--split", "val"]
    assert cli.main(["eval", str(out), *words, "--json", first, "--save-detections", found, "--device", "cpu"]) == 0
    assert "masks" in capsys.readouterr().out
    assert cli.main(["eval", "--detections", found, *words, "--json", second]) == 0
    a, b = (json.loads(Path(p).read_text()) for p in (first, second))
    assert a == b and list(a["masks"]) == [*NUMBERS, "per_class"]


def test_predict(run: tuple[Path, Path], tmp_path: Path) -> None:
    photo = sorted((run[1] / "val").glob("*.jpg"))[0]
    Image.new("RGB", (50, 40), (9, 9, 9)).save(tmp_path / "one-color.png")
    words = [
        "predict",
        str(run[0]),
        str(photo),
        str(tmp_path / "one-color.png"),
        "--score",
        "0",
        "--device",
        "cpu",
    ]
    assert cli.main([*words, "--out", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json")]) == 0
    for entry in json.loads((tmp_path / "found.json").read_text()):
        size = [entry["height"], entry["width"]]
        for detection in entry["detections"]:
            assert set(detection) == {"label", "score", "box", "mask"} and detection["mask"]["size"] == size
            counts = unsqueeze(detection["mask"]["counts"])
            assert counts.sum() == size[0] * size[1]
            x1, _, x2, y2 = Masks.of_counts([counts], (size[0], size[1])).extents()[0]
            box = detection["box"]
            grown = np.array([1, 1]) + 0.1 * np.array([box[2] - box[0], box[3] - box[1]])  # half the border's cells
            assert x2 == 0 or (x1 >= box[0] - grown[0] and y2 <= box[3] + grown[1])
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2
