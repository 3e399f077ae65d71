"""Which runs are one side, and what the sides differ in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.report.comparison.sides import (
    finished_records,
    letter,
    loss_definition,
    run_folders,
    setting_differences,
    side_groups,
)
from tests.helpers.compared_runs import make_record

ONE = "RetinaNet(head=DenseHead(depth=4), task=BoxTask(box_loss=L1(weight=1.0)), fit=Recipe(lr=0.01))"


def test_runs_that_differ_in_their_seed_are_one_side(tmp_path: Path) -> None:
    other = ONE.replace("0.01", "0.02")
    records = [make_record(tmp_path / str(i), spec, seed) for i, (spec, seed) in enumerate(
        [(ONE, 0), (other, 0), (ONE, 1), (other, 7)])]  # fmt: skip
    assert side_groups(records) == [[0, 2], [1, 3]]
    assert side_groups([records[0], records[2]]) == [[0], [1]], "nothing else differs: each is a side"
    rows = setting_differences([records[0], records[1]])
    assert [(row.name, row.values, row.folded) for row in rows] == [("fit.lr", ("0.01", "0.02"), 0)]


def test_settings_of_another_part_are_folded_into_it(tmp_path: Path) -> None:
    other = ONE.replace("L1(weight=1.0)", "SmoothL1(beta=0.1, reduce=Mean(over='all'))")
    a, b = make_record(tmp_path / "a", ONE), make_record(tmp_path / "b", other)
    (row,) = setting_differences([a, b])
    assert (row.name, row.values) == ("task.box_loss", ("L1()", "SmoothL1()"))
    assert row.folded == 4  # weight, beta, reduce, reduce.over
    whole = make_record(tmp_path / "c", "FCOS(head=DenseHead(depth=2), grid=Points(), fit=Recipe(lr=0.01))")
    names = [row.name for row in setting_differences([a, whole])]
    assert names == ["spec", "head.depth"], "what only one detector has is counted at the detector"


def test_losses_share_an_axis_only_with_one_definition(tmp_path: Path) -> None:
    a = make_record(tmp_path / "a", ONE)
    assert loss_definition(a) == loss_definition(make_record(tmp_path / "b", ONE.replace("lr=0.01", "lr=0.5"), 3))
    assert loss_definition(a) != loss_definition(make_record(tmp_path / "c", ONE.replace("weight=1.0", "weight=2.0")))
    assert loss_definition(a) != loss_definition(make_record(tmp_path / "d", ONE.replace("RetinaNet", "FCOS")))
    other = replace(a, metrics=[{**row, "box": 1.0} for row in a.metrics])
    assert loss_definition(a) != loss_definition(other)


def test_the_folder_of_several_seeds_stands_for_its_runs(tmp_path: Path) -> None:
    for seed in (0, 2, 10):
        folder = tmp_path / "several" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    named = run_folders([tmp_path / "several", tmp_path / "several" / "seed-2", tmp_path / "alone"])
    assert [p.name for p in named] == ["seed-0", "seed-2", "seed-10", "alone"]


@pytest.mark.parametrize("results", [None, {}, {"AP": 0.2, "ended": ""}])
def test_a_run_that_has_not_ended_is_refused(tmp_path: Path, results: dict[str, object] | None) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"spec": ONE}))
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(FovealError, match=r"the run has not ended.*--resume") as refused:
        finished_records([tmp_path])
    assert str(tmp_path) in str(refused.value)


def test_letters() -> None:
    assert [letter(i) for i in (0, 1, 25, 26, 52)] == ["A", "B", "Z", "AA", "BA"]
