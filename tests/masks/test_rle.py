"""RLE runs against bitmaps, and COCO's RLE and polygons against pycocotools 2.0.11."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveal.masks.polygons import rasterize
from foveal.masks.rle import Masks, squeeze, unsqueeze

SIZES = ((1, 1), (1, 9), (9, 1), (13, 17), (40, 31))


def bitmaps(rng: np.random.Generator, n: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Random dots, large pieces, empty and full ones."""
    masks = rng.random((n, *size)) < rng.random((n, 1, 1))
    masks[0], masks[1] = False, True
    masks[2, :, : size[1] // 2] = True
    masks[3, size[0] // 3 :] = False
    return masks


@pytest.mark.parametrize("size", SIZES)
def test_rle_round_trips_bitmaps(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    dense = bitmaps(rng, 12, size)
    masks = Masks.of_dense(dense)
    assert len(masks) == 12 and masks.size == size
    np.testing.assert_array_equal(masks.dense(), dense)
    np.testing.assert_array_equal(masks.area(), dense.sum((1, 2)))
    np.testing.assert_array_equal(masks.flipped().dense(), dense[:, :, ::-1])
    some = rng.permutation(12)[:5]
    np.testing.assert_array_equal(masks[some].dense(), dense[some])
    np.testing.assert_array_equal(masks[dense.any((1, 2))].dense(), dense[dense.any((1, 2))])
    np.testing.assert_array_equal(masks[3:5].dense(), dense[3:5])
    np.testing.assert_array_equal(Masks.join([masks[:2], masks[2:]], size).dense(), dense)
    np.testing.assert_array_equal(Masks.of_counts(masks.counts(), size).dense(), dense)
    for box, mask in zip(masks.extents(), dense, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if mask.any() else [0, 0, 0, 0]
        assert box.tolist() == expected


def test_windows_and_sizes() -> None:
    rng = np.random.default_rng(1)
    dense = bitmaps(rng, 6, (20, 24))
    masks = Masks.of_dense(dense)
    for top, left, height, width in ((3, 4, 10, 9), (-5, -2, 12, 40), (0, 20, 50, 50), (25, 30, 4, 4)):
        wide = np.pad(dense, ((0, 0), (60, 60), (60, 60)))
        expected = wide[:, 60 + top : 60 + top + height, 60 + left : 60 + left + width]
        np.testing.assert_array_equal(masks.window(top, left, height, width).dense(), expected)
    for height, width in ((20, 24), (7, 50), (41, 11), (1, 1)):
        rows = ((np.arange(height) + 0.5) * 20 / height).astype(int)
        columns = ((np.arange(width) + 0.5) * 24 / width).astype(int)
        np.testing.assert_array_equal(masks.resized(height, width).dense(), dense[:, rows[:, None], columns])


def test_overlapping_runs_are_merged() -> None:
    # column 2: rows 1..4 and 3..6 and 6..7 are rows 1..7; an empty run is none
    owner, x = np.array([1, 1, 1, 0]), np.array([2, 2, 2, 0])
    masks = Masks.of_runs((9, 4), 2, owner, x, np.array([3, 1, 6, 5]), np.array([6, 4, 7, 5]))
    assert (masks.x.tolist(), masks.top.tolist(), masks.bottom.tolist()) == ([2], [1], [7])
    assert masks.area().tolist() == [0, 6]


@pytest.mark.parametrize("size", SIZES)
def test_rle_matches_pycocotools(size: tuple[int, int]) -> None:
    peer = pytest.importorskip("pycocotools.mask")
    dense = bitmaps(np.random.default_rng(2), 12, size)
    masks = Masks.of_dense(dense)
    for mask, ours, counts in zip(dense, masks.to_coco(), masks.counts(), strict=True):
        theirs = peer.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert ours["counts"] == theirs["counts"].decode() and ours["size"] == list(theirs["size"])
        assert counts.sum() == mask.size
        np.testing.assert_array_equal(unsqueeze(ours["counts"]), counts)


def test_the_text_of_large_numbers() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 1 << rng.integers(1, 30, 400))
    np.testing.assert_array_equal(unsqueeze(squeeze(counts)), counts)
    assert len(unsqueeze("")) == 0 and squeeze(np.zeros(0, np.int64)) == ""
    for text in ("Z\x01", "0P", "ooooooooooo0", "é"):
        with pytest.raises(ValueError, match="run lengths"):
            unsqueeze(text)


def polygon(rng: np.random.Generator, size: tuple[int, int], kind: int) -> list[float]:
    """Corners on pixels or between, inside or over the edge, also crossing themselves, repeated or in a line."""
    n = int(rng.integers(3, 12))
    corners = rng.random((n, 2)) * np.array(size[::-1]) * rng.choice([1.0, 1.6]) - rng.choice([0.0, 5.0])
    if kind % 3 == 0:
        corners = np.rint(corners)
    if kind % 5 == 0:
        corners[1] = corners[0]
    if kind % 7 == 0:
        corners[:, kind % 2] = corners[0, kind % 2]
    return [float(v) for v in corners.reshape(-1)]


def decoded(peer: Any, coded: dict[str, Any]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, in pycocotools
        return np.asarray(peer.decode(coded)).astype(bool)


def test_polygons_match_pycocotools() -> None:
    peer = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(4)
    for size in ((37, 50), (64, 20), (5, 5)):
        objects = [[polygon(rng, size, k + j) for j in range(1 + k % 3)] for k in range(80)]
        ours = rasterize([*objects, []], size)
        assert len(ours) == 81 and ours.area()[-1] == 0
        dense = ours.dense()
        for k, polygons in enumerate(objects):
            theirs = decoded(peer, peer.merge(peer.frPyObjects(polygons, *size)))
            np.testing.assert_array_equal(dense[k], theirs, err_msg=str(polygons))


def test_empty_polygon_list() -> None:
    assert len(rasterize([], (4, 4))) == 0
    assert rasterize([[[1, 1, 1, 1, 1, 1]]], (4, 4)).area().tolist() == [0]


def test_a_square_by_hand() -> None:
    # corners 1, 1 to 4, 3: columns 1, 2, 3 and rows 1, 2
    dense = rasterize([[[1, 1, 4, 1, 4, 3, 1, 3]]], (5, 6)).dense()[0]
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(dense, expected)


def test_union_and_difference_equal_those_of_bitmaps() -> None:
    rng = np.random.default_rng(0)
    for shape in ((3, 17, 11), (1, 1, 5), (2, 6, 1)):
        for density in (0.0, 0.3, 0.9, 1.0):
            a, b = rng.random(shape) < 0.6, rng.random(shape) < density
            taken = Masks.of_dense(b).union()
            np.testing.assert_array_equal(taken.dense()[0], b.any(0))
            left = Masks.of_dense(a).minus(taken)
            np.testing.assert_array_equal(left.dense(), a & ~b.any(0))
            assert left.area().tolist() == (a & ~b.any(0)).sum((1, 2)).tolist()
