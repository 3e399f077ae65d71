"""Simulates another CPU in the subprocesses of the tests; see ``processor`` in conftest.py.

Python imports a module of this name at startup if this folder is on ``PYTHONPATH``. It loads nothing of the
package: the functions that read the CPU's flags and compare times are replaced when (and if) their module is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType

MODULE = "foveal.runtime.precision"


def wanted() -> bool:
    """Whether ``FOVEAL_TEST_BF16`` is set."""
    return os.environ.get("FOVEAL_TEST_BF16", "") != ""


def cpu_flags() -> frozenset[str]:
    """The CPU flags that ``FOVEAL_TEST_BF16`` asks for: 1, with bf16 arithmetic; 0, without."""
    return {"1": frozenset({"avx512_bf16"}), "0": frozenset[str]()}[os.environ["FOVEAL_TEST_BF16"]]


def faster(seconds: object) -> str:
    """The format that is taken to be the faster one: what is automatic is bf16 on the pretended CPU, or not at all."""
    return {"1": "bf16", "0": "32"}[os.environ["FOVEAL_TEST_BF16"]]


class Loader(SourceFileLoader):
    """Loads the module and replaces its functions."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.cpu_flags, module.faster = cpu_flags, faster  # type: ignore[attr-defined]


class Finder(MetaPathFinder):
    """Finds that one module through the remaining finders."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            spec.loader = Loader(name, spec.origin)
        return spec


if __name__ == "sitecustomize" and wanted():
    sys.meta_path.insert(0, Finder())
