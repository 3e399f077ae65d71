"""Each decision of the automatic choice, by tables: the facts, what is chosen, and the number in the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foveal import presets
from foveal.config.overrides import override
from foveal.parts.priors.anchors import PyramidAnchors
from foveal.parts.resizing import Resize
from foveal.recipe import FrozenMaps
from foveal.training.auto_decisions import (
    DataFacts,
    MachineFacts,
    Request,
    choose_anchors,
    choose_batch,
    choose_depth,
    choose_detector,
    choose_input,
    choose_length,
    decide,
    epochs_in,
    minutes,
    warnings,
)


def data(side: float = 120.0, *, frame: tuple[int, int] = (375, 500), **changes: Any) -> DataFacts:
    """A set of 154 photos with an object of this side in each."""
    n = changes.get("images", 154)
    facts = DataFacts(154, 3, ("car", 60), 0, 0.0, np.full((n, 2), side), np.full((n, 2), frame), float(frame[0]))
    return replace(facts, **changes)


CPU = MachineFacts("cpu", memory=8.0, seconds=0.2, distance=0.12)
QUARTER_HOUR = Request(max_time=900.0)


@pytest.mark.parametrize(
    ("facts", "missing", "preset", "reason"),
    [
        (data(), "", "retinanet_lite", "154 photos"),
        (data(masks=1.0), "", "mask_rcnn_lite", "every object has a mask"),
        (data(masks=0.5), "", "retinanet_lite", "only 50% of the objects have a mask"),
        (data(classes=1000), "", "faster_rcnn_lite", "1000 classes"),
        (data(), "timm is not installed", "retinanet_mini", "timm is not installed. Run pip install 'foveal[pretr"),
        (data(masks=1.0), "x is not installed", "mask_rcnn_mini", "random weights"),
    ],
)
def test_detector(facts: DataFacts, missing: str, preset: str, reason: str) -> None:
    decision = choose_detector(facts, missing)
    assert decision.choice == preset and reason in decision.reason
    assert preset in presets.names()


# distances of real sets: coco128 .12, catdogcar .12, the generated shapes .24, bccd .30 (tests/training/test_auto.py)
@pytest.mark.parametrize(("distance", "frozen"), [(0.119, True), (0.121, True), (0.24, False), (0.298, False)])
def test_frozen_stages(distance: float, frozen: bool) -> None:
    decision = choose_depth(distance)
    assert f"{distance:.2f}" in decision.reason
    spec: Any = override(presets.get("retinanet_lite"), decision.settings)
    assert spec.backbone.frozen_stages == (2 if frozen else 0)
    assert (spec.fit.lr, spec.fit.backbone_lr) == ((1e-3, 0.2) if frozen else (5e-4, 1.0))
    assert spec.fit.frozen_maps == (FrozenMaps() if frozen else None)
    assert not choose_depth(0.1, stored=False).settings


@pytest.mark.parametrize(
    ("facts", "request_", "short", "reason"),
    [
        (data(120), QUARTER_HOUR, 320, "102 px at 320, and 24 are enough"),
        (data(20), QUARTER_HOUR, 416, "17 px at 320, 22 px here"),  # enlarged by 416 / 375; 512 would be too large
        (data(40, frame=(1500, 2000)), Request(), 800, "9 px at 320, 21 px here"),
        (data(40, frame=(1500, 2000)), QUARTER_HOUR, 512, "800 px would leave 4.7 epochs"),
        (data(20, frame=(300, 400)), QUARTER_HOUR, 320, "the images are no larger"),
        (data(2, frame=(600, 800)), Request(), 640, "cut the images into tiles"),
        (data(370), QUARTER_HOUR, 320, "316 px at 320"),  # only huge objects
        (data(20, images=100_000), QUARTER_HOUR, 320, "416 px would leave 0.0 epochs"),
    ],
)
def test_input_size(facts: DataFacts, request_: Request, short: int, reason: str) -> None:
    chosen, decision = choose_input(facts, CPU, request_)
    assert chosen == short and reason in decision.reason
    spec: Any = override(presets.get("retinanet_lite"), decision.settings)
    assert (spec.input.short, spec.input.long) == (short, short * 5 // 3)


@pytest.mark.parametrize("short", [320, 512])
@pytest.mark.parametrize("frame", [(375, 500), (200, 1000)])
def test_sides_are_those_that_the_resize_rule_makes(short: int, frame: tuple[int, int]) -> None:
    height, width = Resize(short, short * 5 // 3).size(*frame)
    facts = data(frame=frame, sides=np.array([frame[::-1]], float), frames=np.array([frame], float))
    assert facts.sides_at(short)[0] == pytest.approx([width, height], abs=1.5)  # the rule rounds down


PRESET = PyramidAnchors(scale=3.0, octaves=3)


@pytest.mark.parametrize(
    ("sides", "scale", "ratios"),
    [
        ([[60.0, 60.0]], 3.0, 3),
        ([[10.0, 10.0]], 1.0, 3),  # anchors of 8, 10 and 13 px
        ([[350.0, 350.0]], 3.0, 3),
        ([[900.0, 900.0]], 6.0, 3),  # 6 x 128 = 768 px and more
        ([[200.0, 20.0], [180.0, 20.0]], 3.0, 5),
    ],
)
def test_anchors(sides: list[list[float]], scale: float, ratios: int) -> None:
    facts = data(sides=np.array(sides), frames=np.full((len(sides), 2), 320.0))
    decision = choose_anchors(facts, PRESET, 5, 320)
    spec: Any = override(presets.get("retinanet_lite"), decision.settings)
    assert (spec.anchors.scale, len(spec.anchors.ratios)) == (scale, ratios)
    assert "mean IoU" in decision.reason


@pytest.mark.parametrize(
    ("preset", "facts", "machine", "short", "batch"),
    [
        ("retinanet_lite", data(), CPU, 320, 4),
        ("retinanet_lite", data(), replace(CPU, memory=1.0), 800, 1),  # .34 GB an image, half of 1 GB
        ("retinanet_lite", data(classes=1000), replace(CPU, memory=2.0), 320, 2),  # .45 GB an image
        ("faster_rcnn_lite", data(classes=1000), replace(CPU, memory=2.0), 320, 4),
        ("retinanet_lite", data(), MachineFacts("cuda", memory=80.0), 320, 4),  # too few images for larger batches
        ("retinanet_lite", data(images=1000), MachineFacts("cuda", memory=80.0), 320, 8),
        ("retinanet_lite", data(), replace(CPU, memory=0.01), 320, 1),
    ],
)
def test_batch(preset: str, facts: DataFacts, machine: MachineFacts, short: int, batch: int) -> None:
    decision = choose_batch(facts, machine, preset, 4, 1e-3, short)
    spec = override(presets.get(preset), decision.settings)
    assert spec.fit.batch == batch and spec.fit.lr == pytest.approx(1e-3 * batch / 4)


@pytest.mark.parametrize(
    ("facts", "request_", "choice", "reason", "epochs"),
    [
        (data(), QUARTER_HOUR, "15m", "about 29 epochs, 0.2 s an image", None),  # validated every fourth
        (
            data(images=2000),
            QUARTER_HOUR,
            "15m",
            "about 2.2 epochs, 0.2 s an image; that is short for 2000",
            None,
        ),
        (data(), Request(epochs=5), "5 epochs", "about 3m", None),
        (data(), Request(), "26 epochs", "about 13m", 26),  # 4,000 images seen
        (data(images=1), Request(), "200 epochs", "about 40s", 200),
        (data(images=50_000), Request(), "12 epochs", "about 33h20m", 12),
    ],
)
def test_length(facts: DataFacts, request_: Request, choice: str, reason: str, epochs: int | None) -> None:
    decision = choose_length(facts, CPU, request_, 320)
    assert decision.choice == choice and reason in decision.reason
    fit = override(presets.get("retinanet_lite"), decision.settings).fit
    assert fit.epochs == (epochs or presets.get("retinanet_lite").fit.epochs)
    length = epochs_in(facts, CPU, request_, 320) if request_.max_time else epochs or request_.epochs or 0
    assert fit.val_every == max(1, int(length / 6))


def test_what_is_given_is_not_decided() -> None:
    facts, detector = data(10, frame=(1500, 2000)), choose_detector(data(), "")

    def subjects(*paths: str, **changes: Any) -> list[str]:
        request = Request(paths=paths, **changes)
        return [d.subject for d in decide(facts, CPU, detector, PRESET, (4, 1e-3), request)]

    assert subjects() == ["detector", "frozen", "input", "anchors", "batch", "length"]
    assert subjects("input.short") == ["detector", "frozen", "batch", "length"]  # anchors belong to an input
    assert subjects("anchors.scale", "fit.epochs") == ["detector", "frozen", "input", "batch"]
    assert subjects("fit.batch") == ["detector", "frozen", "input", "anchors", "length"]
    assert subjects("fit") == ["detector", "frozen", "input", "anchors"]
    assert subjects("inputs") == subjects()


def test_a_larger_batch_scales_the_rate_that_the_frozen_stages_left() -> None:
    machine = MachineFacts("cuda", memory=80.0, distance=0.3)
    decisions = decide(data(images=500), machine, choose_detector(data(), ""), PRESET, (4, 1e-3), Request())
    spec = override(presets.get("retinanet_lite"), [s for d in decisions for s in d.settings])
    assert (spec.fit.batch, spec.fit.lr, spec.fit.backbone_lr) == (8, 1e-3, 1.0)  # 5e-4 for four


def test_warnings() -> None:
    assert warnings(data()) == []
    assert warnings(data(images=1, rarest=("cat", 1), rare=2)) == [
        "  warning: 1 training image: expect no useful detector",
        "  warning: classes with fewer than 10 objects to learn from: 2 of 3 (objects of cat: 1)",
    ]


def test_durations() -> None:
    assert [minutes(s) for s in (40, 90, 120, 900, 7500, 119.6)] == ["40s", "90s", "2m", "15m", "2h05m", "120s"]
