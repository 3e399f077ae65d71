"""PASCAL VOC AP against a reference loop and published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from foveal.evaluation import DetectionTable, GroundTruth, Voc, read_detections, read_text_detections, score_detections
from foveal.evaluation.voc import ELEVEN


# ------------------------------------------------------------------------------- reference implementation
def plain_loop(
    truth: GroundTruth, found: DetectionTable, label: int, eleven: bool, least: float, strict: bool, pixel: float
) -> float:
    """VOCevaldet.m and VOCap.m, line for line, one detection at a time."""
    mine = [i for i in range(len(found)) if found.label[i] == label]
    mine.sort(key=lambda i: -found.score[i])  # Python's sort is stable
    counts = [g for g in range(len(truth)) if truth.label[g] == label]
    npos = sum(not truth.difficult[g] for g in counts)
    if not npos:
        return float("nan")
    used: set[int] = set()
    tp, fp = [], []
    for i in mine:
        a, best, at = found.box[i], -np.inf, -1
        for g in counts:
            if truth.image[g] != found.image[i]:
                continue
            b = truth.box[g]
            w = min(a[2], b[2]) - max(a[0], b[0]) + pixel
            h = min(a[3], b[3]) - max(a[1], b[1]) + pixel
            if w <= 0 or h <= 0:
                continue
            shared = w * h
            area_a = (a[2] - a[0] + pixel) * (a[3] - a[1] + pixel)
            area_b = (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)
            overlap = shared / (area_a + area_b - shared)
            if overlap > best:
                best, at = overlap, g
        if best > least if strict else best >= least:
            if truth.difficult[at]:
                tp.append(0.0)
                fp.append(0.0)
                continue
            tp.append(0.0 if at in used else 1.0)
            fp.append(1.0 if at in used else 0.0)
            used.add(at)
        else:
            tp.append(0.0)
            fp.append(1.0)
    hits, misses = np.cumsum(tp), np.cumsum(fp)
    recall = hits / npos
    precision = hits / np.maximum(hits + misses, np.finfo(float).eps)
    if eleven:
        return float(sum(precision[recall >= t].max(initial=0.0) / 11 for t in np.arange(0.0, 1.1, 0.1)))
    r = np.concatenate([[0.0], recall, [1.0]])
    p = np.concatenate([[0.0], precision, [0.0]])
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    step = np.flatnonzero(r[1:] != r[:-1])
    return float(((r[step + 1] - r[step]) * p[step + 1]).sum())


def random_set(rng: np.random.Generator) -> tuple[GroundTruth, DetectionTable]:
    """Integer pixels, few score levels, difficult objects, empty images and classes."""
    images, classes = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    g, n = int(rng.integers(0, 30)), int(rng.integers(0, 60))
    corner = rng.integers(0, 60, (g, 2))
    box = np.concatenate([corner, corner + rng.integers(1, 40, (g, 2))], 1).astype(np.float64)
    truth = GroundTruth.build(
        [f"{i:03d}" for i in rng.permutation(images)],
        [f"c{k}" for k in range(classes)],
        rng.integers(0, images, g),
        rng.integers(0, classes, g),
        box,
        difficult=rng.random(g) < 0.3,
    )
    image, label = rng.integers(0, images, n), rng.integers(0, classes, n)
    corner = rng.integers(0, 60, (n, 2))
    found_box = np.concatenate([corner, corner + rng.integers(0, 40, (n, 2))], 1).astype(np.float64)
    if g:
        near, source = rng.random(n) < 0.8, rng.integers(0, g, n)
        found_box[near] = (box[source] + rng.integers(-3, 4, (n, 4)))[near]
        found_box[:, 2:] = np.maximum(found_box[:, 2:], found_box[:, :2])
        image[near], label[near] = truth.image[source][near], truth.label[source][near]
    score = rng.integers(0, 6, n) / 8.0 if rng.random() < 0.6 else rng.random(n)
    return truth, DetectionTable.build(image, label, found_box, score)


# -------------------------------------------------------------------------------------- random comparison
@pytest.mark.parametrize("metric", ["11-point", "area"])
@pytest.mark.parametrize(("iou", "strict", "plus_one"), [(0.5, False, False), (0.5, True, True), (0.3, False, True)])
def test_random_sets_match_the_reference_loop(metric: Any, iou: float, strict: bool, plus_one: bool) -> None:
    rng = np.random.default_rng(11)
    protocol = Voc(metric, iou=iou, strict=strict, plus_one=plus_one)
    some = 0
    for _ in range(100):
        truth, found = random_set(rng)
        got = [v["AP"] for v in score_detections(truth, found, protocol).per_class.values()]
        for k, ap in enumerate(got):
            want = plain_loop(truth, found, k, metric == "11-point", iou, strict, float(plus_one))
            assert np.isclose(np.nan if ap is None else ap, want, rtol=0, atol=1e-12, equal_nan=True)
            some += 0 < want < 1
    assert some > 100  # the sets are not trivial


# -------------------------------------------------------------------------------------------------- rules
OBJECTS = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]


def three(**more: Any) -> GroundTruth:
    return GroundTruth.build(["a"], ["x"], [0] * 3, [0] * 3, OBJECTS, **more)


def test_both_voc_metrics_by_hand() -> None:
    """TP, FP, TP of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    found = DetectionTable.build([0] * 3, [0] * 3, [OBJECTS[0], [80, 80, 90, 90], OBJECTS[1]], [0.9, 0.8, 0.7])
    # recalls 0, .1, .2, .3 see precision 1; .4, .5, .6 see 2/3; the rest 0
    assert score_detections(three(), found, "voc07").headline == pytest.approx((4 + 3 * 2 / 3) / 11, abs=1e-15)
    assert score_detections(three(), found, "voc10").headline == pytest.approx((1 + 2 / 3) / 3, abs=1e-15)


