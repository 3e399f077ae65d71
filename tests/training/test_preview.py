"""The sheet of training images: as many as promised, of the set's classes, without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.cli.main import main
from foveal.data.augment.combine import Mosaic
from foveal.data.synthetic.shapes import make_shapes
from foveal.inference.draw import color
from foveal.training.preview import GAP, SIDE, preview
from tests.helpers.train_tiny import FIT, TinySpec, make_data


def test_a_sheet_of_twelve_images(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    spec = replace(TinySpec(), fit=replace(FIT, augment=(Mosaic(),)))
    sets = {"data": data / "train.json", "val": data / "val.json"}
    path = preview(spec, out=tmp_path / "run", **sets)
    assert path == tmp_path / "run" / "preview.png" and list((tmp_path / "run").iterdir()) == [path]
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (3 * (SIDE + GAP) + GAP, 4 * (SIDE + GAP) + GAP, 3)
    for row in range(3):  # every cell shows a box of one of the two classes
        for column in range(4):
            top, left = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
            cell = sheet[top : top + SIDE, left : left + SIDE]
            assert any((cell == color(k)).all(-1).sum() > 50 for k in (0, 1))
    again = preview(spec, out=tmp_path / "again", **sets)
    assert again.read_bytes() == path.read_bytes()


def test_with_masks_on_the_command_line(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", splits={"train": 5, "val": 2}, size=(96, 72), seed=1)
    words = ["train", "mask_rcnn_mini", "--data", str(tmp_path / "shapes"), "--out", str(tmp_path / "run")]
    assert main([*words, "--preview", "fit.augment=(ScaleJitter(.5, 1.5), CopyPaste(p=1))"]) == 0
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["preview.png"]
