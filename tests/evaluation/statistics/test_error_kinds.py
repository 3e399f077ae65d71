"""Kinds of errors: hand-labelled cases, counts that add up, and TIDE's own code and hotcoco on random sets."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import replace
from typing import Any

import hotcoco
import numpy as np
import pytest

from foveal.evaluation import DetectionTable, GroundTruth, Results, Voc, score_detections
from foveal.evaluation.curves import MISS
from foveal.evaluation.statistics.error_kinds import KINDS
from tests.evaluation import test_coco, test_voc
from tests.helpers.simulated_runs import make_objects, make_run

BOX = [0.0, 0, 100, 100]


def cut(width: float) -> list[float]:
    """A box inside ``BOX`` whose IoU with it is ``width`` / 100."""
    return [0, 0, width, 100]


def kinds(results: Results) -> list[str]:
    return [KINDS[k] for k in results.errors.kind.tolist()]


def lost(results: Results) -> dict[int, str]:
    rows, kind = results.errors.object_rows.tolist(), results.errors.object_kind.tolist()
    return {row: KINDS[k] for row, k in zip(rows, kind, strict=True)}


def one(label: int, box: list[float], objects: list[tuple[int, list[float]]]) -> Results:
    """One detection of one image."""
    truth = GroundTruth.build(
        [1], ["x", "y"], [0] * len(objects), [k for k, _ in objects], np.reshape([b for _, b in objects], (-1, 4))
    )
    return score_detections(truth, DetectionTable.build([0], [label], [box], [0.9]))


@pytest.mark.parametrize(
    ("label", "box", "objects", "kind", "objects_kind"),
    [
        (0, BOX, [(0, BOX)], None, {}),
        (0, cut(50), [(0, BOX)], None, {}),  # a hit at the threshold
        (0, cut(49.9), [(0, BOX)], "localization", {0: "localization"}),
        (0, cut(10), [(0, BOX)], "localization", {0: "localization"}),
        (0, cut(9.9), [(0, BOX)], "background", {0: "missed"}),
        (0, [200, 0, 300, 100], [(0, BOX)], "background", {0: "missed"}),
        (1, BOX, [(0, BOX)], "class", {0: "class"}),
        (1, cut(50), [(0, BOX)], "class", {0: "class"}),
        (1, cut(49), [(0, BOX)], "both", {0: "missed"}),
        (1, cut(10), [(0, BOX)], "background", {0: "missed"}),  # at most .1
        (0, BOX, [], "background", {}),
        # badly placed for its own class comes before a hit of another class
        (0, cut(60), [(1, BOX), (0, [0, 0, 20, 100])], "localization", {0: "missed", 1: "localization"}),
        # overlaps its own class by less than .1
        (0, cut(60), [(1, BOX), (0, [0, 0, 5, 100])], "class", {0: "class", 1: "missed"}),
    ],
)
def test_one_detection(
    label: int, box: list[float], objects: list[tuple[int, list[float]]], kind: str | None, objects_kind: dict[int, str]
) -> None:
    results = one(label, box, objects)
    assert kinds(results) == ([] if kind is None else [kind])
    assert lost(results) == objects_kind


def test_a_duplicate_and_the_better_detection() -> None:
    truth = GroundTruth.build([1], ["x"], [0], [0], [BOX])
    boxes = [BOX, cut(90), cut(50), cut(40)]
    results = score_detections(truth, DetectionTable.build([0] * 4, [0] * 4, boxes, [0.9, 0.8, 0.7, 0.6]))
    # the last is duplicate in spirit, but its IoU is no hit: localization, as in TIDE
    assert kinds(results) == ["duplicate", "duplicate", "localization"] and lost(results) == {}
    assert results.errors.rows.tolist() == [1, 2, 3]


def test_a_duplicate_that_would_be_a_hit_of_another_class_is_a_class_error() -> None:
    truth = GroundTruth.build([1], ["x", "y"], [0, 0], [0, 1], [BOX, BOX])
    results = score_detections(truth, DetectionTable.build([0, 0], [0, 0], [BOX, BOX], [0.9, 0.8]))
    assert kinds(results) == ["class"] and lost(results) == {1: "class"}


def test_the_best_detection_that_points_at_an_object_decides() -> None:
    """Object 0 is pointed at by a class error (.6) and a localization error (.7)."""
    truth = GroundTruth.build([1], ["x", "y"], [0], [0], [BOX])
    table = DetectionTable.build([0, 0], [1, 0], [BOX, cut(40)], [0.6, 0.7])
    assert lost(score_detections(truth, table)) == {0: "localization"}
    table = DetectionTable.build([0, 0], [1, 0], [BOX, cut(40)], [0.7, 0.6])
    assert lost(score_detections(truth, table)) == {0: "class"}


def test_crowds_difficult_objects_and_ignored_regions_are_no_errors() -> None:
    """Neither they nor what lies on them are counted; nothing points at them."""
    truth = GroundTruth.build(
        [1], ["x", "y"], [0] * 3, [0] * 3, [BOX, [200, 0, 300, 100], [400, 0, 500, 100]], crowd=[True, False, False]
    )
    truth = replace(truth, difficult=np.array([False, True, False]), ignore=np.array([False, False, True]))
    boxes = [[0, 0, 50, 50], [10, 10, 50, 50], [200, 0, 300, 100], [400, 0, 500, 100]]
    results = score_detections(truth, DetectionTable.build([0] * 4, [0] * 4, boxes, [0.9, 0.8, 0.7, 0.6]))
    assert results.errors.rows.tolist() == [3] and kinds(results) == ["background"] and lost(results) == {}
    on_crowd = score_detections(truth, DetectionTable.build([0], [1], [BOX], [0.9]))
    assert kinds(on_crowd) == ["background"]


def test_rows_are_those_of_the_given_tables() -> None:
    """With ignored regions before an object, and another image."""
    truth = GroundTruth.build(
        [1, 2],
        ["x"],
        [0, 0, 1],
        [0, 0, 0],
        [BOX, BOX, BOX],
        ignore=[True, False, False],
        difficult=[False, True, False],
    )
    results = score_detections(truth, DetectionTable.build([1, 0], [0, 0], [cut(30), BOX], [0.5, 0.9]))
    assert lost(results) == {2: "localization"} and results.errors.rows.tolist() == [0]


@pytest.mark.parametrize("strict", [False, True])
def test_a_hit_is_that_of_the_protocol(strict: bool) -> None:
    truth = GroundTruth.build([1], ["x", "y"], [0], [0], [BOX])
    table = DetectionTable.build([0, 0], [1, 0], [cut(60), cut(60)], [0.9, 0.8])
    results = score_detections(truth, table, Voc(iou=0.6, strict=strict))
    assert kinds(results) == (["both", "localization"] if strict else ["class"])
    assert results.errors.iou == 0.6


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
def test_counts_add_up_to_all_false_detections_and_all_objects_not_found(protocol: str) -> None:
    rng = np.random.default_rng(8)
    for n in range(100):
        truth, found = (test_coco if n % 2 else test_voc).random_set(rng)
        truth = replace(truth, ignore=rng.random(len(truth)) < 0.1)
        results = score_detections(truth, found, protocol)
        errors, total = results.errors, results.to_dict(errors=True)["errors"]
        false = int((results.curves._outcomes.outcome == MISS).sum())
        hits = sum(
            round((c.recall[-1] if len(c.recall) else 0) * c.objects) for c in results.curves.values() if c.objects
        )
        assert sum(errors.false_detections().values()) == len(errors.rows) == false
        assert sum(errors.not_found().values()) == sum(results.objects.values()) - hits
        for side in ("false_detections", "not_found"):
            parts = [row[side] for row in total["per_class"].values()]
            assert {k: sum(p[k] for p in parts) for k in total[side]} == total[side]


# ------------------------------------------------------------------------------------------ other projects
def tide_counts(truth: GroundTruth, found: DetectionTable) -> dict[str, int]:
    """tidecv's counts. Every image is announced, since it scores no others."""
    tide = importlib.import_module("tidecv")

    def xywh(box: Any) -> list[float]:
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    with contextlib.redirect_stdout(io.StringIO()):
        objects, detections = tide.Data("objects"), tide.Data("detections")
        for i in range(len(truth.images)):
            objects.add_image(i, str(i))
        for i, k, box in zip(truth.image.tolist(), truth.label.tolist(), truth.box, strict=True):
            objects.add_ground_truth(i, k, xywh(box))
        rows = zip(found.image.tolist(), found.label.tolist(), found.score.tolist(), found.box, strict=True)
        for i, k, score, box in rows:
            detections.add_detection(i, k, score, xywh(box))
        run = tide.TIDE().evaluate(objects, detections)
    names = {"Cls": "class", "Loc": "localization", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    names["Miss"] = "missed"
    return {names[kind.short_name]: count for kind, count in run.count_errors().items()}


def our_counts(truth: GroundTruth, found: DetectionTable) -> dict[str, int]:
    errors = score_detections(truth, found).errors
    return errors.false_detections() | {"missed": errors.not_found()["missed"]}


def dense_set(seed: int) -> tuple[GroundTruth, DetectionTable]:
    """Objects and detections that overlap others of their own and of other classes, so that all kinds occur."""
    rng = np.random.default_rng(seed)
    objects = make_objects(rng, 25)
    truth = objects.table
    found = make_run(rng, objects)
    again = rng.integers(0, len(truth), 2 * len(truth))
    side = truth.box[again, 2:] - truth.box[again, :2]
    box = truth.box[again] + rng.normal(0, 0.25, (len(again), 4)) * np.tile(side, 2)
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    label = np.where(rng.random(len(again)) < 0.5, truth.label[again], rng.integers(0, 3, len(again)))
    return truth, DetectionTable.build(
        np.concatenate([found.image, truth.image[again]]),
        np.concatenate([found.label, label]),
        np.concatenate([found.box, box]),
        np.concatenate([found.score, rng.random(len(again))]),
    )


def test_counts_equal_tides_on_50_sets() -> None:
    """All six counts of tidecv 1.0.1.

    Three differences are on purpose, and none can occur here: a detection whose IoU is exactly .5 and whose object is
    taken is a duplicate (tidecv: localization, its bound being inclusive on both sides); detections that a crowd
    absorbs are no errors (tidecv counts them); a limit of detections is that of the protocol, for an image and class
    (tidecv: for an image, 100).
    """
    pytest.importorskip("tidecv", reason="tidecv is not installed: pip install tidecv pandas seaborn appdirs")
    seen = dict.fromkeys(KINDS, 0)
    for seed in range(50):
        truth, found = dense_set(seed)
        assert len(found) and np.bincount(found.image).max() <= 100
        ours = our_counts(truth, found)
        assert ours == tide_counts(truth, found), seed
        seen = {kind: seen[kind] + ours[kind] for kind in KINDS}
    assert min(seen.values()) >= 50, seen


def test_counts_equal_hotcocos_on_50_sets() -> None:
    """All six counts of hotcoco 1.3.0.

    Two differences are on purpose, and neither can occur here: an IoU of exactly .5, as in tidecv; and a detection that
    overlaps a crowd by .1 to .5 of its own area is background (hotcoco: localization), since no object is there to hit.
    """
    names = {"Cls": "class", "Loc": "localization", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    names["Miss"] = "missed"
    for seed in range(50):
        truth, found = dense_set(seed)
        data, results = test_coco.as_json(truth, found)
        objects = hotcoco.COCO(data)
        scorer = hotcoco.COCOeval(objects, objects.load_res(results), "bbox")
        scorer.evaluate()
        counts = scorer.tide_errors()["counts"]
        assert our_counts(truth, found) == {names[k]: v for k, v in counts.items()}, seed
