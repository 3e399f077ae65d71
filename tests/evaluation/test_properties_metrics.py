"""Properties of the metrics: what must not change a score, what must not raise it, and scores by definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.evaluation import Coco, DetectionTable, GroundTruth, recall
from foveal.evaluation.coco import score_coco
from foveal.evaluation.matching import rank_in_group, running_max_from_right
from foveal.evaluation.voc import Voc, score_voc
from tests.helpers.properties import examples

COCO, VOC07, VOC10 = Coco(), Voc(), Voc("area")
Case = tuple[GroundTruth, DetectionTable]
CLASSES = ("a", "b")


@st.composite
def cases(draw: Any, flags: bool = True, distinct: bool = False) -> Case:
    """Up to three images with a few boxes on a coarse grid, so that overlaps are frequent and often equal."""
    objects, found = draw(st.integers(0, 5)), draw(st.integers(0, 8))
    raw = np.frombuffer(draw(st.binary(min_size=160, max_size=160)), np.uint8).astype(np.int64)
    rows = iter(raw)

    def table(count: int) -> tuple[list[int], list[int], Any]:
        image, label, boxes = [], [], []
        for _ in range(count):
            image.append(next(rows) % 3)
            label.append(next(rows) % 2)
            x, y, w, h = (int(next(rows)) for _ in range(4))
            boxes.append([x % 4 * 8, y % 4 * 8, x % 4 * 8 + (1 + w % 4) * 8, y % 4 * 8 + (1 + h % 4) * 8])
        return image, label, np.array(boxes, np.float64).reshape(-1, 4)

    image, label, box = table(objects)
    marks = np.array([[next(rows) % 4 == 0, next(rows) % 4 == 0] for _ in range(objects)], bool).reshape(-1, 2)
    marks &= flags
    truth = GroundTruth.build(range(3), CLASSES, image, label, box, crowd=marks[:, 0], difficult=marks[:, 1])
    image, label, box = table(found)
    scores = np.array([(next(rows) % 8) / 8 for _ in range(found)], np.float64)
    if distinct:
        scores = np.array(draw(st.permutations(range(found))), np.float64) / 8
    return truth, DetectionTable.build(image, label, box, scores)


def scores(truth: GroundTruth, found: DetectionTable) -> list[float | None]:
    """Both protocols of VOC by class, then COCO's twelve numbers."""
    voc = [None if np.isnan(v) else float(v) for p in (VOC07, VOC10) for v in score_voc(truth, found, p).ap]
    return [*voc, *score_coco(truth, found, COCO).twelve().values()]


def same(a: list[float | None], b: list[float | None]) -> bool:
    return a == pytest.approx(b, abs=1e-9)


def not_above(a: list[float | None], b: list[float | None]) -> bool:
    return all(x is y is None or (x is not None and y is not None and x <= y + 1e-9) for x, y in zip(a, b, strict=True))


@given(cases(distinct=True), st.randoms(use_true_random=False))
def test_the_order_of_detections_does_not_matter(case: Case, random: Any) -> None:
    truth, found = case
    order = list(range(len(found)))
    random.shuffle(order)
    assert same(scores(truth, found), scores(truth, found[np.array(order, np.int64)]))


@given(cases(distinct=True), st.permutations(range(3)), st.booleans())
def test_the_order_of_images_and_classes_does_not_matter(case: Case, order: list[int], swap: bool) -> None:
    """Of images that have no equal scores; of classes the means."""
    truth, found = case
    place, names = np.array(order), CLASSES[::-1] if swap else CLASSES

    def moved(table: Any) -> Any:
        return replace(table, image=place[table.image], label=1 - table.label if swap else table.label)

    other = replace(moved(truth), classes=names)
    first, second = score_coco(truth, found, COCO), score_coco(other, moved(found), COCO)
    assert same(list(first.twelve().values()), list(second.twelve().values()))
    ap = score_voc(truth, found, VOC10).ap, score_voc(other, moved(found), VOC10).ap[:: -1 if swap else 1]
    np.testing.assert_allclose(ap[0], ap[1], atol=1e-9)


