"""Conversion of ``Detections`` to and from other libraries, and torchvision's call convention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.errors import FovealError
from foveal.parts.resizing import Resize
from foveal.types import Detections

NAMES = ("cat", "dog", "bird")
FOUND = Detections(
    torch.tensor([[1.5, 2, 30, 40], [0, 0, 10.25, 20], [5, 5, 5.5, 9]]),
    torch.tensor([0.9, 0.5, 0.25]),
    torch.tensor([2, 0, 2]),
    NAMES,
)
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), NAMES)


def same(a: Detections, b: Detections) -> bool:
    fields = ("boxes", "scores", "labels")
    return a.names == b.names and all(torch.equal(getattr(a, f), getattr(b, f)) for f in fields)


@pytest.mark.parametrize("found", [FOUND, NOTHING])
def test_coco_round_trip(found: Detections) -> None:
    assert same(Detections.from_coco(found.to_coco(7), NAMES), found)
    ids = [17, 18, 16]
    rows = found.to_coco(7, ids)
    assert same(Detections.from_coco(rows[::-1], NAMES, ids), found)  # their order means nothing
    assert [row["bbox"] for row in rows[:1]] == [[1.5, 2.0, 28.5, 38.0]][: len(rows)]


def test_invalid_coco_results_of_one_image() -> None:
    rows = FOUND.to_coco(7)
    with pytest.raises(FovealError, match="several images"):
        Detections.from_coco([*rows, *FOUND.to_coco(8)], NAMES)
    with pytest.raises(FovealError, match="category_id 3 is not one of 2"):
        Detections.from_coco(rows, NAMES[:2])
    assert Detections.from_coco(rows).labels.tolist() == [2, 0, 2]  # without names: category_id - 1


@pytest.mark.parametrize("found", [FOUND, NOTHING])
def test_hf_round_trip(found: Detections) -> None:
    theirs = found.to_hf()
    assert set(theirs) == {"scores", "labels", "boxes"}
    assert same(Detections.from_hf({k: v.flip(0) for k, v in theirs.items()}, NAMES), found)


@pytest.mark.parametrize("found", [FOUND, NOTHING])
def test_supervision_round_trip(found: Detections) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    theirs = found.to_supervision()
    assert isinstance(theirs, sv.Detections) and len(theirs) == len(found)
    assert list(theirs.data["class_name"]) == [NAMES[k] for k in found.labels.tolist()]
    assert same(Detections.from_supervision(theirs, NAMES), found)
    assert same(Detections.from_supervision(theirs[np.arange(len(found))[::-1]], NAMES), found)  # sorted by score


OUTSIDE = ("rcnn", "spp", "fast")  # they need external proposals
SMALL = [name for name in presets.names() if name.endswith("_mini") and name.split("_")[0] not in OUTSIDE]


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_call_convention(name: str) -> None:
    """A list of images and a list of dicts in; a dict of losses, or one result an image, out. Those that take
    external proposals are tested in test_fast_rcnn."""
    spec = presets.get(name)
    if isinstance(getattr(spec, "input", None), Resize):
        spec = replace(spec, input=replace(spec.input, short=96, long=128))  # type: ignore[call-arg]
    torch.manual_seed(0)
    detector = spec.build(["a", "b"])
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 100)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    if detector.has_masks:
        sizes = [(1, 96, 128), (0, 80, 100)]
        targets = [t | {"masks": torch.ones(s, dtype=torch.bool)} for t, s in zip(targets, sizes, strict=True)]
    losses = detector.train()(images, targets)
    assert losses and all(v.dim() == 0 and v.isfinite() for v in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    with torch.no_grad():
        results = detector.eval()(images)
    assert len(results) == 2 and all(isinstance(a, Detections) for a in results)
    for image, result in zip(images, results, strict=True):
        assert result.boxes.shape == (len(result), 4)
        assert (result.scores.diff() <= 0).all()
        assert len(result) == 0 or (result.boxes[:, 2].max() <= image.shape[2] and result.boxes.min() >= 0)
