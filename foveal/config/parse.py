"""The spec is the config: text <-> spec, overrides by path, the difference of two specs.

Text is a constructor call of our own parts, such as ``Focal(gamma=1.5)``. It is parsed and looked up in a vocabulary
of classes, never executed. Importing this module does not import torch.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import FovealError, UsageError
from .fields import FieldHelp, describe
from .literals import parse_value
from .show import SCHEMA

if TYPE_CHECKING:
    from ..assembly.detector import Spec

__all__ = ["FieldHelp", "describe", "parse_spec", "parse_value", "spec_from_json", "vocabulary"]

PACKAGES = ("foveal.parts", "foveal.detectors")  # every module in these
MODULES = ("foveal.assembly.proposers", "foveal.assembly.task", "foveal.recipe", "foveal.data.augment.transforms")

T = TypeVar("T")


# ------------------------------------------------------------------------------------------- vocabulary
@functools.cache
def vocabulary() -> Mapping[str, type]:
    """The public parts and specs by name: frozen dataclasses that are not abstract. Imports torch."""
    modules = list(MODULES)
    for package in PACKAGES:
        modules += [m.name for m in pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")]
    found: dict[str, type] = {}
    for module in modules:
        for name, cls in vars(importlib.import_module(module)).items():
            if not _is_part(cls) or cls.__module__ != module or name.startswith("_"):
                continue
            if name in found:
                raise TypeError(f"two parts are named {name}: {found[name].__module__} and {module}")
            found[name] = cls
    return found


def _is_part(cls: Any) -> bool:
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or inspect.isabstract(cls):
        return False
    return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ text -> spec
def parse_spec(text: str, names: Mapping[str, type] | None = None) -> Spec:
    """The spec that ``repr(spec)`` or :func:`show` wrote. Raises :class:`UsageError` for anything else."""
    spec = parse_value(text, vocabulary() if names is None else names, where="spec")
    if names is None:
        from ..assembly.detector import Spec

        if not isinstance(spec, Spec):
            raise UsageError(f"{type(spec).__name__} is not a detector", where="spec")
    return spec  # type: ignore[no-any-return]


def spec_from_json(stored: Mapping[str, Any], names: Mapping[str, type] | None = None) -> Spec:
    """The inverse of :func:`to_json`. Raises :class:`FovealError` for another schema or another content."""
    schema, text = stored.get("schema"), stored.get("spec")
    if schema != SCHEMA or not isinstance(text, str):
        raise FovealError(
            f"schema {schema!r}, expected {SCHEMA} with the text of a spec",
            where="spec",
            fix="Read it with the version that wrote it",
        )
    return parse_spec(text, names)
