"""Settings that another tool stored with its weights, read without executing them; what the same weights need."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...assembly.detector import Spec
from ...config.overrides import difference
from ...errors import FovealError

_LONGEST = 1_000_000  # characters of a config
_MANY = 1_000_000  # more than any count or size in a config
_UNKNOWN = object()  # an expression that is not evaluated


@dataclass(frozen=True)
class Settings:
    """Values by dotted names. Missing ones have the default that the caller names."""

    values: Mapping[str, Any]
    path: str | Path  # of the file that they are from, for messages

    def get(self, name: str, default: Any = None) -> Any:
        value: Any = self.values
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def number(self, name: str, default: float, *, positive: bool = False) -> float:
        value = self.get(name, default)
        number = _number(value) if isinstance(value, str | int | float) else None
        if number is None or (positive and number <= 0):
            raise self._wrong(name, value, "a number" + " above 0" * positive)
        return number

    def whole(self, name: str, default: int, *, largest: int = _MANY) -> int:
        """A whole number from 0 to ``largest``."""
        number = self.number(name, default)
        if not 0 <= number <= largest or number != int(number):
            raise self._wrong(name, self.get(name, default), f"a whole number from 0 to {largest}")
        return int(number)

    def numbers(self, name: str, default: Sequence[float], *, positive: bool = False) -> tuple[float, ...]:
        """As many numbers as ``default`` has; with ``positive`` all above 0."""
        value = self.get(name, default)
        found = [_number(item) for item in value] if isinstance(value, list | tuple) else []
        numbers = tuple(number for number in found if number is not None and (number > 0 or not positive))
        if len(numbers) != len(found) or len(numbers) != len(default):
            raise self._wrong(name, value, f"{len(default)} numbers" + " above 0" * positive)
        return numbers

    def sizes(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        """One or more numbers above 0."""
        value = self.get(name, default)
        found = [_number(item) for item in value] if isinstance(value, list | tuple) else []
        if not found or any(number is None or number <= 0 for number in found):
            raise self._wrong(name, value, "numbers above 0")
        return tuple(number for number in found if number is not None)

    def lists(self, name: str, default: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        """Lists of numbers above 0, each with at least one."""
        value = self.get(name, default)
        rows = value if isinstance(value, list | tuple) else []
        found = [[_number(item) for item in row] if isinstance(row, list | tuple) else [] for row in rows]
        if not found or any(not row or any(n is None or n <= 0 for n in row) for row in found):
            raise self._wrong(name, value, "lists of numbers above 0")
        return [tuple(n for n in row if n is not None) for row in found]

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        text = str(value).lower()
        if text not in ("true", "false"):
            raise self._wrong(name, value, "true or false")
        return text == "true"

    def only(self, name: str, *supported: Any) -> Any:
        """The value, which must be one of ``supported``; the first is the default."""
        value = self.get(name, supported[0])
        for one in supported:
            if value == one or str(value) == str(one):
                return one
        raise self._wrong(name, value, f"{' or '.join(map(repr, supported))}, the only supported value"
                          + "s" * (len(supported) > 1))  # fmt: skip

    def _wrong(self, name: str, value: Any, expected: str) -> FovealError:
        text = str(value)
        shown = repr(text[:60] + "..." if len(text) > 60 else value)
        return FovealError(f"the model's setting {name} is {shown}, expected {expected}", path=self.path)


def _number(value: Any) -> float | None:
    """A finite number, also one that is written as text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def python_settings(text: str) -> dict[str, Any]:
    """The values that a Python config assigns, made of literals and ``dict(...)``; empty where it cannot be parsed.

    Nothing is executed. Whatever is neither a literal nor such a call is left out.
    """
    if len(text) > _LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            tree = ast.parse(text)
        values: dict[str, Any] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = _evaluated(node.value, values)
                if value is not _UNKNOWN:
                    values[node.targets[0].id] = value
        return values
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _evaluated(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id, _UNKNOWN)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _evaluated(node.operand, known)
        return -value if isinstance(value, int | float) else _UNKNOWN
    if isinstance(node, ast.List | ast.Tuple):
        items = [_evaluated(item, known) for item in node.elts]
        return items if all(item is not _UNKNOWN for item in items) else _UNKNOWN
    pairs: list[tuple[Any, ast.expr]] = []
    if isinstance(node, ast.Dict):
        pairs = [(_evaluated(k, known), v) for k, v in zip(node.keys, node.values, strict=True) if k is not None]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg is not None]
    else:
        return _UNKNOWN
    evaluated = {key: _evaluated(value, known) for key, value in pairs if isinstance(key, str)}
    return {key: value for key, value in evaluated.items() if value is not _UNKNOWN}


# what the same weights need to compute the same function, beside their shapes
_BODY = ("input.mean", "input.std", "backbone.stride_in_1x1", "backbone.ceil")
_HEADS = (
    "neck.extra",
    "neck.p7_relu",
    "anchors",
    "priors",
    "pool",
    "mask.pool",
    "task.coder",
    "rpn.coder",
    "roi.coder",
)


def function_settings(ours: Spec, theirs: Spec) -> list[tuple[str, Any, Any]]:
    """The settings in which two specs compute different functions of the same weights: (path, our value, theirs)."""
    paths = (*_BODY, *_HEADS) if type(ours) is type(theirs) else _BODY
    missing = object()

    def value(spec: Any, path: str) -> Any:
        for name in path.split("."):
            spec = getattr(spec, name, missing)
        return spec

    pairs = ((path, value(ours, path), value(theirs, path)) for path in paths)
    return [row for path, a, b in pairs if missing not in (a, b) for row in _differing(a, b, path)]


def _differing(a: Any, b: Any, path: str) -> list[tuple[str, Any, Any]]:
    if path in ("input.mean", "input.std"):  # torchvision writes Caffe's mean with five digits
        same = all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(a, b, strict=True))
        return [] if same else [(path, a, b)]
    return difference(a, b, path)
