"""Properties of masks: every operation on runs equals the same on bitmaps; COCO's text and polygons as pycocotools."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as peer
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveal.masks.polygons import rasterize
from foveal.masks.rle import Masks, squeeze, unsqueeze
from tests.helpers.properties import bitmaps, examples

Bits = NDArray[np.bool_]
EDGES = st.integers(-12, 12)


def equal(masks: Masks, dense: Bits) -> bool:
    """And the runs are in order, none empty, none touching: one form for one mask."""
    flat = [f + masks.owner * dense[0].size for f in masks.flat()] if len(dense) else [np.zeros(0, int)] * 2
    column = (masks.x[1:] == masks.x[:-1]) & (masks.owner[1:] == masks.owner[:-1])
    apart = (flat[0][1:] > flat[1][:-1]) | ((flat[0][1:] == flat[1][:-1]) & ~column)
    return bool(np.array_equal(masks.dense(), dense) and (masks.bottom > masks.top).all() and apart.all())


@given(bitmaps())
def test_bitmaps_and_counts_are_the_same_again(dense: Bits) -> None:
    masks = Masks.of_dense(dense)
    assert equal(masks, dense) and len(masks) == len(dense)
    assert equal(Masks.of_counts(masks.counts(), masks.size), dense)
    assert masks.area().tolist() == dense.sum((1, 2)).tolist()


@given(bitmaps(1, 3), st.data())
def test_runs_that_overlap_are_their_union(dense: Bits, data: st.DataObject) -> None:
    n, height, width = dense.shape
    row = st.tuples(st.integers(0, n - 1), st.integers(0, width - 1), st.integers(0, height), st.integers(0, height))
    runs = np.array(data.draw(st.lists(row, max_size=12)), np.int64).reshape(-1, 4)
    painted = np.zeros_like(dense)
    for owner, x, top, bottom in runs.tolist():
        painted[owner, top:bottom, x] = True
    assert equal(Masks.of_runs((height, width), n, *runs.T), painted)


@given(bitmaps(1, 4), st.integers(0, 3))
def test_union_and_difference_are_those_of_bitmaps(dense: Bits, which: int) -> None:
    masks, other = Masks.of_dense(dense), dense[which % len(dense)]
    assert equal(masks.union(), dense.any(0)[None])
    assert equal(masks.minus(Masks.of_dense(other[None])), dense & ~other)


@given(bitmaps(), EDGES, EDGES, st.integers(1, 15), st.integers(1, 15))
def test_a_window_is_that_of_the_bitmap(dense: Bits, top: int, left: int, height: int, width: int) -> None:
    wide = np.pad(dense, ((0, 0), (30, 30), (30, 30)))
    expected = wide[:, 30 + top : 30 + top + height, 30 + left : 30 + left + width]
    assert equal(Masks.of_dense(dense).window(top, left, height, width), expected)


@given(bitmaps(), st.integers(1, 20), st.integers(1, 20))
def test_resizing_takes_the_pixel_under_the_center(dense: Bits, height: int, width: int) -> None:
    rows = [(2 * i + 1) * dense.shape[1] // (2 * height) for i in range(height)]
    columns = [(2 * i + 1) * dense.shape[2] // (2 * width) for i in range(width)]
    assert equal(Masks.of_dense(dense).resized(height, width), dense[:, rows][:, :, columns])


@given(bitmaps(), st.lists(st.integers(0, 3), max_size=5))
def test_flips_picks_and_joins_are_those_of_bitmaps(dense: Bits, rows: list[int]) -> None:
    masks = Masks.of_dense(dense)
    assert equal(masks.flipped(), dense[:, :, ::-1])
    picked = np.array([r % len(dense) for r in rows if len(dense)], np.int64)
    assert equal(masks[picked], dense[picked])
    assert equal(Masks.join([masks, masks[picked]], masks.size), np.concatenate([dense, dense[picked]]))
    expected = [
        [int(np.flatnonzero(bits.any(k)).min()) for k in (0, 1)]
        + [int(np.flatnonzero(bits.any(k)).max()) + 1 for k in (0, 1)]
        if bits.any()
        else [0] * 4
        for bits in dense
    ]
    assert masks.extents().tolist() == expected


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**33)), max_size=12))
def test_any_run_lengths_are_read_from_their_text(counts: list[int]) -> None:
    assert unsqueeze(squeeze(np.array(counts, np.int64))).tolist() == counts


@given(bitmaps(1, 1, 12))
def test_compressed_text_is_that_of_pycocotools(dense: Bits) -> None:
    ours = Masks.of_dense(dense).to_coco()[0]["counts"]
    assert ours == peer.encode(np.asfortranarray(dense[0].astype(np.uint8)))["counts"].decode()


@example("\u0100")  # was read as "?", the text of 15
@given(st.text(st.characters(min_codepoint=0, max_codepoint=300), max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """What is read is the value of the text: written again it is the same, unless digits were superfluous."""
    try:
        values = unsqueeze(text)
    except ValueError:
        return
    assert all(48 <= ord(c) < 112 for c in text)
    assert unsqueeze(squeeze(values)).tolist() == values.tolist() and len(squeeze(values)) <= len(text)


CORNER = st.one_of(st.integers(-3, 16), st.floats(-40, 40), st.sampled_from([0.5, 7.5, 15.9999, 1000.0]))
POLYGON = st.lists(st.tuples(CORNER, CORNER), min_size=3, max_size=7)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
@examples(300)
@given(st.lists(POLYGON, min_size=1, max_size=3), st.integers(1, 16), st.integers(1, 16))
def test_polygons_have_the_pixels_of_pycocotools(
    polygons: list[list[tuple[float, float]]], height: int, width: int
) -> None:
    flat = [[float(v) for corner in polygon for v in corner] for polygon in polygons]
    theirs = peer.decode(peer.merge(peer.frPyObjects(flat, height, width)))
    assert equal(rasterize([flat], (height, width)), theirs[None].astype(bool))


@given(st.lists(POLYGON, min_size=1, max_size=2), st.integers(0, 5), st.integers(0, 5))
def test_polygons_that_move_by_pixels_move_their_mask(
    polygons: list[list[tuple[float, float]]], x: int, y: int
) -> None:
    """On fifths of a pixel, which is what corners are rounded to; right and below the corner of the canvas."""
    whole = [[abs(round(v) % 20) + 0.0 for corner in polygon for v in corner] for polygon in polygons]
    moved = [[v + (x, y)[i % 2] for i, v in enumerate(polygon)] for polygon in whole]
    first, second = rasterize([whole], (32, 32)), rasterize([moved], (32, 32))
    assert equal(second, first.window(-y, -x, 32, 32).dense())


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_canvas_without_pixels(size: tuple[int, int]) -> None:
    dense = np.zeros((2, *size), bool)
    masks = Masks.of_dense(dense)
    assert masks.dense().shape == dense.shape and masks.union().dense().shape == (1, *size)
    assert masks.area().tolist() == [0, 0]
