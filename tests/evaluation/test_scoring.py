"""Which images a run is scored on."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.evaluation.scoring import evaluation_set
from tests.helpers.data_sets import voc


def test_only_the_stored_validation_images_are_scored(tmp_path: Path) -> None:
    """Of four images, a and b were trained on; b is missing, c and d were held out."""
    source = voc(tmp_path, splits=False)
    whole = evaluation_set(source, divided=["c", "d"])
    assert [r.id for r in whole.records] == ["c", "d"] and whole.split == "val" and not whole.findings

    (source / "JPEGImages" / "d.jpg").unlink()
    rest = evaluation_set(source, divided=["c", "d"])
    assert [r.id for r in rest.records] == ["c"] and rest.split == "val"
    finding = rest.findings[-1]
    assert (finding.code, finding.severity) == ("validation-image-missing", "warning")
    assert "1 of the 2 images" in finding.message and "(d)" in finding.message

    (source / "JPEGImages" / "c.jpg").unlink()
    with pytest.raises(FovealError, match=r"none of the 2 images .*c, d"):
        evaluation_set(source, divided=["c", "d"])


def test_all_images_are_scored_without_stored_images_or_with_a_split(tmp_path: Path) -> None:
    assert len(evaluation_set(voc(tmp_path / "a", splits=False))) == 4
    assert [r.id for r in evaluation_set(voc(tmp_path / "b"), split="train", divided=["c"]).records] == ["a", "b"]
