"""Drawing detections: changed and unchanged pixels, legibility."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foveal.inference.draw import _place, color, draw, draw_boxes, ink
from foveal.masks.rle import Masks
from foveal.types import Detections

NAMES = ("cat", "a class with quite a long name", "dog")


def detections(boxes: list[list[float]], masks: torch.Tensor | None = None) -> Detections:
    n = len(boxes)
    return Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.linspace(0.9, 0.4, n),
        torch.arange(n) % 3,
        NAMES,
        None if masks is None else Masks.of_dense(masks),
    )


def plain(height: int, width: int, value: int = 200) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def test_input_is_not_modified() -> None:
    image = plain(90, 120)
    image.setflags(write=False)
    masks = torch.zeros(1, 90, 120, dtype=torch.bool)
    masks[0, 30:60, 30:60] = True
    drawing = draw(image, detections([[10.0, 20.0, 80.0, 70.0]], masks))
    assert (image == 200).all()
    assert drawing.size == (120, 90)
    assert (np.asarray(drawing) != 200).any()


def test_outline_is_on_the_box_edge_in_the_class_color() -> None:
    pixels = np.asarray(draw_boxes(plain(300, 400), [[100, 150, 300, 280]], [2], line=3))
    assert tuple(pixels[200, 100]) == tuple(pixels[279, 250]) == color(2)
    assert tuple(pixels[200, 102]) == tuple(pixels[200, 299]) == color(2)
    assert tuple(pixels[200, 200]) == (200, 200, 200)  # nothing inside
    assert pixels[200, 99].max() < 200  # the halo


@pytest.mark.parametrize("value", [0, 128, 255])
def test_box_is_visible_on_any_background(value: int) -> None:
    """Either the line or its halo differs from the background by a quarter of the range."""
    for index in range(12):
        pixels = np.asarray(draw_boxes(plain(300, 300, value), [[100, 100, 250, 250]], [index])).astype(int)
        assert np.abs(pixels[170, 90:112] - value).max() > 64


def test_no_detections_leave_the_image_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert (np.asarray(draw(image, detections([]))) == image).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (8, 8), (40, 500), (2000, 1500)])
def test_any_image_size_and_any_box(size: tuple[int, int]) -> None:
    boxes = [[-50.0, -50.0, 1e6, 1e6], [5.0, 5.0, 5.0, 5.0], [30.0, 30.0, 10.0, 10.0], [float("nan"), 0.0, 3.0, 3.0]]
    assert draw(plain(*size), detections(boxes)).size == size[::-1]


def test_labels_stay_inside_and_do_not_overlap() -> None:
    chips: list[tuple[float, float, float, float]] = []
    for rect in ((0, 0, 50, 50), (0, 0, 50, 50), (2, 3, 50, 50), (350, 0, 399, 40), (380, 280, 399, 299)):
        chips.append(_place(rect, (60.0, 14.0), 2, 400, 300, chips))
    for x1, y1, x2, y2 in chips:
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 300
    for a, b in itertools.combinations(chips, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_colors_are_fixed_distinct_and_readable() -> None:
    first = [color(i) for i in range(20)]
    assert first == [color(i) for i in range(20)]
    apart = [np.abs(np.subtract(a, b)).sum() for a, b in itertools.combinations(first, 2)]
    assert min(apart) > 25
    for background in first:  # WCAG 2: at least 4.5 : 1
        light, dark = sorted((_luminance(background), _luminance(ink(background))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert ink((0, 0, 0)) == (250, 250, 250)


def _luminance(rgb: tuple[int, int, int]) -> float:
    """https://www.w3.org/TR/WCAG20/#relativeluminancedef"""
    linear = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_masks_are_translucent() -> None:
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[0, 40:60, 40:60] = True
    pixels = np.asarray(draw(plain(100, 100), detections([[2.0, 2.0, 98.0, 98.0]], masks)))
    inside = np.array(color(0)) * 0.45 + 200 * 0.55
    assert np.abs(pixels[50, 50] - inside).max() <= 1
    assert tuple(pixels[40, 50]) == color(0)  # the rim
    assert tuple(pixels[70, 70]) == (200, 200, 200)
