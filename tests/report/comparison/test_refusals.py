"""Unlike runs are refused by name; alike ones are brought into one order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveal.errors import FovealError, UsageError
from foveal.evaluation import score_detections
from foveal.report.comparison.refusals import NamedEvaluation, check_versions, common_protocol, comparable
from foveal.report.evaluation_file import RunEvaluation
from tests.helpers.compared_runs import make_evaluation, make_record
from tests.helpers.simulated_runs import make_objects, make_run

A, B = Path("runs/a"), Path("runs/b")


def pair() -> tuple[RunEvaluation, RunEvaluation]:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 30)
    return make_evaluation(objects.table, make_run(rng, objects)), make_evaluation(
        objects.table, make_run(rng, objects)
    )


def given(a: RunEvaluation, b: RunEvaluation) -> list[NamedEvaluation]:
    return [NamedEvaluation(A, a), NamedEvaluation(B, b)]


def refused(a: RunEvaluation, b: RunEvaluation) -> str:
    with pytest.raises(FovealError) as error:
        comparable(given(a, b))
    text = str(error.value)
    assert "runs/a" in text and text.startswith("runs/b: ")
    return text


def test_other_images_are_named() -> None:
    a, b = pair()
    keys = ("new-1", "new-2", *b.hashes[2:])
    text = refused(a, replace(b, hashes=keys))
    assert "2 of its 30 images are not among those of runs/a (0, 1) and 2 of the 30" in text
    assert "--data DATA --split SPLIT" in text
    part = replace(b, truth=replace(b.truth[b.truth.image < 20], images=b.truth.images[:20]), hashes=b.hashes[:20],
                   table=b.table[b.table.image < 20], split="test", verdicts=None)  # fmt: skip
    text = refused(a, part)
    assert "(split test, there val)" in text and "10 of the 30 of runs/a are not among its own" in text


def test_other_objects_are_named() -> None:
    a, b = pair()
    text = refused(a, replace(b, truth=b.truth[1:], verdicts=None))
    count = int((a.truth.image == 0).sum())
    assert f"0 has {count - 1} objects, there {count}" in text
    box = b.truth.box.copy()
    box[3] += 1
    assert "boxes, classes or flags of some differ" in refused(a, replace(b, truth=replace(b.truth, box=box)))
    flagged = replace(b.truth, difficult=~b.truth.difficult)
    assert "flags of some differ" in refused(a, replace(b, truth=flagged))


def test_other_classes_are_named_and_common_ones_can_be_compared() -> None:
    a, b = pair()
    b = replace(b, truth=replace(b.truth, classes=("class 0", "class 1", "another")))
    text = refused(a, b)
    assert "knows the classes class 0, class 1, another, and runs/a class 0, class 1, class 2" in text
    assert "--classes class 0,class 1" in text
    left, right = comparable(given(a, b), ["class 1", "class 0"])
    assert left.truth.classes == right.truth.classes == ("class 1", "class 0")
    assert len(left.truth) == (a.truth.label < 2).sum() == len(left.verdicts if left.verdicts is not None else ())
    with pytest.raises(UsageError, match=r"runs/b: does not know the class 'class 2'"):
        comparable(given(a, b), ["class 2"])


def test_a_cut_of_scores_is_named_and_can_be_made_alike() -> None:
    a, b = pair()
    table = b.table[b.table.score >= 0.4]
    b = replace(b, table=replace(table, min_score=0.4))
    assert "drops detections below a score of 0.4, and runs/a below 0.05" in refused(a, b)
    left, right = comparable(given(a, b), min_score=0.4)
    assert left.table.score.min() >= 0.4 and left.threshold == right.threshold == 0.4
    low = replace(a, table=replace(a.table, min_score=0.001))  # both below .05: every detector has its own
    assert len(comparable(given(low, a))) == 2


def test_images_in_another_order_are_sorted() -> None:
    """The scores of a run do not depend on the order in which another lists the same images."""
    a, b = pair()
    place = np.random.default_rng(1).permutation(30)
    order = np.argsort(place[b.truth.image], kind="stable")
    truth = b.truth[order]
    moved = replace(
        b,
        truth=replace(truth, image=place[truth.image], images=tuple(np.argsort(place).tolist())),
        table=replace(b.table, image=place[b.table.image]),
        hashes=tuple(b.hashes[i] for i in np.argsort(place)),
        verdicts=None if b.verdicts is None else b.verdicts[order],
    )
    _, back = comparable(given(a, moved))
    assert back.hashes == a.hashes and back.truth is a.truth
    assert back.verdicts is not None and b.verdicts is not None and (back.verdicts == b.verdicts).all()
    expected, found = (score_detections(e.truth, e.table).numbers for e in (b, back))
    assert found == pytest.approx(expected, abs=1e-12)
    classes = ("class 2", "class 0", "class 1")
    label = np.array([1, 2, 0])
    renamed = replace(b, truth=replace(b.truth, classes=classes, label=label[b.truth.label]),
                      table=replace(b.table, label=label[b.table.label]))  # fmt: skip
    _, back = comparable(given(a, renamed))
    assert score_detections(back.truth, back.table).numbers == pytest.approx(expected, abs=1e-12)


def test_versions_and_protocols() -> None:
    def of(version: str, torch: str = "2.15") -> dict[str, object]:
        return {"environment": {"versions": {"foveal": version, "torch": torch}}}

    old, new = make_record(A, **of("0.1.0")), make_record(B, **of("0.2.0", "2.16"))
    with pytest.raises(FovealError, match=r"runs/b: was trained with foveal 0\.2\.0, and runs/a with 0\.1\.0"):
        check_versions([old, new], [])
    assert len(check_versions([old, new], ["version"])) == 2
    assert check_versions([old, old], []) == []
    voc = replace(new, results={**new.results, "protocol": "voc10"})
    with pytest.raises(FovealError, match=r"runs/b: was scored by the protocol voc10, and runs/a by coco"):
        common_protocol([old, voc], None)
    assert common_protocol([old, voc], "voc07") == "voc07"
    assert common_protocol([voc], None) == "voc10"
