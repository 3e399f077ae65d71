"""The detector class: construction, the task argument of a call, prediction."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.assembly.two_stage import TwoStage
from foveal.types import Target, Targets

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
TARGETS = Targets.pad([Target(torch.tensor([[8.0, 8, 50, 44]]), torch.tensor([1]))])


def test_detector_class_stays_small() -> None:
    """Counts the methods and properties it defines; the overloads of ``forward`` count once."""
    own = [name for name, value in vars(Detector).items() if callable(value) or isinstance(value, property)]
    assert len(own) <= 14, own


def test_the_parts_of_a_two_stage_detector_are_named() -> None:
    parameters = list(inspect.signature(TwoStage.__init__).parameters.values())[3:]
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_trained_task_is_an_argument() -> None:
    torch.manual_seed(0)
    detector = presets.faster_rcnn_mini.build("ab").train()
    images = detector.prepare([IMAGE])

    def losses(learning: str | None) -> set[str]:
        return set(detector(images, TARGETS, learning=learning))

    assert losses("rpn") == {"rpn.cls", "rpn.box"} and losses("roi") == {"cls", "box"}
    assert losses(None) == losses("rpn") | losses("roi")
    both: Any = detector.eval()(images, TARGETS, detect=True, learning="rpn")
    assert set(both[0]) == {"rpn.cls", "rpn.box"} and len(both[1]) == 1


@pytest.mark.parametrize(("name", "masks"), [("mask_rcnn_mini", True), ("faster_rcnn_mini", False)])
def test_masks_come_with_a_mask_head(name: str, masks: bool) -> None:
    detector = presets.get(name).build("ab")
    assert detector.has_masks is masks and (detector.mask_threshold is not None) is masks
    assert any(key.startswith("mask_head.") for key in detector.state_dict()) is masks


def test_predict_accepts_one_image_several_and_a_folder(tmp_path: Any) -> None:
    from PIL import Image

    detector = presets.retinanet_mini.build("ab").eval()
    for i in range(9):
        Image.fromarray(IMAGE).save(tmp_path / f"{i}.png")
    one = detector.predict(IMAGE)
    several = detector.predict(tmp_path)
    assert len(several) == 9 and detector.predict([]) == []
    for found in (*several, *detector.predict([tmp_path / "3.png", IMAGE])):
        assert torch.equal(found.boxes, one.boxes) and torch.equal(found.scores, one.scores)
