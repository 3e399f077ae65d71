"""Boxes of another shape of the image, on the boxes of real sets: right ones raise no claim, wrong ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foveal.data.diagnosis.square import judge_shape
from foveal.data.open import open_dataset
from foveal.files.aliases import Floats

SETS = ("coco128-train2017", "voc2012-catdogcar", "bccd")


@pytest.fixture(scope="module", params=SETS)
def known(request: pytest.FixtureRequest, data: Path) -> tuple[str, Floats, Floats]:
    """Name, boxes (N, 4) in pixels and image sizes (N, 2) of a real set."""
    path = data / request.param
    if not path.is_dir():
        pytest.skip(f"no {request.param} in {data}")
    records = open_dataset(path).records
    sizes = np.concatenate([np.full((len(r), 2), (r.width, r.height), np.float64) for r in records])
    return request.param, np.concatenate([r.boxes for r in records]).astype(np.float64), sizes


def test_right_boxes_raise_no_claim(known: tuple[str, Floats, Floats]) -> None:
    _, boxes, sizes = known
    assert judge_shape(boxes, sizes) is None
    for part in np.array_split(np.random.default_rng(0).permutation(len(boxes)), 20):  # of few boxes neither
        assert judge_shape(boxes[part], sizes[part]) is None


def _swapped(boxes: Floats, sizes: Floats) -> Floats:
    return boxes[:, [1, 0, 3, 2]] / np.tile(sizes[:, ::-1], 2) * np.tile(sizes, 2)


def _padded(boxes: Floats, sizes: Floats) -> Floats:
    long = sizes.max(1, keepdims=True)
    return (boxes + np.tile((long - sizes) / 2, 2)) / long * np.tile(sizes, 2)


def _by_longer_side(boxes: Floats, sizes: Floats) -> Floats:
    return boxes / sizes.max(1, keepdims=True) * np.tile(sizes, 2)


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (_swapped, "as if y stood before x"),
        (_padded, "the image padded to a square"),
        (_by_longer_side, "the longer side of the image"),
    ],
)
def test_wrong_boxes_are_recognized(
    known: tuple[str, Floats, Floats], change: Callable[[Floats, Floats], Floats], claim: str
) -> None:
    """x and y exchanged only where images have several shapes: those of bccd have one."""
    name, boxes, sizes = known
    found = judge_shape(change(boxes, sizes), sizes)
    if change is _swapped and name == "bccd":
        assert found is None
    else:
        assert found is not None and claim in found.claim
