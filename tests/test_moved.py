"""Import paths documented in the first months of version 0.1.0 still work, with a warning."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("foveal.parts.losses", "ClassLoss", "foveal.parts.losses.classification.ClassLoss"),
        ("foveal.parts.losses", "Focal", "foveal.parts.losses.classification.Focal"),
        ("foveal.parts.normalizers", "Positives", "foveal.parts.losses.normalizers.Positives"),
        ("foveal.weights.detr", "to_ours", "foveal.weights.keys_detr.detr_to_ours"),
    ],
)
def test_old_paths_warn(old: str, name: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=new):
        found = getattr(importlib.import_module(old), name)
    module, _, attribute = new.rpartition(".")
    assert found is getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("old", ["foveal.parts.losses", "foveal.parts.normalizers", "foveal.weights.detr"])
def test_unknown_name_is_an_attribute_error(old: str) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(importlib.import_module(old), "nonsense")  # noqa: B009