def test_the_eleven_thresholds_are_those_of_arange() -> None:
    """0.1 * 3 is 0.30000000000000004: 3 of 10 objects found do not reach it (with 0.3 they would)."""
    assert ELEVEN[3] > 0.3 and len(ELEVEN) == 11
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    truth = GroundTruth.build(["a"], ["x"], [0] * 10, [0] * 10, boxes)
    found = DetectionTable.build([0] * 3, [0] * 3, boxes[:3], [0.9, 0.8, 0.7])
    assert score_detections(truth, found, "voc07").headline == pytest.approx(3 / 11, abs=1e-15)


def test_voc_detection_only_matches_its_best_object() -> None:
    """Both detections overlap the first object most; the second is an FP although another object is unmatched."""
    truth = GroundTruth.build(["a"], ["x"], [0, 0], [0, 0], [[0, 0, 100, 100], [0, 10, 100, 110]])
    found = DetectionTable.build([0, 0], [0, 0], [[0, 0, 100, 100], [0, 1, 100, 101]], [0.9, 0.8])
    assert score_detections(truth, found, "voc10").headline == pytest.approx(0.5)
    assert score_detections(truth, found, "coco").numbers["AP50"] == pytest.approx(1.0)  # COCO gives it the second


def test_difficult_objects_count_as_neither_tp_nor_fp() -> None:
    found = DetectionTable.build([0] * 3, [0] * 3, [OBJECTS[0], OBJECTS[0], OBJECTS[1]], [0.9, 0.8, 0.7])
    results = score_detections(three(difficult=[True, False, False]), found, "voc10")
    assert results.headline == pytest.approx(0.5) and results.objects == {"x": 2}
    assert results.curves["x"].precision.tolist() == [1.0]
    # a crowd under a VOC protocol is treated the same way
    assert score_detections(three(crowd=[True, False, False]), found, "voc10").headline == pytest.approx(0.5)
    assert score_detections(three(difficult=[True] * 3), found, "voc10").headline is None


def test_iou_threshold_boundary() -> None:
    """IoU of exactly one half is a true positive, except in the strict form."""
    found = DetectionTable.build([0], [0], [[0, 0, 10, 5]], [0.9])
    truth = GroundTruth.build(["a"], ["x"], [0], [0], [[0, 0, 10, 10]])
    assert score_detections(truth, found, "voc10").headline == 1.0
    assert score_detections(truth, found, "voc10", strict=True).headline == 0.0
    assert score_detections(truth, found, "voc10", iou=0.51).headline == 0.0
    # 11 x 6 of 11 x 11 pixels
    assert score_detections(truth, found, "voc10", strict=True, plus_one=True).headline == 1.0


def test_stable_form_and_text() -> None:
    truth = GroundTruth.build(["a"], ["x", "never"], [0], [0], [[0, 0, 10, 10]])
    results = score_detections(truth, DetectionTable.build([0], [0], [[0, 0, 10, 10]], [0.9]), "voc07", split="test")
    assert results.to_dict() == {
        "protocol": "voc07",
        "split": "test",
        "images": 1,
        "mAP": pytest.approx(1.0),
        "per_class": {"x": {"AP": pytest.approx(1.0)}, "never": {"AP": None}},
    }
    text = results.text()
    assert "11-point" in text and "IoU >= 0.5" in text and "never" in text and "mAP    1.0000" in text
    assert "width = x2 - x1 + 1" in str(Voc(plus_one=True)) and "area under" in str(Voc("area"))


