"""The COCO numbers and proposal recall against pycocotools and hotcoco."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foveal.cli import main as cli
from foveal.data.records.dataset import Dataset, Record
from foveal.errors import UsageError
from foveal.evaluation import Coco, DetectionTable, GroundTruth, match_table, read_detections, recall, score_detections
from foveal.evaluation import matching as matching_module
from foveal.evaluation.coco import NUMBERS, RECALLS, _hits_needed, score_coco
from foveal.evaluation.matching import chunks, descending_order, running_max_from_right
from tests.helpers.data_sets import image


# ------------------------------------------------------------------------------- reference implementation
def as_json(truth: GroundTruth, found: DetectionTable) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with ids from 1 (pycocotools takes 0 for "no match") and results, as pycocotools expects them."""

    def xywh(box: np.ndarray[Any, Any]) -> list[list[float]]:
        return np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1).tolist()  # type: ignore[no-any-return]

    category = truth.category_ids or tuple(range(1, 1 + len(truth.classes)))
    rows = zip(truth.image, truth.label, xywh(truth.box), truth.area, truth.crowd, strict=True)
    annotations = [
        {
            "id": n,
            "image_id": truth.images[i],
            "category_id": category[k],
            "bbox": b,
            "area": float(a),
            "iscrowd": int(c),
        }
        for n, (i, k, b, a, c) in enumerate(rows, 1)
    ]
    sides = truth.sizes if truth.sizes is not None else np.full((len(truth.images), 2), 500)
    data = {
        "images": [{"id": i, "height": int(h), "width": int(w)} for i, (h, w) in zip(truth.images, sides, strict=True)],
        "annotations": annotations,
        "categories": [{"id": c, "name": n} for c, n in zip(category, truth.classes, strict=True)],
    }
    cells = zip(found.image, found.label, xywh(found.box), found.score, strict=True)
    results = [
        {"image_id": truth.images[i], "category_id": category[k], "bbox": b, "score": float(s)} for i, k, b, s in cells
    ]
    return data, results


