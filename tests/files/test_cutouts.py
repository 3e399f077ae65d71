"""Cutouts: where a box lies in them, and boxes that no image can hold."""

from __future__ import annotations

import numpy as np
import pytest

from foveal.files.cutouts import cutout, whole


def test_a_box_is_where_its_pixels_are() -> None:
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[100:160, 200:300] = 255
    part = cutout(pixels, (200, 100, 300, 160))
    assert max(part.image.size) == 320
    x1, y1, x2, y2 = part.box((200, 100, 300, 160))
    bright = np.asarray(part.image)[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == pytest.approx((x1, y1, x2, y2), abs=1)
    part.solid((200, 100, 300, 160), (255, 0, 0))
    assert np.asarray(part.image)[round(y1), round((x1 + x2) / 2)].tolist() == [255, 0, 0]
    assert whole(pixels).image.size == (320, 213)


@pytest.mark.parametrize("box", [(-50, -50, -20, -20), (700, 500, 900, 900), (90, 80, 20, 10), (5, 5, 5, 5)])
def test_boxes_beyond_the_image_inverted_and_without_area(box: tuple[float, ...]) -> None:
    part = cutout(np.zeros((40, 60, 3), np.uint8), box)
    part.dashed(box)
    part.solid(box, (255, 0, 0))
    assert min(part.image.size) >= 1