# ----------------------------------------------------------------------------------------------- fixtures
def test_object_detection_metrics(data: Path) -> None:
    folder = data / "eval-fixtures" / "object-detection-metrics"
    expected = json.loads((folder / "expected.json").read_text())["expected"]
    files = sorted((folder / "groundtruths").glob("*.txt"))
    image, box = [], []
    for i, file in enumerate(files):
        for line in file.read_text().splitlines():
            x, y, w, h = map(float, line.split()[1:])
            image.append(i)
            box.append([x, y, x + w, y + h])
    truth = GroundTruth.build([f.stem for f in files], ["person"], image, [0] * len(image), box)
    found = read_text_detections(folder / "detections", truth, "xywh")
    assert (len(truth), len(found)) == (15, 24)
    for iou, want in expected.items():
        for protocol, name in (("voc07", "eleven_point"), ("voc10", "every_point")):
            got = score_detections(truth, found, protocol, iou=float(iou), plus_one=True).headline
            assert got == pytest.approx(want[name], abs=1e-10), (iou, name)  # some digits are cut, not rounded
    assert score_detections(truth, found, "voc10", iou=0.3).headline == pytest.approx(0.2253968254, abs=5e-11)


def toy_truth(folder: Path, classes: list[str]) -> GroundTruth:
    files = sorted((folder / "gts_vocpascal_format").glob("*.xml"))
    image, label, box, sizes = [], [], [], []
    for i, file in enumerate(files):
        root = ElementTree.parse(file).getroot()
        sizes.append([int(root.findtext(f"size/{side}", "")) for side in ("height", "width")])
        for entry in root.iter("object"):
            image.append(i)
            label.append(classes.index(entry.findtext("name", "")))
            box.append([float(entry.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")])
    return GroundTruth.build([f.stem for f in files], classes, image, label, box, sizes=sizes)


def toy_check(folder: Path, truth: GroundTruth, found: DetectionTable) -> None:
    expected = json.loads((folder / "expected.json").read_text())["expected"]
    for iou, want in expected.items():
        for protocol, name in (("voc07", "eleven_point"), ("voc10", "every_point")):
            got = score_detections(truth, found, protocol, iou=float(iou)).headline
            assert got is not None and round(got, 4) == want[name], (iou, name)


@pytest.mark.parametrize("kind", ["classid", "classname"])
@pytest.mark.parametrize(("suffix", "form"), [("abs_xywh", "xywh"), ("abs_xyx2y2", "xyxy"), ("rel_xcycwh", "relative")])
def test_toy_cat_in_all_text_formats(data: Path, kind: str, suffix: str, form: Any) -> None:
    folder = data / "eval-fixtures" / "toy-cat"
    names = (folder / "voc.names").read_text().split()
    truth = toy_truth(folder, ["cat"])
    found = read_text_detections(folder / f"dets_{kind}_{suffix}", truth, form, names)
    if form == "relative":  # the source tool rounds these to whole pixels; one IoU is .7506 before and .748 after
        low, side = np.round(found.box[:, :2]), np.round(found.box[:, 2:] - found.box[:, :2])
        rounded = np.concatenate([low, low + side], 1)
        assert np.abs(rounded - found.box).max() < 1.01
        found = DetectionTable.build(found.image, found.label, rounded, found.score)
    toy_check(folder, truth, found)


def test_toy_cat_in_coco_format(data: Path) -> None:
    """Image, category and annotation ids all count from 0 here, and the detections come in a dict."""
    folder = data / "eval-fixtures" / "toy-cat"
    raw = json.loads((folder / "gts_coco_format" / "toy_example_coco.JSON").read_text())
    box = np.array([a["bbox"] for a in raw["annotations"]], np.float64)
    truth = GroundTruth.build(
        [i["id"] for i in raw["images"]],
        [c["name"] for c in raw["categories"]],
        [a["image_id"] for a in raw["annotations"]],
        [a["category_id"] for a in raw["annotations"]],
        np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1),
        category_ids=[c["id"] for c in raw["categories"]],
    )
    assert truth.images[0] == 0 and raw["annotations"][0]["id"] == 0 and len(truth) == 12
    toy_check(folder, truth, read_detections(folder / "dets_coco_format" / "coco_dets.json", truth))
