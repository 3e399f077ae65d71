"""Every check of the diagnosis detects its injected error, and reports nothing for correct detections."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from foveal.evaluation import DetectionTable, GroundTruth, diagnose, score_detections
from foveal.evaluation.box_formats import with_boxes
from foveal.evaluation.tables import width_height
from foveal.files.aliases import Floats

CLASSES = ["cat", "dog", "car", "bird"]


def make(seed: int = 0, sizes: bool = True) -> tuple[GroundTruth, DetectionTable]:
    """60 images of many sizes; a decent detector: one jittered box for 9 of 10 objects and as many false positives."""
    rng = np.random.default_rng(seed)
    size = rng.integers(250, 700, (60, 2))
    image = np.sort(rng.integers(0, 60, 240))
    side = rng.uniform(0.15, 0.4, (240, 2)) * size[image, ::-1]
    low = rng.random((240, 2)) * (size[image, ::-1] - side)
    truth = GroundTruth.build(
        range(100, 160),
        CLASSES,
        image,
        rng.integers(0, 4, 240),
        np.concatenate([low, low + side], 1),
        sizes=size if sizes else None,
    )
    kept = np.flatnonzero(rng.random(240) < 0.9)
    false = rng.integers(0, 240, 220)
    box = truth.box[kept] + rng.normal(0, 0.04, (len(kept), 4)) * np.tile(side[kept], 2)
    away = truth.box[false] * 0.5 + rng.random((220, 2))[:, [0, 1, 0, 1]] * 60
    return truth, DetectionTable.build(
        np.concatenate([image[kept], image[false]]),
        np.concatenate([truth.label[kept], rng.integers(0, 4, 220)]),
        np.concatenate([box, away]),
        np.concatenate([rng.uniform(0.4, 1, len(kept)), rng.uniform(0.01, 0.6, 220)]),
    )


def check_diagnosis(truth: GroundTruth, found: DetectionTable, words: str) -> None:
    """The first note must match. Numbers after "about" are estimates: 3 % are allowed."""
    got = diagnose(truth, found)
    about = r"about ([\d.]+)(?: x ([\d.]+) pixels)?"
    form = re.sub(about, "about", words)
    assert got and form in re.sub(about, "about", got[0]), got
    for want, value in zip(numbers(about, words), numbers(about, got[0]), strict=False):
        assert value == pytest.approx(want, rel=0.03), got


def numbers(pattern: str, text: str) -> list[float]:
    return [float(n) for pair in re.findall(pattern, text) for n in pair if n]


def test_faultless_detections_have_no_diagnosis() -> None:
    truth, found = make()
    assert score_detections(truth, found).numbers["AP50"] > 0.6  # type: ignore[operator]
    assert diagnose(truth, found) == []
    assert score_detections(truth, found).notes == ()


# -------------------------------------------------------------------------------------------- the boxes
def sides(box: Floats) -> Floats:
    return np.stack(width_height(box), 1)


def center(box: Floats) -> Floats:
    return (box[:, :2] + box[:, 2:]) / 2


def both(low: Floats, high: Floats) -> Floats:
    return np.concatenate([low, high], 1)


FORMS: list[tuple[str, Callable[[Floats], Floats]]] = [
    ("look like x, y, width, height but are read as corners", lambda b: both(b[:, :2], sides(b))),
    ("look like corners x1, y1, x2, y2 but", lambda b: both(b[:, :2], b[:, :2] + b[:, 2:])),
    ("look like center x, center y, width, height but are read as corners", lambda b: both(center(b), sides(b))),
    ("height but are read as x, y, width, height", lambda b: both(center(b), center(b) + sides(b))),
    ("x and y of the boxes are swapped", lambda b: b[:, [1, 0, 3, 2]]),
    ("a resized image: x times about 1.6, y times about 1.6", lambda b: b * 1.6),
    ("a resized image: x times about 0.4, y times about 0.8", lambda b: b * [0.4, 0.8, 0.4, 0.8]),
]


@pytest.mark.parametrize(("words", "change"), FORMS, ids=[w for w, _ in FORMS])
def test_wrong_box_format(words: str, change: Callable[[Floats], Floats]) -> None:
    truth, found = make()
    check_diagnosis(truth, with_boxes(found, change(found.box)), words)


FRAMES: list[tuple[str, Callable[[Floats, Floats], Floats]]] = [
    ("normalized to 0..1", lambda b, s: b / np.tile(s, 2)),
    ("they are x, y, width, height read as corners", lambda b, s: both(b[:, :2], sides(b)) / np.tile(s, 2)),
    ("they are center x, center y", lambda b, s: both(center(b), sides(b)) / np.tile(s, 2)),
    ("their x, y is the center", lambda b, s: both(center(b), center(b) + sides(b)) / np.tile(s, 2)),
    ("about 300 x 300 pixels", lambda b, s: b / np.tile(s, 2) * 300),
    ("shorter side has about 800 pixels", lambda b, s: b * (800 / s.min(1))[:, None]),
    ("longer side has about 1333 pixels", lambda b, s: b * (1333 / s.max(1))[:, None]),
    (
        "a letterbox of 416 x 416",
        lambda b, s: b * (416 / s.max(1))[:, None] + np.tile((416 - s * (416 / s.max(1))[:, None]) / 2, 2),
    ),
]


@pytest.mark.parametrize(("words", "change"), FRAMES, ids=[w for w, _ in FRAMES])
def test_wrong_coordinate_frame(words: str, change: Callable[[Floats, Floats], Floats]) -> None:
    truth, found = make()
    assert truth.sizes is not None
    size = truth.sizes[found.image][:, ::-1].astype(np.float64)
    check_diagnosis(truth, with_boxes(found, change(found.box, size)), words)


def test_normalized_boxes_without_image_sizes() -> None:
    truth, found = make(sizes=False)
    check_diagnosis(truth, with_boxes(found, found.box / 700), "No detected coordinate is above 2")


@pytest.mark.parametrize(("step", "words"), [(1.0, "1-based corners"), (-1.0, "subtracted twice")])
def test_one_pixel_off(step: float, words: str) -> None:
    """A detector that repeats tiny objects: one pixel is enough for a low AP."""
    rng = np.random.default_rng(0)
    low = rng.integers(10, 300, (80, 2))
    box = np.concatenate([low, low + rng.integers(5, 9, (80, 2))], 1).astype(np.float64)
    truth = GroundTruth.build(range(20), ["x"], np.arange(80) % 20, np.zeros(80), box)
    score = np.linspace(0.01, 1, 80)
    noisy = box + rng.normal(0, 0.3, box.shape)
    assert diagnose(truth, DetectionTable.build(truth.image, truth.label, noisy, score)) == []
    check_diagnosis(truth, DetectionTable.build(truth.image, truth.label, noisy + step, score), words)
    check_diagnosis(
        truth, DetectionTable.build(truth.image, truth.label, noisy + np.array([step, step, 0, 0]), score), words
    )


# ----------------------------------------------------------------------------------- images and classes
@pytest.mark.parametrize(("step", "words"), [(-1, "fit the next image"), (1, "fit the previous image")])
def test_image_ids_off_by_one(step: int, words: str) -> None:
    truth, found = make()
    image = found.image + step
    inside = (image >= 0) & (image < 60)
    check_diagnosis(truth, replace(found[inside], image=image[inside]), words)


def test_detections_of_another_split() -> None:
    truth, found = make()
    check_diagnosis(truth, found[found.image < 20], "images with objects have no detection (such as 120, 121, 122)")


@pytest.mark.parametrize(("step", "words"), [(1, "shifted by one, one too high"), (-1, "shifted by one, one too low")])
def test_labels_shifted(step: int, words: str) -> None:
    truth, found = make()
    check_diagnosis(truth, replace(found, label=(found.label + step) % 4), words)


def test_classes_in_another_order() -> None:
    truth, found = make()
    order = np.array([2, 3, 0, 1])
    check_diagnosis(
        truth, replace(found, label=order[found.label]), "objects and what they are called: cat -> car, dog -> bird"
    )


def test_random_labels() -> None:
    truth, _ = make()
    wrong = (truth.label + 1 + np.arange(240) % 3) % 4  # never right, no order
    check_diagnosis(
        truth,
        DetectionTable.build(truth.image, wrong, truth.box, np.linspace(0.01, 1, 240)),
        "boxes fit but the labels do not",
    )


def test_classes_without_objects_or_detections() -> None:
    truth, found = make()
    check_diagnosis(truth[truth.label != 2], found, "No object counts in class 'car': its AP is undefined")
    check_diagnosis(truth, found[found.label != 1], "There is no detection of class 'dog': its AP is 0")
    check_diagnosis(truth[truth.label == 0], found, "No object counts in 3 classes (dog, car, bird)")


# ------------------------------------------------------------------------------------------- the scores
def test_equal_scores() -> None:
    truth, found = make()
    assert "All 4" in (got := diagnose(truth, replace(found, score=np.full(len(found), 0.01))))[1] and len(got) == 2
    check_diagnosis(truth, replace(found, score=np.full(len(found), 0.05)), "scores are 0.05")


def test_inverted_scores() -> None:
    truth, found = make()
    check_diagnosis(truth, replace(found, score=1.01 - found.score), "scores look inverted")


def test_detections_cut_at_a_score_threshold() -> None:
    truth, found = make()
    cut = found[found.score >= 0.3]
    check_diagnosis(truth, cut, "The lowest score is 0.3")
    assert "were thresholded" in score_detections(truth, cut).notes[0]  # said also when AP is good


def test_known_score_threshold_is_not_diagnosed() -> None:
    """Scores of SVMs or queries have no fixed minimum: the detector's own threshold decides."""
    truth, found = make()
    high = found[found.score >= 0.3]
    assert not score_detections(truth, replace(high, min_score=0.01)).notes
    assert "drops everything below a score of 0.2" in score_detections(truth, replace(high, min_score=0.2)).notes[0]


