"""Properties of proposals: files are read as written or refused; windows; padding; frames."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.errors import FovealError
from foveal.external_proposals.file import TableImage, read_table, write_table
from foveal.parts.selective_search import Proposed, SlidingWindows
from foveal.types import Images, Target, Targets, pad_boxes
from tests.helpers.properties import QUARTERS, REAL, boxes, examples, flags, labels, sized_boxes


@st.composite
def tables(draw: Any) -> tuple[list[TableImage], list[Proposed]]:
    """Up to four images with boxes of at most 300 pixels, scores falling."""
    images, proposals = [], []
    for i in range(draw(st.integers(0, 4))):
        some = draw(sized_boxes(0, 5, (QUARTERS, REAL))).numpy()
        images.append(TableImage(f"{i:064x}", draw(st.text(max_size=5))))
        proposals.append(Proposed(some, np.linspace(1, 0, len(some), dtype=np.float32)))
    return images, proposals


@examples(150)  # written and synced
@given(tables(), st.text(max_size=8))
def test_proposals_are_read_as_they_were_written(made: Any, setting: str) -> None:
    images, proposals = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proposals.safetensors"
        write_table(path, setting, images, proposals)
        table = read_table(path)
        assert table.setting == setting and list(table.images) == images
        for row, expected in enumerate(proposals):
            for read in (table.of(row, 1000, 1000), table.read(row)):
                assert np.array_equal(read.boxes, expected.boxes) and np.array_equal(read.scores, expected.scores)


@examples(150)  # written and synced
@given(tables(), st.floats(0, 0.9999))
def test_a_file_that_was_cut_is_refused(made: Any, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proposals.safetensors"
        write_table(path, "setting", *made)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FovealError, match="proposals"):
            read_table(path)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 1), st.floats(0.25, 4), st.floats(0.2, 2))
def test_sliding_windows_lie_in_the_image_and_cover_it(
    height: int, width: int, size: float, ratio: float, stride: float
) -> None:
    """Two neighbors are at most ``stride`` times their side apart, and the outer ones touch the borders."""
    made = SlidingWindows(sizes=(size,), ratios=(ratio,), stride=stride)(np.zeros((height, width, 3), np.uint8))
    some = made.boxes.astype(np.float64)
    near = 1e-4 * max(height, width)
    assert (some[:, :2] >= -near).all() and (some[:, 2:] <= np.array([width, height]) + near).all()
    assert (some[:, 2:] > some[:, :2]).all() and (np.diff(made.scores) < 0).all()
    for axis, whole in ((0, width), (1, height)):
        starts, ends = np.unique(some[:, axis]), np.unique(some[:, axis + 2])
        assert starts[0] <= near and ends[-1] >= whole - near
        assert (np.diff(starts) <= stride * (some[0, axis + 2] - some[0, axis]) + near).all()


@given(st.lists(boxes(0, 4), min_size=1, max_size=3))
def test_padding_is_undone_by_its_flags(some: list[Tensor]) -> None:
    padded, valid = pad_boxes(some)
    assert valid.shape == padded.shape[:2] and not padded[~valid].any() and padded.shape[1] >= 1
    assert all(torch.equal(p[v], one) for p, v, one in zip(padded, valid, some, strict=True))


@given(st.lists(st.tuples(boxes(3, 3), labels(3, classes=5), flags(3)), min_size=1, max_size=3), st.integers(0, 3))
def test_targets_are_padded_without_a_change(each: list[tuple[Tensor, Tensor, Tensor]], count: int) -> None:
    targets = [Target(b[:count], k[:count], ignore=i[:count]) for b, k, i in each]
    made = Targets.pad(targets)
    assert made.any_ignore == any(bool(t.ignore.any()) for t in targets if t.ignore is not None)
    assert not (made.valid & made.ignore).any()
    for row, target in enumerate(targets):
        used = made.valid[row] | made.ignore[row]
        assert torch.equal(made.boxes[row, used], target.boxes) and torch.equal(made.labels[row, used], target.labels)
        assert torch.equal(made.ignore[row, used], target.ignore) and not made.boxes[row, ~used].any()


@given(boxes(3, 3), st.floats(0.1, 8), st.floats(0.1, 8), st.integers(-40, 40), st.integers(-40, 40))
def test_boxes_return_from_the_network_to_the_file(some: Tensor, sx: float, sy: float, ox: int, oy: int) -> None:
    frame = torch.tensor([[sx, sy, ox, oy]])
    images = Images(torch.zeros(1, 3, 4, 4), torch.tensor([[4, 4]]), frame, torch.tensor([[4, 4]]))
    inside = images.to_network(some[None])
    torch.testing.assert_close(images.to_original(inside)[0], some, rtol=1e-5, atol=1e-3)
    x1, y1, x2, y2 = some.double().unbind(-1)
    expected = torch.stack([x1 * sx + ox, y1 * sy + oy, x2 * sx + ox, y2 * sy + oy], -1)
    torch.testing.assert_close(inside[0].double(), expected, rtol=1e-5, atol=1e-3)
