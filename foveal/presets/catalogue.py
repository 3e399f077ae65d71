"""What can be said about a preset without training it: its comment, its size, its settings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import torch

from .. import presets
from ..config.parse import describe
from ..config.show import show

if TYPE_CHECKING:
    from ..assembly.detector import Spec


def comments() -> dict[str, str]:
    """The comment of each preset: the lines above it, and what stands behind it."""
    found: dict[str, str] = {}
    for page in presets.PAGES:
        found |= _comments(inspect.getsource(page))
    return found


def _comments(source: str) -> dict[str, str]:
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1  # the one above, counted from 1
        while line and lines[line - 1].startswith("#"):
            above.insert(0, lines[line - 1].lstrip("# ").rstrip())
            line -= 1
        behind = lines[node.lineno - 1].partition("  # ")[2]
        found[node.targets[0].id] = " ".join([text for text in above if "-----" not in text] + [behind]).strip()
    return found


def parameters(spec: Spec, classes: int) -> int:
    """How many numbers a detector learns or keeps frozen; buffers do not count. Nothing is allocated."""
    with torch.device("meta"):
        detector = spec.build([f"class {i + 1}" for i in range(classes)])
    return sum(p.numel() for p in detector.parameters())


def settings(spec: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Every setting as (path, value as text, help); a part comes before its own settings."""
    rows: list[tuple[str, str, str]] = []
    for row in describe(spec):
        value = getattr(spec, row.name)
        own = f"{path}.{row.name}" if path else row.name
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            rows.append((own, f"{type(value).__name__}(...)", row.help))
            rows += settings(value, own)
        else:
            rows.append((own, show(value, width=10**9), row.help))
    return rows