@given(cases(), st.sampled_from([lambda s: s / 3 - 1, lambda s: s**3 + s, lambda s: np.exp(s)]))
def test_only_the_order_of_scores_counts(case: Case, rising: Any) -> None:
    truth, found = case
    assert same(scores(truth, found), scores(truth, replace(found, score=rising(found.score))))


@given(cases(), st.sampled_from([0.5, 2.0]), st.integers(-64, 64))
def test_scaled_and_moved_boxes_have_the_same_ap(case: Case, scale: float, shift: int) -> None:
    """The numbers by size follow the size in pixels; the others do not."""
    truth, found = case

    def moved(box: Any) -> Any:
        return (box + shift) * scale

    other = GroundTruth.build(
        truth.images, CLASSES, truth.image, truth.label, moved(truth.box), crowd=truth.crowd, difficult=truth.difficult
    )
    again = DetectionTable.build(found.image, found.label, moved(found.box), found.score)
    first, second = scores(truth, found), scores(other, again)
    assert same(first[:7] + first[10:13], second[:7] + second[10:13])  # VOC; AP, AP50, AP75; AR1, AR10, AR100


@given(cases(flags=False))
def test_objects_as_detections_are_perfect(case: Case) -> None:
    truth, _ = case
    perfect = DetectionTable.build(truth.image, truth.label, truth.box, np.linspace(1, 0.5, len(truth)))
    numbers = score_coco(truth, perfect, Coco((10, 50, 100))).twelve()
    expected = pytest.approx(1.0) if len(truth) else None
    assert all(numbers[name] == expected for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"))
    assert all(value is None or value == pytest.approx(1.0) for value in numbers.values())


@given(cases(distinct=True))
def test_each_detection_twice_never_raises_ap(case: Case) -> None:
    """A copy comes after its original, with a score just below."""
    truth, found = case
    twice = found[np.repeat(np.arange(len(found)), 2)]
    twice = replace(twice, score=twice.score - np.arange(len(twice)) % 2 * 1e-3)
    first, second = score_voc(truth, found, VOC10).ap, score_voc(truth, twice, VOC10).ap
    assert all(np.isnan(a) or b <= a + 1e-9 for a, b in zip(first, second, strict=True))


@given(cases(distinct=True), st.integers(0, 2), st.integers(0, 1), st.sampled_from([-0.5, 0.3, 2.0]))
def test_a_wrong_detection_never_raises_a_score(case: Case, image: int, label: int, score: float) -> None:
    """It lies far from every object. Below all others it changes no AP at all."""
    truth, found = case
    more = DetectionTable.build(
        [*found.image, image],
        [*found.label, label],
        np.concatenate([found.box, [[900.0, 900, 940, 950]]]),
        [*found.score, score],
    )
    before, after = scores(truth, found), scores(truth, more)
    assert not_above(after, before)
    if score < 0:
        assert same(after, before)


@given(cases(flags=False, distinct=True))
def test_every_image_twice_has_the_same_ap(case: Case) -> None:
    truth, found = case
    objects = [np.concatenate([v, v + n]) for v, n in ((truth.image, 3), (truth.label, 0))]
    double = GroundTruth.build(range(6), CLASSES, *objects, np.concatenate([truth.box] * 2))
    image, label = [np.concatenate([v, v + n]) for v, n in ((found.image, 3), (found.label, 0))]
    again = DetectionTable.build(image, label, np.concatenate([found.box] * 2), np.concatenate([found.score] * 2))
    first, second = score_coco(truth, found, COCO).twelve(), score_coco(double, again, COCO).twelve()
    assert same(list(first.values()), list(second.values()))
    np.testing.assert_allclose(score_voc(truth, found, VOC10).ap, score_voc(double, again, VOC10).ap, atol=1e-9)


@given(cases())
def test_a_difficult_or_crowded_object_that_is_left_out_changes_no_number_of_objects(case: Case) -> None:
    truth, found = case
    numbers = score_coco(truth, found, COCO)
    plain = ~(truth.crowd | truth.difficult)
    assert numbers.outcomes.objects.tolist() == np.bincount(truth.label[plain], minlength=2).tolist()
    hits = [int((numbers.outcomes.outcome[numbers.outcomes.of_class(k)] == 1).sum()) for k in range(2)]
    assert all(hit <= count for hit, count in zip(hits, numbers.outcomes.objects, strict=True))


def _voc_by_hand(truth: GroundTruth, found: DetectionTable, label: int, area: bool) -> float:
    """VOCevaldet.m and VOCap.m line by line, with half-open boxes."""
    objects = [g for g in range(len(truth)) if truth.label[g] == label]
    positives = sum(not (truth.difficult[g] or truth.crowd[g]) for g in objects)
    if not positives:
        return float("nan")
    taken, hits, misses = set(), [], []
    rows = [n for n in range(len(found)) if found.label[n] == label]
    for n in sorted(rows, key=lambda n: -found.score[n]):
        best, largest = -1, 0.0
        for g in objects:
            if truth.image[g] == found.image[n]:
                a, b = found.box[n], truth.box[g]
                w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                shared = max(w, 0) * max(h, 0)
                overlap = shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
                if overlap > largest:
                    best, largest = g, overlap
        if largest >= 0.5 and (truth.difficult[best] or truth.crowd[best]):
            continue
        hit = largest >= 0.5 and best not in taken
        taken |= {best} if hit else set()
        hits.append(hit)
        misses.append(not hit)
    tp, fp = np.cumsum(hits), np.cumsum(misses)
    reached, precision = tp / positives, tp / np.maximum(tp + fp, 1)
    if not area:
        return float(sum(max(precision[reached >= t], default=0) / 11 for t in np.arange(0.0, 1.1, 0.1)))
    reached, precision = np.concatenate([[0], reached, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    change = np.flatnonzero(reached[1:] != reached[:-1]) + 1
    return float(((reached[change] - reached[change - 1]) * precision[change]).sum())


@given(cases(distinct=True), st.booleans())
def test_voc_is_the_devkit_line_by_line(case: Case, area: bool) -> None:
    truth, found = case
    ours = score_voc(truth, found, VOC10 if area else VOC07).ap
    np.testing.assert_allclose(ours, [_voc_by_hand(truth, found, k, area) for k in range(2)], atol=1e-9)


@examples(100)  # pycocotools takes 5 ms a set
@given(cases())
def test_coco_is_pycocotools(case: Case) -> None:
    from tests.evaluation.test_coco import as_json, defined, numbers, pycocotools

    truth, found = case
    truth = replace(truth, difficult=truth.difficult & False)
    ours = numbers(score_coco(truth, found, COCO).twelve().values())
    np.testing.assert_allclose(ours, defined(pycocotools(*as_json(truth, found)).stats), atol=1e-9)


@given(cases(), st.integers(1, 4))
def test_recall_never_falls_with_more_proposals(case: Case, tops: int) -> None:
    truth, found = case
    measured = recall(truth, found, (tops, tops + 1, tops + 4))
    for table in (measured.average, measured.at50, measured.at70):
        for row in table.values():
            values = [v for v in row.values() if v is not None]
            assert values == sorted(values) and all(0 <= v <= 1 for v in values)
    assert all((measured.at70["all"][t] or 0) <= (measured.at50["all"][t] or 0) for t in measured.at50["all"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=20))
def test_running_maxima_and_ranks_by_group(rows: list[tuple[int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    keys, values = np.array([k for k, _ in rows], np.int64), np.array([float(v) for _, v in rows])
    expected = [max(v for j, (other, v) in enumerate(rows) if other == k and j >= i) for i, (k, _) in enumerate(rows)]
    assert running_max_from_right(values, keys).tolist() == expected
    assert rank_in_group(keys).tolist() == [sum(k == key for k in keys[:i]) for i, key in enumerate(keys)]