def test_an_untrained_detector() -> None:
    truth, found = make()
    check_diagnosis(truth, replace(found, score=found.score / 30), "The highest score is 0.033")
    rng = np.random.default_rng(1)
    low = rng.random((len(found), 2)) * 400
    check_diagnosis(truth, with_boxes(found, both(low, low + 10)), "Hardly any box overlaps an object by half")


# ------------------------------------------------------------------------------------------ empty input
def test_no_objects_and_no_detections() -> None:
    truth, found = make()
    none = found[:0]
    check_diagnosis(truth, none, "There are no detections at all")
    check_diagnosis(truth[:0], found, "The dataset has no object at all")
    check_diagnosis(replace(truth, difficult=np.ones(240, bool)), found, "All objects are difficult or crowds")
    assert len(diagnose(truth[:0], none)) == 2
    flat = with_boxes(found, found.box[:, [2, 1, 0, 3]])
    check_diagnosis(truth, flat, "have no area (x2 <= x1 or y2 <= y1)")


def test_a_zero_comes_with_its_diagnosis() -> None:
    truth, found = make()
    truth1 = replace(truth, classes=(*truth.classes, "last"))
    results = score_detections(truth1, replace(found, label=found.label + 1)[np.arange(len(found)) < 200])
    assert results.headline is not None and results.headline < 0.005
    assert "shifted by one" in results.notes[0] and f"note: {results.notes[0]}" in results.text()
    empty = score_detections(truth[:0], found)
    assert empty.headline is None and "no object at all" in empty.text()
