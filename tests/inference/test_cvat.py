"""CVAT's auto-annotation function with CVAT's own SDK: what its loader expects, and the mapping to a task's labels."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from foveal.assembly.detector import Detector
from foveal.errors import UsageError
from foveal.inference import cvat as module
from tests.inference.test_predict import Known

cvat = pytest.importorskip("cvat_sdk.auto_annotation", reason="CVAT's SDK is not installed")


def function(**options: Any) -> module.CvatFunction:
    return module.CvatFunction(cast(Detector, Known()), **{"score": 0.5, "classes": ["cat", "dog"], **options})


def context(threshold: float | None = None) -> Any:
    return SimpleNamespace(frame_name="a.jpg", conf_threshold=threshold, conv_mask_to_poly=False)


def test_the_spec_and_the_rectangles_are_those_of_cvat() -> None:
    found = function()
    assert isinstance(found.spec, cvat.DetectionFunctionSpec)
    assert [(label.name, label.id, str(label.type)) for label in found.spec.labels] == [
        ("cat", 0, "rectangle"),
        ("dog", 1, "rectangle"),
    ]
    image = Image.new("L", (30, 20))
    (shape,) = found.detect(context(), image)
    assert (shape.type.value, shape.label_id, shape.frame, list(shape.points)) == ("rectangle", 0, 0, [0, 0, 30, 20])
    assert [s.label_id for s in found.detect(context(0.4), image)] == [0, 1]
    assert [s.label_id for s in function(classes=["dog"], score=0.1).detect(context(), image)] == [1]


def test_cvat_maps_the_boxes_to_the_labels_of_a_task() -> None:
    """By the code that ``cvat-cli task auto-annotate`` runs; a class without a label is an error, or left out."""
    from cvat_sdk.auto_annotation import driver

    def mapped(allowed: bool) -> list[tuple[int, int, list[float]]]:
        labels = [SimpleNamespace(name="cat", id=71, type="rectangle", attributes=[], sublabels=[])]
        found = function(score=0.1)
        mapper = driver._AnnotationMapper(
            logging.getLogger("test"),
            found.spec.labels,
            cast(Any, labels),
            allow_unmatched_labels=allowed,
            conv_mask_to_poly=False,
        )
        _, shapes = mapper.validate_and_remap(found.detect(context(), Image.new("RGB", (30, 20))), 5)
        return [(s.label_id, s.frame, list(s.points)) for s in shapes]

    assert mapped(True) == [(71, 5, [0, 0, 30, 20])]
    with pytest.raises(cvat.BadFunctionError, match="'dog' is not in dataset"):
        mapped(False)


def test_the_module_is_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cvat-cli loads it: import, then ``create`` with the parameters of ``-p``."""
    monkeypatch.setattr(module, "open_any", lambda model: Known())
    made = importlib.import_module("foveal.inference.cvat").create(model="runs/first", score=0.3, classes="dog")
    assert (made.score, made.classes) == (0.3, ["dog"])
    assert module.create().classes == ["cat", "dog"]
    with pytest.raises(UsageError, match=r"'cow'.*cat, dog"):
        module.create(classes="cow")
    with pytest.raises(UsageError, match="score is 3"):
        module.create(score=3)
