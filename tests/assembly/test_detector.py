"""The detector class: construction, the task argument of a call, prediction."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.assembly.arrays import attach_proposals
from foveal.assembly.detector import Detector, in_batches
from foveal.assembly.two_stage import TwoStage
from foveal.errors import FovealError
from foveal.parts.resizing import Resize
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


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([IMAGE], r"images\[0\] is uint8 of shape \(64, 96, 3\), expected floating-point numbers \(3, H, W\)"),
        (torch.zeros(1, 3, 64, 64), r"called with a Tensor of shape \(1, 3, 64, 64\)"),
        ([torch.zeros(3, 64, 64), torch.full((3, 64, 64), 255.0)], r"images\[1\] has values from 255 to 255, expected"),
        ([torch.zeros(3, 64, 64) - 2.1], "the detector normalizes"),
        ([torch.full((3, 64, 64), float("nan"))], "has values from nan to nan"),
        ([], "called with an empty list"),
        ("photo.jpg", "called with a str"),
    ],
)
def test_images_in_another_form_are_refused(images: Any, message: str) -> None:
    """Values of 0..255 would be taken for 255 times too bright ones in silence."""
    detector = presets.retinanet_mini.build("ab").eval()
    with pytest.raises(FovealError, match=message):
        detector(images)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused(bad: float) -> None:
    """One of them would make every gradient of the head NaN."""
    detector = presets.faster_rcnn_mini.build("ab").train()
    targets = [{"boxes": torch.tensor([[1.0, 1, 9, 9], [8.0, 8, bad, 44]]), "labels": torch.tensor([1, 0])}]
    with pytest.raises(FovealError, match=r"targets\[0\] box 1 is \[8\.0, 8\.0, (nan|inf), 44\.0\]: not finite"):
        detector([torch.zeros(3, 64, 64)], targets)
    external = presets.fast_rcnn_vgg16
    proposals = np.array([[1, 1, 9, 9], [bad, 8, 20, 44]], np.float32)
    batch = external.input.batch([IMAGE])
    with pytest.raises(FovealError, match=r"proposal 1 of image 0 is .*: not finite"):
        attach_proposals(batch, [IMAGE], external.source, [proposals])


def test_detections_do_not_depend_on_the_images_beside() -> None:
    """Padding for a wider image would change group norms, and what lies at the border."""
    rng = np.random.default_rng(1)
    sizes = [(64, 96), (64, 64), (96, 64), (64, 95), (64, 64), (64, 96)]
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    torch.manual_seed(0)
    detector = replace(presets.retinanet_mini, input=Resize(64, 96)).build("ab").eval()
    with torch.no_grad():
        for name, weight in detector.named_parameters():
            if name.endswith("cls_logits.bias"):
                weight.fill_(0.0)  # many boxes
    assert list(in_batches(images, detector.spec.input, 2)) == [[0, 3], [5], [1, 4], [2]]
    for image, together in zip(images, detector.predict_arrays(images, batch=4), strict=True):
        alone = detector.predict_arrays([image], batch=1)[0]
        assert len(alone) == len(together) > 10
        assert torch.allclose(alone.scores, together.scores, atol=1e-5)
        assert torch.allclose(alone.boxes, together.boxes, atol=1e-2)


def test_arrays_of_another_form_are_refused() -> None:
    detector = presets.retinanet_mini.build("ab").eval()
    for shape in ((64, 64), (0, 5, 3), (64, 64, 4)):
        with pytest.raises(FovealError, match="expected \\(height, width, 3\\) uint8"):
            detector.predict_arrays([np.zeros(shape, np.uint8)])


def test_a_prediction_changes_no_shared_state() -> None:
    """A detector in training mode that several threads use: all answers are those of evaluation mode, and the mode of
    each part, the buffers and the parameters stay."""
    torch.manual_seed(0)
    detector = presets.retinanet_mini.build("ab").train()
    detector.backbone.eval()  # a part that is frozen
    modes = [part.training for part in detector.modules()]
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: detector.predict(IMAGE), range(16)))
    assert [part.training for part in detector.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    expected = detector.eval().predict(IMAGE)
    assert len(expected) and all(torch.equal(answer.scores, expected.scores) for answer in answers)
