"""Images for TensorBoard: what is drawn, and that a run writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import foveal
from foveal import presets
from foveal.data.open import open_dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.inference.draw import color
from foveal.parts.resizing import Stretch
from foveal.training.loop.images import drawings


def test_objects_proposals_and_detections_of_the_same_images(tmp_path: Path) -> None:
    make_shapes(tmp_path / "d", images=6, size=(96, 128), masks=False)
    data = open_dataset(tmp_path / "d", split="val")
    torch.manual_seed(0)
    for name, kinds in (
        ("faster_rcnn_mini", ("targets", "proposals", "detections")),
        ("fcos_mini", ("targets", "detections")),
    ):
        detector = presets.get(name).build(data.classes).train()
        made = list(drawings(detector, data, 2))
        number = min(2, len(data))
        assert [one.name for one in made] == [f"{kind}/{k + 1}" for k in range(number) for kind in kinds]
        assert all(one.pixels.shape == (128, 96, 3) and one.pixels.dtype == np.uint8 for one in made)
        assert detector.training  # as it was
        again = list(drawings(detector, data, 2))
        assert all((a.pixels == b.pixels).all() for a, b in zip(made, again, strict=True))
    label = int(data.records[0].labels[0])
    assert (np.abs(made[0].pixels.astype(int) - color(label)).max(-1) < 12).any()


def test_a_run_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_shapes(tmp_path / "d", images=8, size=(64, 64), masks=False)
    options = {"data": tmp_path / "d", "epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "progress": False}
    spec = replace(presets.get("yolo_v1_mini"), input=Stretch(64, 64))  # type: ignore[call-arg]
    foveal.train(spec, out=tmp_path / "run", log_images=1, **options)  # type: ignore[arg-type]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"val/targets/1", "val/detections/1"} <= set(events.Tags()["images"])
    foveal.train(spec, out=tmp_path / "other", **options)  # type: ignore[arg-type]
    plain = EventAccumulator(str(tmp_path / "other" / "tensorboard"))
    plain.Reload()
    assert plain.Tags()["images"] == []
    weights = [(tmp_path / run / "checkpoints/last/model.safetensors").read_bytes() for run in ("run", "other")]
    assert weights[0] == weights[1]  # drawing changes nothing
