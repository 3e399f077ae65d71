"""Writes a spec as text, which :mod:`foveal.config.parse` reads back."""

from __future__ import annotations

import dataclasses
from typing import Any

from .fields import settings
from .parse import SCHEMA
from .table import custom_parts

__all__ = ["show", "spec_to_json"]


# ------------------------------------------------------------------------------------------ value -> text
def show(value: Any, width: int = 100) -> str:
    """The constructor text of a spec or part over several lines; :func:`parse_spec` reads it back."""
    return _lines(value, width, 0, 0)


def _lines(value: Any, width: int, indent: int, used: int = 1) -> str:
    """``used``: characters before and after the value on its line, besides the indent."""
    flat = _flat(value)
    if len(flat) + indent + used <= width:
        return flat
    pad = " " * (indent + 4)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        rows = [f"{pad}{n}={_lines(getattr(value, n), width, indent + 4, len(n) + 2)}" for n in settings(type(value))]
        opening, closing = f"{type(value).__name__}(", ")"
    elif isinstance(value, (tuple, list)):
        rows = [pad + _lines(item, width, indent + 4) for item in value]
        opening, closing = ("(", ")") if isinstance(value, tuple) else ("[", "]")
    else:
        return flat
    return opening + "\n" + "".join(row + ",\n" for row in rows) + " " * indent + closing


def _flat(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(f'{n}={_flat(getattr(value, n))}' for n in settings(type(value)))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_flat(v)}" for k, v in value.items()) + "}"
    return repr(value)


def spec_to_json(spec: Any) -> dict[str, Any]:
    """``{"schema": 1, "spec": text}``, ready for ``json.dump``; ``"parts"``: modules of custom parts."""
    custom = custom_parts(spec)
    return {"schema": SCHEMA, "spec": _flat(spec), **({"parts": custom} if custom else {})}
