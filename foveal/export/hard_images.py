"""Fifty generated images for the proof of an exported detector: the shapes and contents that go wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
NUMBER = 50
# height, width: one row, one column, tiny, long, uneven sides, a large photo
_SHAPES = (
    *((240, 320), (480, 640), (1, 1000), (1000, 1), (1, 1), (7, 5), (97, 333), (333, 97), (300, 200), (600, 601)),
    *((1200, 1600), (2400, 3200)),
)


def hard_images(number: int = NUMBER, seed: int = 0) -> Iterator[tuple[str, Image]]:
    """Names and upright RGB images (H, W, 3): every shape, and for each one another content."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        height, width = _SHAPES[i % len(_SHAPES)] if i < len(_SHAPES) else rng.integers(40, 700, 2).tolist()
        kind = ("few", "many", "noise", "gray", "nothing")[i % 5]
        yield f"{kind} {height} x {width}", _draw(kind, height, width, rng)


def _draw(kind: str, height: int, width: int, rng: np.random.Generator) -> Image:
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    for _ in range({"few": 4, "many": 150, "gray": 12, "nothing": 0}[kind]):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        h, w = 1 + int(rng.integers(max(1, height // 3))), 1 + int(rng.integers(max(1, width // 3)))
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    if kind == "gray":
        image[:] = image.mean(2, keepdims=True).astype(np.uint8)
    return image
