"""The settings of runs, and what differs; works on the stored text of the specs, without torch and the detectors."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import FovealError
from ...files.text import one_line
from ..plots import lines
from ..read_run import RunRecord
from ..summary import text_table

LONGEST = 120  # characters of a setting that is shown whole
CALLED = ("data", "val", "split", "classes", "others", "limit", "weights", "max_time", "epochs")


def settings_table(records: Sequence[RunRecord]) -> str:
    """Plain text: every setting that differs between the runs."""
    settings = [flat(r.run, r.path) for r in records]
    keys = list(dict.fromkeys(key for s in settings for key in s))
    rows = [[k, *(s.get(k, "-") for s in settings)] for k in keys]
    different = [[k, *map(short_value, values)] for k, *values in rows if len(set(values)) > 1]
    table = text_table([["", *labels(records)], *different]) if different else "  none"
    return f"Settings that differ:\n{table}"


def curves(records: Sequence[RunRecord]) -> bytes:
    """A PNG: validation AP of every run over its iterations."""
    series = {n: r.series("val", "AP") for n, r in zip(labels(records), records, strict=True)}
    return lines(
        {n: (list(map(float, xs)), ys) for n, (xs, ys) in series.items()}, title="Validation AP", x="iteration", y="AP"
    )


def short_value(value: str) -> str:
    """A setting on one line; of a long one, such as the text of a network, the beginning, its length and its digest."""
    text = one_line(value)
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{text[:40]}... ({len(value):,} characters, {digest})"


def labels(records: Sequence[RunRecord]) -> list[str]:
    """A unique label per run: the shortest ends of the paths that differ."""
    parts = [r.path.resolve().parts for r in records]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*p[-depth:])) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i + 1})" for i, name in enumerate(names)]


def flat(run: dict[str, Any], path: Path | None = None) -> dict[str, str]:
    """The settings of a run's spec and arguments, by path. Raises :class:`FovealError` naming ``path``."""
    arguments = run.get("arguments", {})
    settings = {name: repr(arguments.get(name)) for name in CALLED}
    if (start := (run.get("start") or {}).get("from")) is not None:
        settings["initial weights"] = repr(start)
    settings |= {name: str(run.get(name)) for name in ("seed", "batch_size", "precision", "processes")}
    text = str(run.get("spec", ""))
    try:
        _walk(ast.parse(text, mode="eval").body, "", settings)
    except (SyntaxError, ValueError, RecursionError):
        raise FovealError("the spec cannot be read", path=path, where="run.json") from None
    return settings


def _walk(node: ast.expr, path: str, settings: dict[str, str]) -> None:
    """Adds the settings of a node: a constructor call becomes its class name and, below it, its fields."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        settings[path or "spec"] = node.func.id + ("()" if path else "")
        for keyword in node.keywords:
            if keyword.arg is not None:
                _walk(keyword.value, f"{path}.{keyword.arg}" if path else keyword.arg, settings)
    else:
        settings[path] = ast.unparse(node)
