"""What is installed here, and what the machine can do: ``foveal --version --json``, which bug reports quote."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from typing import Any


def version(name: str) -> str | None:
    """The version of an installed distribution; None: it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, list[str]]:
    """The distributions that foveal requires, by extra; those it always requires under the empty name."""
    found: dict[str, list[str]] = {}
    for text in importlib.metadata.requires("foveal") or []:
        requirement, _, marker = text.partition(";")
        name = re.match(r"[\w.-]+", requirement.strip())
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        if name is not None:
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def describe_installation() -> dict[str, Any]:
    """Versions, machine and extras, as plain JSON values. A torch that cannot be imported is part of the answer."""
    wanted = requirements()
    return {
        "foveal": version("foveal"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": _machine(),
        "packages": {name: version(name) for name in sorted(wanted.pop("", []))},
        "extras": {
            extra: {name: version(name) for name in sorted(names)}
            for extra, names in sorted(wanted.items())
            if extra != "test"
        },
    }


def _machine() -> dict[str, Any]:
    try:
        import torch

        from .precision import cpu_features
        from .processes import cores
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing
        return {"processor": platform.machine(), "error": f"torch cannot be imported: {error}"}
    return {
        "processor": platform.processor() or platform.machine(),
        "features": cpu_features(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
