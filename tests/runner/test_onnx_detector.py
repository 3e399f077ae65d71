"""The runner's input rules against the detector's own, to the pixel."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from foveal.export.write import describe_input
from foveal.parts.resizing import Input, Letterbox, Original, Resize, Stretch
from foveal.runner import onnx_detector
from foveal.runner.onnx_detector import InputRule

RULES = [Resize(320, 533), Resize(800, 1333, nearest=True), Stretch(300, 200), Letterbox(320, 256), Original()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("shape", [(240, 320), (1, 1000), (1000, 1), (7, 5), (333, 97), (900, 700)])
def test_pixels_equal_the_detectors(rule: Input, shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = InputRule(**describe_input(rule))
    placement = ours.placement(*shape)
    theirs = rule.batch([array])
    assert tuple(rule.placement(*shape)) == (placement.height, placement.width, placement.y, placement.x)
    found = ours.pixels(array, placement)
    assert found.shape == tuple(theirs.pixels.shape[1:])
    assert np.abs(found - theirs.pixels[0].numpy()).max() < 2e-5


def test_every_size_is_placed_alike() -> None:
    rule = Resize(800, 1333)
    ours = InputRule(**describe_input(rule))
    for side in range(1, 4000):
        placement = ours.placement(side, 700)
        assert rule.size(side, 700) == (placement.height, placement.width)


def test_it_is_one_short_file_without_torch_or_foveal() -> None:
    text = Path(onnx_detector.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if re.match(r"\s*(import|from) \w", line)}
    assert imported <= {*sys.stdlib_module_names, "numpy", "PIL", "onnxruntime"}
