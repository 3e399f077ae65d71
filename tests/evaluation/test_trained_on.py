"""No way to a model scores the images that trained it without saying so."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import foveal
from foveal import presets
from foveal.checkpoints.export import export_model
from foveal.checkpoints.load import import_model
from foveal.data.open import open_dataset
from foveal.data.records.trained_on import image_hashes, unpack
from foveal.data.synthetic.shapes import make_shapes
from foveal.parts.resizing import Resize

QUIET: dict[str, Any] = {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "precision": "32", "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` without splits, ``moved`` the same elsewhere, ``run`` trained on 4 of its 5 images, and its copies."""
    place = tmp_path_factory.mktemp("trained-on")
    make_shapes(place / "shapes", images=6, size=(64, 64), format="coco", masks=False)  # 5 to train, 1 to validate
    (place / "data").mkdir()
    shutil.copytree(place / "shapes" / "train", place / "data" / "images")
    shutil.copy(place / "shapes" / "annotations" / "instances_train.json", place / "data" / "annotations.json")
    shutil.copytree(place / "data", place / "moved")
    spec: Any = presets.retinanet_mini
    foveal.train(replace(spec, input=Resize(64, 64)), data=place / "data", out=place / "run", **QUIET)
    shutil.copytree(place / "run", place / "copy")
    (place / "copy" / "run.json").unlink()
    export_model(place / "run", place / "file.safetensors")
    export_model(place / "run", place / "hub", "hf")
    import_model(place / "file.safetensors", place / "imported")
    foveal.train(place / "file.safetensors", data=place / "shapes", limit=1, out=place / "tuned", **QUIET)
    return place


@pytest.mark.parametrize("data", ["moved", "moved/annotations.json", "data"])
@pytest.mark.parametrize("model", ["run", "copy", "file.safetensors", "hub", "imported", "tuned"])
def test_images_that_trained_are_left_out(place: Path, model: str, data: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("foveal").propagate = True
    results = foveal.evaluate(foveal.load(place / model, device="cpu", precision="32"), data=place / data)
    assert results.to_dict()["images"] == 1
    assert "4 of 5 images trained this model" in caplog.text and "the other 1 are scored" in caplog.text


def test_images_that_are_asked_for_are_scored_and_told(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = foveal.load(place / "run", device="cpu", precision="32")
    results = foveal.evaluate(detector, data=place / "shapes", split="train")
    assert results.to_dict()["images"] == 5
    assert "4 of 5 images trained this model" in caplog.text and "better than those of images" in caplog.text
    caplog.clear()
    assert foveal.evaluate(detector, data=place / "shapes", split="val").to_dict()["images"] == 1
    assert "trained this model" not in caplog.text


def test_the_images_of_the_weights_before_count(place: Path) -> None:
    """A run from other weights has seen what those have seen."""
    shapes = set(image_hashes(open_dataset(place / "shapes", split="train").records))
    run, tuned = (unpack(foveal.load(place / name, device="cpu").trained_on) for name in ("run", "tuned"))
    assert len(run) == 4 and run < shapes and run <= tuned <= shapes
