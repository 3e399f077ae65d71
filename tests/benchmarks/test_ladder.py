"""The ladder of the region line (benchmarks/ladder.py): every rung can be built, and its recipe is valid for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.training.stages.alternation import check_alternation
from foveal.training.stages.closed_form import check_stages

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


def test_rungs() -> None:
    from ladder import lines, rungs

    found = rungs("squeezenet.pth", 0.01)
    assert list(found) == ["rcnn", "spp_net", "fast_rcnn", "faster_rcnn_four_steps", "faster_rcnn", "fpn"]
    for name, rung in found.items():
        with torch.device("meta"):
            detector = rung.spec.build(["cat", "dog", "car"])
        fit = rung.spec.fit  # type: ignore[attr-defined]
        check_stages(detector, fit)
        check_alternation(detector, fit)
        assert fit.epochs == 1 and parse_spec(show(rung.spec)) == rung.spec
        assert (rung.spec.source is None) == name.startswith(("faster", "fpn")) and lines(rung.files) > 20
    four = found["faster_rcnn_four_steps"].spec.fit  # type: ignore[attr-defined]
    assert [stage.epochs for stage in four.stages] == [1, 1, 1, 1]


def test_code_lines_exclude_comments_and_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ladder

    (tmp_path / "a.py").write_text("# a comment\n\nx = 1\n    # another\ny = 2  # counts\n")
    monkeypatch.setattr(ladder, "FOLDER", tmp_path)
    assert ladder.lines(("a.py",)) == 2
