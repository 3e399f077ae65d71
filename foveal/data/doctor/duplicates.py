"""Copies of images: the same pixels, and nearly the same picture (another size, quality, brightness, or mirrored).

A picture is compared by 64 bits: which of the lowest 8 x 8 frequencies of its 32 x 32 gray thumbnail are above their
median (pHash; Zauner, *Implementation and benchmarking of perceptual image hash functions*, 2010, section 3.2.1). Two
pictures are near-duplicates where at most ``BITS`` differ and the thumbnails themselves correlate by ``ALIKE``: images
of one camera or one microscope have similar hashes and different thumbnails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..records.findings import Findings
from ..records.splits import meant_to_overlap

SIDE = 32  # pixels of a thumbnail
BITS = 10  # of 64 may differ
ALIKE = 0.9  # correlation of two thumbnails at 16 x 16; of different images of one microscope at most .65
FLAT = 2.0  # gray levels: a thumbnail with a smaller standard deviation shows nothing that could be compared
BLOCK = 2048  # pictures that are compared with all others at a time
CHECKED = 1_000_000  # pairs with similar bits whose thumbnails are compared, of a block


@dataclass(frozen=True)
class Seen:
    """What is kept of an image's pixels."""

    digest: str  # equal for equal pixels
    thumbnail: NDArray[np.uint8]  # (32, 32) gray


def seen(pixels: NDArray[np.uint8]) -> Seen:
    """Digest and thumbnail of an image (H, W, 3)."""
    shape = f"{pixels.shape[0]}x{pixels.shape[1]}:".encode()
    digest = hashlib.blake2b(shape, digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    return Seen(digest.hexdigest(), np.asarray(small))


def report_copies(known: Mapping[str, Seen], splits_of: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """A finding for each copy of an image: a warning across splits that should be disjoint, else a note.

    ``known``: by path, what was seen of each image. Near-duplicates are reported once an image, with the most similar
    image of the other split; where there are no splits (training will divide the set), with any other image.
    """
    same: dict[str, list[str]] = {}
    for path, one in known.items():
        same.setdefault(one.digest, []).append(path)
    for paths in same.values():
        for other in paths[1:]:
            where = _apart(splits_of[paths[0]], splits_of[other])
            if where:
                message = f"the same pixels as {paths[0]}, in the splits {where[1]!r} and {where[0]!r}"
                findings.add("warning", "duplicate-across-splits", other, "", message, "Keep one of them",
                             [other, paths[0]])  # fmt: skip
            else:
                findings.add("note", "duplicate-image", other, "", f"the same pixels as {paths[0]}",
                             images=[other, paths[0]])  # fmt: skip
    first = {paths[0]: known[paths[0]] for paths in same.values()}
    for a, b, mirrored in _near(first, splits_of):
        how = "looks like the mirror image of" if mirrored else "looks like"
        where = _apart(splits_of[a], splits_of[b])
        if where:
            message = f"{how} {a}, in the splits {where[1]!r} and {where[0]!r}: a score on it says too much"
            findings.add("warning", "near-duplicate-across-splits", b, "", message, "Keep both in one split", [b, a])
        else:
            message = f"{how} {a}; a random division puts some of these into training and validation"
            findings.add("note", "near-duplicate", b, "", message, "Divide the set by scene", [b, a])


def _apart(a: Sequence[str], b: Sequence[str]) -> tuple[str, str] | None:
    """Two splits, of one image and of another, that should be disjoint."""
    return next(((x, y) for x in a for y in b if x != y and not meant_to_overlap(x, y)), None)


def _near(known: Mapping[str, Seen], splits_of: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, bool]]:
    """(earlier path, path, whether mirrored) of near-duplicates, the best one of each path."""
    paths = [path for path, one in known.items() if one.thumbnail.std() >= FLAT]
    if len(paths) < 2:
        return
    gray = np.stack([known[path].thumbnail for path in paths])
    sets = sorted({frozenset(splits_of[path]) for path in paths}, key=sorted)
    kind = np.array([sets.index(frozenset(splits_of[path])) for path in paths])
    # which kinds of membership are apart; without splits every image is apart from every other
    apart = np.array([[(len(sets) == 1 and a == {""}) or _apart(sorted(a), sorted(b)) is not None for b in sets]
                      for a in sets])  # fmt: skip
    straight, turned = similar(gray, gray), similar(gray, gray[..., ::-1])
    found: dict[int, tuple[float, int, bool]] = {}
    for mirrored, pairs in ((False, straight), (True, turned)):
        for i, j, alike in pairs:
            keep = (i < j) & apart[kind[i], kind[j]]
            for a, b, value in zip(i[keep].tolist(), j[keep].tolist(), alike[keep].tolist(), strict=True):
                if value > found.get(b, (0.0, 0, False))[0]:
                    found[b] = value, a, mirrored
    for b, (_, a, mirrored) in sorted(found.items()):
        yield paths[a], paths[b], mirrored


def similar(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Indices into ``a`` (N, 32, 32) and ``b`` (M, 32, 32) of near-duplicates, and their correlation; in blocks."""
    bits_a, bits_b = _bits(a), _bits(b)
    unit_a, unit_b = _unit(a), _unit(b)
    for start in range(0, len(a), BLOCK):
        # of vectors of 1 and -1 the product is 64 - 2 x the number of bits that differ
        i, j = np.nonzero(bits_a[start : start + BLOCK] @ bits_b.T >= 64 - 2 * BITS)
        i, j = i[:CHECKED] + start, j[:CHECKED]
        alike = np.concatenate([np.zeros(0, np.float32)] + [
            np.einsum("nk,nk->n", unit_a[i[k : k + 4096]], unit_b[j[k : k + 4096]]) for k in range(0, len(i), 4096)
        ])  # fmt: skip
        keep = alike >= ALIKE
        yield i[keep], j[keep], alike[keep]


def _bits(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 32, 32) -> (N, 64): 1 or -1, whether a frequency is above the median of all but the mean."""
    k, n = np.arange(8)[:, None], np.arange(SIDE)
    cosines = np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE)).astype(np.float32)  # (8, 32): the lowest rows of a DCT
    low: NDArray[Any] = (cosines @ gray.astype(np.float32) @ cosines.T).reshape(-1, 64)
    above: NDArray[np.float32] = np.where(low > np.median(low[:, 1:], axis=1, keepdims=True), 1, -1).astype(np.float32)
    return above


def _unit(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 32, 32) -> (N, 256): the means of 2 x 2 pixels, of mean 0 and length 1. Coarser, small shifts cost less."""
    half = gray.reshape(len(gray), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4), dtype=np.float32)
    flat: NDArray[np.float32] = half.reshape(len(gray), -1)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat
