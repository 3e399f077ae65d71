"""How many files of the package one picture runs through: the path that a reader has to follow stays short."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.types import Target, Targets


def files(call: Callable[[], Any]) -> set[str]:
    """Of the package, executed by ``call``."""
    seen = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "/foveal/" in frame.f_code.co_filename:
            seen.add(frame.f_code.co_filename.rpartition("/foveal/")[2])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize(
    ("preset", "inference", "training"), [("retinanet_mini", 14, 18), ("faster_rcnn_mini", 20, 24)]
)
def test_reading_path(preset: str, inference: int, training: int) -> None:
    picture = np.zeros((96, 128, 3), np.uint8)
    detector = presets.get(preset).build("abc")
    detector.predict_arrays([picture])  # what is made once and kept is not part of it
    assert 10 < len(files(lambda: detector.predict_arrays([picture]))) <= inference
    images = detector.train().prepare([picture, picture])
    targets = Targets.pad([Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([0]))] * 2)
    assert 10 < len(files(lambda: sum(detector(images, targets).values()).backward())) <= training
