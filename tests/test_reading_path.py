"""Number of files of the package that one image passes through: the path a reader has to follow stays short.

Three routes: the model alone; a whole training iteration (the loader in this process, model, loop); a prediction from
the file of a photo to the file of its drawing. What is set up once (specs, weights, the run folder) is not part of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal import presets
from foveal.data.synthetic.shapes import make_shapes
from foveal.inference.predict import predict
from foveal.parts.resizing import Resize
from foveal.training.loop.loop import Loop
from foveal.types import Target, Targets

PACKAGE = Path(foveal.__file__).resolve().parent


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The package's files whose functions are called in the block, relative to the package."""
    code, seen = set(), set[str]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith("<"):  # not what dataclasses generate
            code.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)  # threads started in the block: some decode images
    try:
        yield seen
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
        paths = (Path(name).resolve() for name in code)
        seen.update(path.relative_to(PACKAGE).as_posix() for path in paths if path.is_relative_to(PACKAGE))


def files(call: Callable[[], Any]) -> set[str]:
    with recorded() as seen:
        call()
    return seen


@pytest.mark.parametrize(
    ("preset", "inference", "training"), [("retinanet_mini", 14, 18), ("faster_rcnn_mini", 20, 24)]
)
def test_the_model(preset: str, inference: int, training: int) -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    detector = presets.get(preset).build("abc")
    detector.predict_arrays([image])  # what is built once and cached does not count
    assert 10 < len(files(lambda: detector.predict_arrays([image]))) <= inference
    images = detector.train().prepare([image, image])
    targets = Targets.pad([Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([0]))] * 2)
    assert 10 < len(files(lambda: sum(detector(images, targets).values()).backward())) <= training


@pytest.mark.parametrize(("preset", "most"), [("retinanet_mini", 30), ("faster_rcnn_mini", 36)])
def test_a_training_iteration(preset: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the second iteration to the end of the third: the batch from its files, the model, the loop."""
    make_shapes(tmp_path / "data", images=10, size=(96, 96), format="coco", masks=False)
    update, recording, route = Loop._update, recorded(), set[str]()

    def watched(self: Loop, *arguments: Any) -> None:
        update(self, *arguments)
        if self.state.step == 2:
            nonlocal route
            route = recording.__enter__()
        elif self.state.step == 3:
            recording.__exit__(None, None, None)

    monkeypatch.setattr(Loop, "_update", watched)
    spec = replace(presets.get(preset), input=Resize(96, 160))  # type: ignore[type-var, call-arg]
    options = {"epochs": 1, "batch": 2, "workers": 0, "device": "cpu", "precision": "32", "progress": False}
    foveal.train(spec, data=tmp_path / "data", out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert 20 < len(route) <= most, "\n".join(sorted(route))


# one of them writes the drawing so that it is complete or absent
@pytest.mark.parametrize(("preset", "most"), [("retinanet_mini", 17), ("faster_rcnn_mini", 22)])
def test_a_prediction_from_file_to_drawing(preset: str, most: int, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)).save(tmp_path / "photo.jpg")
    detector = presets.get(preset).build("abc").eval()
    predict(detector, tmp_path / "photo.jpg", out=tmp_path / "first", score=0.0)
    route = files(lambda: predict(detector, tmp_path / "photo.jpg", out=tmp_path / "second", score=0.0))
    assert list((tmp_path / "second").iterdir())
    assert 10 < len(route) <= most, "\n".join(sorted(route))
