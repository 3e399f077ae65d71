"""Selective search against OpenCV itself, and sliding windows counted by hand."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foveal.errors import UsageError
from foveal.parts.selective_search import SelectiveSearch, SlidingWindows, _color, _similarity


def sample_image(width: int = 90, height: int = 70, seed: int = 0) -> Any:
    """Three colored rectangles on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (height, width, 3))
    for color in ((220, 40, 40), (30, 200, 60), (40, 60, 230)):
        x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
        pixels[y : y + height // 3, x : x + width // 3] = np.array(color) + rng.integers(-8, 8, 3)
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture
def cv2() -> Any:
    module = pytest.importorskip("cv2", reason="needs foveal[rcnn]")
    if not hasattr(module, "ximgproc"):
        pytest.skip("OpenCV without its contrib modules")
    return module


def test_boxes_match_a_single_opencv_call(cv2: Any) -> None:
    """OpenCV 5.0.0's run over all colors, k and similarities at once; only its order is random."""
    image = sample_image()
    ours = SelectiveSearch(width=90, min_side=0)(image)
    segmentation = cv2.ximgproc.segmentation
    search = segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    for name in ("hsv", "lab"):
        search.addImage(_color(cv2, image, name))
    for k in (50, 100):
        search.addGraphSegmentation(segmentation.createGraphSegmentation(0.8, float(k), k))
    for terms in ("ctsf", "tsf"):
        search.addStrategy(_similarity(segmentation, terms))
    x, y, w, h = search.process().T
    theirs = set(zip(x.tolist(), y.tolist(), (x + w).tolist(), (y + h).tolist(), strict=True))
    assert theirs == set(map(tuple, ours.boxes.tolist())) and len(theirs) == len(ours.boxes) > 10


def test_selective_search_is_deterministic_across_threads(cv2: Any) -> None:
    source, images = SelectiveSearch(width=90, min_side=5), [sample_image(seed=i) for i in range(3)]
    alone = [source(i) for i in images]
    before = cv2.getNumThreads()
    with source.session(), ThreadPoolExecutor(3) as pool:
        assert cv2.getNumThreads() == 1
        together = list(pool.map(source, images))
    assert cv2.getNumThreads() == before
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_order_scale_and_small_boxes(cv2: Any) -> None:
    """The image is doubled for the search, so boxes of 20 px there have 10 here."""
    found = SelectiveSearch(width=180, min_side=20)(sample_image())
    assert found.boxes.dtype == found.scores.dtype == np.float32
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert (sides >= 10).all() and (found.boxes >= 0).all() and (found.boxes <= (90, 70, 90, 70)).all()
    assert len(np.unique(found.boxes, axis=0)) == len(found.boxes)
    assert (np.diff(found.scores) <= 0).all()
    # every one of the eight groupings ends in the whole image, which is its largest region: 8 / (60 + 1)
    assert found.boxes[0].tolist() == [0, 0, 90, 70] and found.scores[0] == pytest.approx(8 / 61)


def test_tall_image_is_not_upscaled(cv2: Any) -> None:
    source = SelectiveSearch(width=50)
    assert source._resized(cv2, np.zeros((300, 30, 3), np.uint8)).shape == (100, 10, 3)
    assert source._resized(cv2, np.zeros((40, 100, 3), np.uint8)).shape == (20, 50, 3)


def test_quality_mode_runs_ten_segmentations(cv2: Any) -> None:
    """Five colors x four k x four similarities against two x two x two."""
    image = sample_image(40, 30)
    counts = [len(list(SelectiveSearch(mode, width=40)._groupings(cv2, image))) for mode in ("fast", "quality")]  # type: ignore[arg-type]
    assert counts == [8, 80]


def test_missing_opencv_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"OpenCV is not installed.*foveal\[rcnn\]"):
        SelectiveSearch()(sample_image())
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.9"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"4\.9 has no contrib modules"), SelectiveSearch().session():
        pass


def test_number_of_used_proposals_is_not_part_of_the_cache_key() -> None:
    a = SelectiveSearch()
    assert replace(a, top=7).setting == a.setting != replace(a, sigma=0.5).setting
    assert SlidingWindows().setting != a.setting


@pytest.mark.parametrize("bad", [{"mode": "slow"}, {"top": 0}, {"width": 0}, {"sigma": 0.0}])
def test_invalid_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SelectiveSearch(**bad)


def test_windows_on_a_grid() -> None:
    """Of 100 x 100: the whole; then sides of 50 at 0, 25, 50 both ways (stride .5 x 50), nine of them."""
    found = SlidingWindows(sizes=(0.5, 1.0), ratios=(1.0,), stride=0.5)(np.zeros((100, 100, 3), np.uint8))
    starts = [0.0, 25.0, 50.0]
    expected = [[0, 0, 100, 100], *([x, y, x + 50, y + 50] for y in starts for x in starts)]
    np.testing.assert_allclose(found.boxes, expected)
    assert (np.diff(found.scores) < 0).all()


def test_windows_of_other_shapes_stay_inside_the_image() -> None:
    """A window of ratio 2 is sqrt(2) higher and narrower than the square; of a flat image it keeps the height."""
    found = SlidingWindows(sizes=(0.5,), ratios=(2.0,), stride=1.0)(np.zeros((80, 320, 3), np.uint8))
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    np.testing.assert_allclose(sides, [[80 / 2**0.5, 80]] * len(sides), rtol=1e-5)  # side 80; 113 would not fit
    assert (found.boxes >= 0).all() and (found.boxes <= (320, 80, 320, 80)).all()