def pycocotools(data: dict[str, Any], results: list[dict[str, Any]], **params: Any) -> Any:
    """A ``COCOeval`` that has run."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt, dt = COCO(), COCO()
        gt.dataset = data
        gt.createIndex()
        # loadRes refuses an empty list; this is what it does otherwise
        rows = [{**r, "id": n, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for n, r in enumerate(results, 1)]
        dt.dataset = {**data, "annotations": rows}
        dt.createIndex()
        scorer = COCOeval(gt, dt, "bbox")
        for name, value in params.items():
            setattr(scorer.params, name, value)
        scorer.evaluate()
        scorer.accumulate()
        if not params:
            scorer.summarize()
    return scorer


def defined(values: Any) -> Any:
    """-1 -> NaN."""
    return np.where(np.asarray(values) < 0, np.nan, values)


def numbers(values: Any) -> Any:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def random_set(rng: np.random.Generator) -> tuple[GroundTruth, DetectionTable]:
    """Small edge cases: integer pixels (equal overlaps, areas on the borders), few score levels (ties), crowds, images
    and classes without objects or detections, ids that are not sorted, more detections than are evaluated."""
    images, classes = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    g, n = int(rng.integers(0, 25)), int(rng.integers(0, 60))
    if rng.random() < 0.05:
        n = 250
    span = int(rng.choice([20, 60, 300]))
    side = rng.choice([8, 16, 32, 48, 96, 120], (g, 2)) if rng.random() < 0.5 else rng.integers(1, span, (g, 2))
    corner = rng.integers(0, span, (g, 2))
    box = np.concatenate([corner, corner + side], 1).astype(np.float64)
    area = (side.prod(1) * (1.0 if rng.random() < 0.5 else rng.uniform(0.4, 1.0, g))).astype(np.float64)
    area[rng.random(g) < 0.1] = rng.choice([32.0**2, 96.0**2, 0.0, 1e10])
    truth = GroundTruth.build(
        rng.permutation(np.arange(5, 5 + 3 * images, 3)).tolist(),
        [f"c{k}" for k in range(classes)],
        rng.integers(0, max(1, images - 1), g),
        rng.integers(0, max(1, classes - int(rng.random() < 0.4)), g),
        box,
        area=area,
        crowd=rng.random(g) < rng.choice([0.0, 0.15, 0.5]),
        category_ids=np.sort(rng.choice(90, classes, replace=False)).tolist(),
    )
    found_box = np.zeros((n, 4))
    found_box[:, :2] = rng.integers(0, span, (n, 2))
    found_box[:, 2:] = found_box[:, :2] + rng.integers(0, span, (n, 2))
    image, label = rng.integers(0, images, n), rng.integers(0, classes, n)
    if g:
        near, source = rng.random(n) < 0.8, rng.integers(0, g, n)
        shift = rng.integers(-3, 4, (n, 4)) if rng.random() < 0.7 else rng.normal(0, 2, (n, 4))
        close = box[source] + shift * (rng.random((n, 1)) < 0.7)
        close[:, 2:] = np.maximum(close[:, 2:], close[:, :2])
        found_box[near] = close[near]
        image[near], label[near] = truth.image[source][near], truth.label[source][near]
    score = rng.integers(0, 6, n) / 8.0 if rng.random() < 0.6 else rng.random(n)
    return truth, DetectionTable.build(image, label, found_box, score)


# -------------------------------------------------------------------------------------- random comparison
def test_500_random_sets_equal_pycocotools() -> None:
    rng = np.random.default_rng(7)
    some = 0
    for _ in range(500):
        truth, found = random_set(rng)
        scorer = pycocotools(*as_json(truth, found))
        results = score_detections(truth, found)
        np.testing.assert_allclose(numbers(results.numbers.values()), defined(scorer.stats), rtol=0, atol=1e-12)
        table = scorer.eval["precision"][..., 0, 2]  # (T, R, C)
        for k, name in enumerate(truth.classes):
            ap, ap50 = defined(table[:, :, k]).mean(), defined(table[0, :, k]).mean()
            ours = results.per_class[name]
            np.testing.assert_allclose(numbers([ours["AP"], ours["AP50"]]), [ap, ap50], rtol=0, atol=1e-12)
        some += results.numbers["AP"] is not None and 0 < results.numbers["AP"] < 1
    assert some > 300  # the sets are not trivial


def test_all_recall_thresholds_and_limits_equal_pycocotools() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        truth, found = random_set(rng)
        scorer = pycocotools(*as_json(truth, found), maxDets=[2, 5, 9])
        ours = matching_score(truth, found, (2, 5, 9))
        np.testing.assert_allclose(ours.precision, defined(scorer.eval["precision"][..., 2]), rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.recall, defined(scorer.eval["recall"]), rtol=0, atol=1e-12)


def matching_score(truth: GroundTruth, found: DetectionTable, limits: tuple[int, int, int]) -> Any:
    return score_coco(truth, found, Coco(limits))


def equal_overlaps(order: list[int], labels: list[int]) -> tuple[GroundTruth, DetectionTable]:
    """The first detection overlaps both objects equally, the second only the right one: the tie rule decides."""
    box = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], np.float64)[order]
    truth = GroundTruth.build([1], ["x", "y"], [0, 0], np.array(labels)[order], box, category_ids=[1, 2])
    return truth, DetectionTable.build([0, 0], [0, 0], [[2, 0, 12, 10], [5, 0, 15, 10]], [0.9, 0.8])


@pytest.mark.parametrize(("order", "ar"), [([0, 1], 0.5), ([1, 0], 1.0)])
def test_equal_ious_match_the_last_object(order: list[int], ar: float) -> None:
    truth, found = equal_overlaps(order, [0, 0])
    ours = score_detections(truth, found).numbers
    np.testing.assert_allclose(numbers(ours.values()), defined(pycocotools(*as_json(truth, found)).stats), atol=1e-12)
    assert matching_score(truth, found, (1, 10, 100)).recall[0, 0, 0, 2] == ar


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_proposal_recall_matches_objects_class_by_class(order: list[int]) -> None:
    for labels in ([0, 1], [1, 0]):
        truth, found = equal_overlaps(order, labels)
        table = pycocotools(*as_json(truth, found), maxDets=[1, 2, 3], useCats=0).eval["recall"]
        got = recall(truth, found, (1, 2, 3)).at50["all"][3]
        assert got == table[0, 0, 0, 2] == (0.5 if labels == [0, 1] else 1.0)


def test_recall_steps_match_searchsorted() -> None:
    """0.07 * 100 is 7.000000000000001 but 7 / 100 reaches 0.07; every number of objects up to 500."""
    objects = np.arange(1, 501)
    want = [np.searchsorted(np.arange(n + 1) / n, RECALLS) for n in objects]
    np.testing.assert_array_equal(_hits_needed(objects), want)


def test_hotcoco_agrees(tmp_path: Path) -> None:
    import hotcoco

    rng = np.random.default_rng(9)
    done = 0
    while done < 10:
        truth, found = random_set(rng)
        if not len(truth) or not len(found):
            continue
        done += 1
        data, results = as_json(truth, found)
        (tmp_path / "gt.json").write_text(json.dumps(data))
        (tmp_path / "dt.json").write_text(json.dumps(results))
        gt = hotcoco.COCO(str(tmp_path / "gt.json"))
        scorer = hotcoco.COCOeval(gt, gt.load_res(str(tmp_path / "dt.json")), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        with contextlib.redirect_stdout(io.StringIO()):
            scorer.summarize()
        ours = numbers(score_detections(truth, found).numbers.values())
        np.testing.assert_allclose(ours, defined(np.array(scorer.stats)[:12]), rtol=0, atol=1e-12)


def test_proposal_recall_equals_pycocotools_without_classes() -> None:
    rng = np.random.default_rng(10)
    for tops in [(100, 300, 1000)] * 30 + [(2, 5, 12)] * 30:
        truth, found = random_set(rng)
        found = replace(found, label=np.zeros_like(found.label))
        scorer = pycocotools(*as_json(truth, found), maxDets=list(tops), useCats=0)
        table = defined(scorer.eval["recall"])[:, 0]  # (T, A, M)
        ours = recall(truth, found, tops)
        for a, size in enumerate(("all", "small", "medium", "large")):
            for m, top in enumerate(tops):
                np.testing.assert_allclose(numbers([ours.average[size][top]])[0], table[:, a, m].mean(), atol=1e-12)
                np.testing.assert_allclose(numbers([ours.at50[size][top]])[0], table[0, a, m], atol=1e-12)


def test_proposal_recall_by_hand() -> None:
    truth = GroundTruth.build(
        ["a", "b"], ["x", "y"], [0, 0, 1], [0, 1, 1], [[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 200, 200]]
    )
    boxes = [[0, 0, 10, 10], [50, 50, 90, 82], [300, 300, 310, 310]]  # IoU 1, 0.8, 0
    got = recall(truth, DetectionTable.build([0, 0, 1], [0, 0, 0], boxes, [0.9, 0.8, 0.7]), (1, 2, 3))
    # top 1: one of three at every threshold; top 2: the second up to .80, 7 of 10 thresholds
    assert got.average["all"] == pytest.approx({1: 1 / 3, 2: (1 + 0.7) / 3, 3: (1 + 0.7) / 3})
    assert got.at50["all"] == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 2 / 3})
    assert got.at50["small"][3] == 1.0 and got.at50["medium"][3] == 1.0 and got.at50["large"][3] == 0.0
    assert got.to_dict()["AR@2"] == pytest.approx(1.7 / 3)
    assert "recall50@3" in got.text()


# ----------------------------------------------------------------------------------------------- fixtures
def truth_of(path: Path) -> GroundTruth:
    """A COCO JSON file, read directly."""
    data = json.loads(path.read_text())
    images = [i["id"] for i in data["images"]]
    categories = sorted(data["categories"], key=lambda c: c["id"])
    ids = [c["id"] for c in categories]
    rows = data["annotations"]
    box = np.array([r["bbox"] for r in rows], np.float64)
    return GroundTruth.build(
        images,
        [c["name"] for c in categories],
        [images.index(r["image_id"]) for r in rows],
        [ids.index(r["category_id"]) for r in rows],
        np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1),
        area=[r["area"] for r in rows],
        crowd=[r["iscrowd"] for r in rows],
        sizes=[(i["height"], i["width"]) for i in data["images"]],
        category_ids=ids,
        box_area=box[:, 2] * box[:, 3],
    )


def test_val2014_sample_at_full_precision(data: Path) -> None:
    folder = data / "eval-fixtures" / "coco-val2014-100"
    expected = json.loads((folder / "expected.json").read_text())
    truth = truth_of(folder / "instances_val2014_100.json")
    found = read_detections(folder / "instances_val2014_fakebbox100_results.json", truth)
    got = score_detections(truth, found).to_dict()
    for name, value in expected["also_stated_in_source_tests_full_precision"].items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    for name, value in expected["expected"].items():
        assert round(got[name], 6) == value, name
    assert got["images"] == 100 and int(truth.crowd.sum()) == 9


def test_scoring_only_images_with_detections_gives_the_known_wrong_score(data: Path) -> None:
    """0.506985 over 99 images (data/README); the 100th image counts although it has no detection."""
    folder = data / "eval-fixtures" / "coco-val2014-100"
    truth = truth_of(folder / "instances_val2014_100.json")
    found = read_detections(folder / "instances_val2014_fakebbox100_results.json", truth)
    used = np.isin(truth.image, found.image)
    assert len(np.unique(found.image)) == 99
    assert score_detections(truth[used], found).numbers["AP"] == pytest.approx(0.506985, abs=1e-6)
    assert score_detections(truth, found).numbers["AP"] == pytest.approx(0.504581, abs=1e-6)


def test_coco128(data: Path) -> None:
    folder = data / "coco128-train2017"
    expected = json.loads((folder / "expected.json").read_text())["expected"]
    truth = truth_of(folder / "annotations" / "instances_train2017_first128.json")
    got = score_detections(truth, read_detections(folder / "detections_yolo-fastest-1.1-xl.json", truth)).to_dict()
    assert {name: round(got[name], 6) for name in expected} == expected


# -------------------------------------------------------------------------------------------------- rules
def one(**more: Any) -> GroundTruth:
    return GroundTruth.build([1], ["x"], [0, 0], [0, 0], [[0, 0, 50, 50], [100, 100, 150, 150]], **more)


def test_annotation_with_id_zero_can_be_matched() -> None:
    """pycocotools stores the matched id and reads 0 as "none": the first object is lost if ids start at 0."""
    truth, found = one(), DetectionTable.build([0, 0], [0, 0], [[0, 0, 50, 50], [100, 100, 150, 150]], [0.9, 0.8])
    data, results = as_json(truth, found)
    data["annotations"] = [{**a, "id": a["id"] - 1} for a in data["annotations"]]
    assert pycocotools(data, results).stats[0] < 0.6
    assert score_detections(truth, found).numbers["AP"] == pytest.approx(1.0, abs=1e-12)


def test_difficult_objects_are_neither_tp_nor_fn() -> None:
    """By hand: one object, hit by the second detection; the first sits on a difficult object."""
    found = DetectionTable.build([0, 0], [0, 0], [[0, 0, 50, 50], [100, 100, 150, 150]], [0.9, 0.8])
    assert score_detections(one(difficult=[True, False]), found).numbers["AP"] == pytest.approx(1.0)
    again = DetectionTable.build(
        [0, 0, 0], [0] * 3, [[0, 0, 50, 50], [0, 0, 50, 50], [100, 100, 150, 150]], [0.9, 0.85, 0.8]
    )
    # a difficult object is used up by one detection; a crowd never is
    assert score_detections(one(difficult=[True, False]), again).numbers["AP"] == pytest.approx(0.5)
    assert score_detections(one(crowd=[True, False]), again).numbers["AP"] == pytest.approx(1.0)


def test_ignore_regions_do_not_affect_the_score() -> None:
    found = DetectionTable.build([0], [0], [[100, 100, 150, 150]], [0.8])
    assert score_detections(one(ignore=[True, False]), found).numbers["AP"] == pytest.approx(1.0)
    assert score_detections(one(ignore=[True, True]), found).numbers["AP"] is None


def test_undefined_ap_is_none_and_excluded_from_the_mean() -> None:
    truth = GroundTruth.build([1], ["x", "never"], [0], [0], [[0, 0, 50, 50]])
    results = score_detections(
        truth, DetectionTable.build([0, 0], [0, 1], [[0, 0, 50, 50]] * 2, [0.9, 0.8]), split="val"
    )
    got = results.to_dict()
    assert list(got) == ["protocol", "split", "images", *NUMBERS, "per_class"]
    assert got["per_class"]["never"] == {"AP": None, "AP50": None}
    assert got["AP"] == pytest.approx(1.0) and got["APs"] is None and got["APm"] == pytest.approx(1.0)
    assert json.loads(json.dumps(got)) == got
    assert got["protocol"] == "coco" and got["split"] == "val" and got["images"] == 1


def test_text_names_the_protocol_and_truncates_nothing() -> None:
    name = "a class with a very long name " * 5
    truth = GroundTruth.build([1], [name], [0], [0], [[0, 0, 50, 50]])
    text = score_detections(truth, DetectionTable.build([0], [0], [[0, 0, 50, 50]], [0.9])).text()
    assert text.startswith("COCO") and name in text and "AP50" in text and "101 recalls" in text


def test_curves_by_hand() -> None:
    boxes = [[0, 0, 50, 50], [300, 300, 310, 310], [100, 100, 150, 150]]
    results = score_detections(one(), DetectionTable.build([0] * 3, [0] * 3, boxes, [0.9, 0.8, 0.7]))
    curve = results.curves["x"]
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 1.0])
    np.testing.assert_allclose(curve.precision, [1.0, 0.5, 2 / 3])
    np.testing.assert_allclose(curve.score, [0.9, 0.8, 0.7])
    assert curve.objects == 2 and results.curves.iou == 0.5 and list(results.curves) == ["x"]


def test_crowds_are_excluded_from_the_curve() -> None:
    boxes = [[0, 0, 20, 20], [5, 5, 30, 30], [100, 100, 150, 150]]
    results = score_detections(one(crowd=[True, False]), DetectionTable.build([0] * 3, [0] * 3, boxes, [0.9, 0.8, 0.7]))
    curve = results.curves["x"]
    assert curve.precision.tolist() == [1.0] and curve.recall.tolist() == [1.0]


def test_options_are_checked() -> None:
    found = DetectionTable.build([], [], [], [])
    with pytest.raises(UsageError, match="max_dets"):
        score_detections(one(), found, max_det=(1, 2, 3))
    with pytest.raises(UsageError, match="voc07, voc10"):
        score_detections(one(), found, "coco17")
    with pytest.raises(UsageError, match="ascending"):
        score_detections(one(), found, max_dets=(10, 1, 3))


# --------------------------------------------------------------------------------------------- the table
def test_match_table_by_hand() -> None:
    truth = one(crowd=[True, False])
    found = DetectionTable.build([0, 0], [0, 0], [[0, 0, 25, 50], [100, 100, 150, 140]], [0.1, 0.9])
    table = match_table(truth, found)
    # inside a crowd: shared / own area
    assert (table.detection.tolist(), table.object.tolist(), table.iou.tolist()) == ([0, 1], [0, 1], [1.0, 0.8])
    assert match_table(truth, found, crowd=False).iou.tolist() == [0.5, 0.8]
    assert len(match_table(truth, found, crowd=False, floor=0.6)) == 1


def test_chunking_does_not_change_the_match_table(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = random_set(np.random.default_rng(3))
    whole = match_table(truth, found, floor=0.1)
    monkeypatch.setattr(matching_module, "CHUNK", 3)
    parts = match_table(truth, found, floor=0.1)
    assert len(whole) > 10
    for name in ("detection", "object", "iou"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_array_helpers() -> None:
    assert [(s.start, s.stop) for s in chunks(np.array([5, 1, 1, 9, 1]), 3)] == [(0, 1), (1, 3), (3, 4), (4, 5)]
    values, segment = np.array([1.0, 3.0, 2.0, 5.0, 4.0]), np.array([0, 0, 0, 1, 1])
    assert running_max_from_right(values, segment).tolist() == [3.0, 3.0, 2.0, 5.0, 4.0]
    scores = np.random.default_rng(0).integers(-3, 3, 200) / 2.0
    np.testing.assert_array_equal(descending_order(scores), np.argsort(-scores, kind="stable"))
    assert descending_order(np.zeros(0)).shape == (0,)


def test_ground_truth_from_a_dataset() -> None:
    def record(name: str, boxes: list[list[float]]) -> Record:
        n = len(boxes)
        flags = np.zeros(n, bool)
        box = np.array(boxes, np.float64).reshape(-1, 4)
        return Record(name, Path(name), 40, 30, box, np.arange(n), flags, flags, flags, np.full(n, 7.0))

    data = Dataset(("x", "y"), [record("b", []), record("a", [[0, 0, 5, 5], [1, 1, 9, 9]])], category_ids=(3, 8))
    truth = GroundTruth.of(data)
    assert truth.images == ("b", "a") and truth.image.tolist() == [1, 1] and truth.label.tolist() == [0, 1]
    assert truth.area.tolist() == [7.0, 7.0] and truth.pixels().tolist() == [25.0, 64.0]
    assert truth.sizes is not None and truth.sizes.tolist() == [[30, 40], [30, 40]]
    assert truth.category_ids == (3, 8) and truth.image_rank().tolist() == [1, 0]
    assert len(GroundTruth.of(Dataset(("x",), []))) == 0


@pytest.mark.parametrize(
    ("truth", "area", "detection", "ap50"),
    [
        ([49.0, 42.5, 27.3, 10.9], 27.3 * 10.9, [49.0, 42.5, 13.65, 10.9], 0.0),  # a last bit below .5
        ([50, 50, 50.9, 50], 2545, [50, 50, 25.2, 50], 0.0),  # over the edge by .9: 25.2 / 50.9, not 25.2 / 50
        ([50, 50, 70, 50], 3500, [50, 50, 50, 50], 1.0),  # by 20: 50 / 70
        ([60, 60, 200, 20], 4000, [60, 60, 40, 20], 0.0),  # 40 / 200; clipped it would be 1
        ([10, 10, 30, 30], 2000, [10, 10, 30, 30], 1.0),  # medium by the area of its mask
    ],
)
def test_ids_and_areas_of_the_file_are_scored(
    tmp_path: Path, truth: list[float], area: float, detection: list[float], ap50: float
) -> None:
    """From a COCO file to the numbers through ``foveal eval``, and after a class subset; pycocotools agrees."""
    image(tmp_path / "a.jpg", width=100, height=100)
    data: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": truth, "area": area, "iscrowd": 0},
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": detection, "score": 0.9}]
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "found.json").write_text(json.dumps(results))
    data["annotations"].pop(0)
    data["categories"].pop(1)
    oracle = pycocotools(data, results).stats
    assert oracle[1] == pytest.approx(ap50)
    call = ["eval", "--detections", str(tmp_path / "found.json"), "--data", str(tmp_path / "truth.json")]
    assert cli.main([*call, "--classes", "thing", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    ours = np.array([np.nan if scores[name] is None else scores[name] for name in NUMBERS])
    np.testing.assert_allclose(ours, defined(oracle), atol=1e-12)
    assert cli.main([*call, "--json", str(tmp_path / "all.json")]) == 0
    assert json.loads((tmp_path / "all.json").read_text())["per_class"]["thing"]["AP50"] == pytest.approx(ap50)


@pytest.mark.parametrize("layout", ["file", "splits"])
def test_detections_are_scored_without_the_images(tmp_path: Path, layout: str) -> None:
    """pycocotools' numbers from the annotation file alone; ``--limit`` scores the first images only."""
    truth, found = random_set(np.random.default_rng(8))
    data, results = as_json(truth, found)
    for entry in data["images"]:
        entry["file_name"] = f"sub/{entry['id']}.jpg"
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "instances_val.json").write_text(json.dumps(data))
    if layout == "splits":
        (folder / "instances_train.json").write_text(json.dumps(data))
    (tmp_path / "found.json").write_text(json.dumps(results))
    where = tmp_path if layout == "splits" else folder / "instances_val.json"
    call = ["eval", "--detections", str(tmp_path / "found.json"), "--data", str(where), "--json"]

    def scores(*more: str) -> Any:
        assert cli.main([*call, str(tmp_path / "scores.json"), *more]) == 0
        answer = json.loads((tmp_path / "scores.json").read_text())
        return np.array([np.nan if answer[name] is None else answer[name] for name in NUMBERS])

    np.testing.assert_allclose(scores(), defined(pycocotools(data, results).stats), atol=1e-12)
    first = {entry["id"] for entry in data["images"][:3]}
    assert 0 < len(first) < len(data["images"])
    some = {
        "images": data["images"][:3],
        "categories": data["categories"],
        "annotations": [a for a in data["annotations"] if a["image_id"] in first],
    }
    oracle = pycocotools(some, [r for r in results if r["image_id"] in first])
    np.testing.assert_allclose(scores("--limit", "3"), defined(oracle.stats), atol=1e-12)
    results[0]["image_id"] = 10**6  # no image of the set, limit or not
    (tmp_path / "found.json").write_text(json.dumps(results))
    assert cli.main([*call, str(tmp_path / "scores.json"), "--limit", "3"]) == 1
