"""The ranges of values that the images of a set use, where they have more than 8 bits.

Each such image is scaled by its own depth (:mod:`.load`), so that images of one set may be scaled differently, and one
that uses little of its depth is dark. Both are findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records.findings import Finding
from .load import deep_values
from .modes import bits_in_use, scaled_gray

_LOOKED_AT, _DECODED = 512, 64  # images of a set of which the header, and of which the values are read
_DARK, _SHARE = 16, 0.001  # an image is dark where at most this share of its values reaches this brightness of 255


def range_findings(paths: Sequence[Path], where: Path) -> list[Finding]:
    """Findings on the images of more than 8 bits of the set ``where``, by a sample of at most 64, evenly spread."""
    depths: Counter[str] = Counter()
    first: dict[str, Path] = {}
    dark: list[Path] = []
    clipped: list[Path] = []
    gray: NDArray[Any]
    for path, values, stated in _sample(paths):
        if values.ndim == 2 and values.dtype.kind == "f":
            low, high = float(values.min(initial=0)), float(values.max(initial=0))
            depth = "0..1" if low >= 0 and high <= 1 else "0..255"
            clipped += [path] if low < 0 or high > 255 else []
            gray = np.clip(values * (255.0 if depth == "0..1" else 1.0), 0, 255)
        elif values.ndim == 2:
            bits = stated or bits_in_use(values)
            depth, gray = f"{bits} bits", scaled_gray(values, bits)
        else:
            depth, gray = "16-bit colors", values
        depths[depth] += 1
        first.setdefault(depth, path)
        if is_dark(gray):
            dark.append(path)
    return list(_findings(depths, first, dark, clipped, where))


def is_dark(pixels: NDArray[Any]) -> bool:
    """Whether hardly a value of an image (0..255) can be told from black."""
    return bool(np.count_nonzero(pixels >= _DARK) <= _SHARE * pixels.size)


def _sample(paths: Sequence[Path]) -> Iterator[tuple[Path, NDArray[Any], int]]:
    """Path, values and stated bits of some images of more than 8 bits."""
    count = 0
    for path in _spread(sorted(set(paths)), _LOOKED_AT):
        found = deep_values(path)
        if found is not None:
            yield path, *found
            count += 1
        if count == _DECODED:
            return


def _spread(paths: list[Path], count: int) -> list[Path]:
    step = max(1, len(paths) / count)
    return [paths[int(k * step)] for k in range(min(count, len(paths)))]


def _findings(
    depths: Counter[str], first: dict[str, Path], dark: list[Path], clipped: list[Path], where: Path
) -> Iterator[Finding]:
    total = sum(depths.values())
    seen = f"of {total} images of more than 8 bits that were looked at"
    listed = ", ".join(f"{n} by {depth} (first: {first[depth].name})" for depth, n in depths.most_common())
    if len(depths) > 1:
        message = (
            f"{seen[0].upper()}{seen[1:]}, {listed}: each is scaled by the depth that it uses, "
            "so that equal values differ in brightness between images"
        )
        yield Finding("image-depths-mixed", "warning", str(where), "", message, "Convert all to 8 bits with one scale")
    elif depths and next(iter(depths)) not in ("16 bits", "16-bit colors", "0..1", "0..255"):
        used = next(iter(depths))
        message = f"the images have more than 8 bits and use {used}, by which they are scaled ({total} looked at)"
        yield Finding("image-depth", "note", str(where), "", message)
    if dark:
        message = f"{len(dark)} {seen} are nearly black: hardly a value reaches {_DARK} of 255 (first: {dark[0]})"
        yield Finding("image-dark", "warning", str(where), "", message, "Convert them to 8 bits over the range in use")
    if clipped:
        message = f"{len(clipped)} {seen} have floats below 0 or above 255, which are clipped (first: {clipped[0]})"
        yield Finding(
            "image-clipped", "warning", str(where), "", message, "Convert them to 8 bits over the range in use"
        )
