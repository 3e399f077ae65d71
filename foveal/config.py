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
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args, runtime_checkable

from .errors import FovealError, UsageError
from .fields import FieldHelp, Mismatch, describe, element, fitted, hints, name_of, settings
from .literals import CONSTANTS, made, nearest, parse_value, short

if TYPE_CHECKING:
    from .detectors.base import Spec

__all__ = [
    "FieldHelp",
    "describe",
    "difference",
    "from_json",
    "is_override",
    "nearest",
    "override",
    "parse_spec",
    "parse_value",
    "show",
    "to_json",
    "vocabulary",
]

SCHEMA = 1  # of the stored text; rises when old text can no longer be read as it stands
PACKAGES = ("foveal.parts", "foveal.detectors")  # every module in these
MODULES = ("foveal.task", "foveal.fit", "foveal.data.transforms")

T = TypeVar("T")


# ------------------------------------------------------------------------------------------- vocabulary
@functools.cache
def vocabulary() -> Mapping[str, type]:
    """The public parts and specs by name: frozen dataclasses that are not abstract. Imports torch."""
    modules = list(MODULES)
    for package in PACKAGES:
        modules += [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__, package + ".")]
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
        from .detectors.base import Spec

        if not isinstance(spec, Spec):
            raise UsageError(f"{type(spec).__name__} is not a detector", where="spec")
    return spec  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------- overrides
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*\s*=(?!=)")


def is_override(text: str) -> bool:
    """Whether a word of the command line has the form ``key=value``."""
    return OVERRIDE.match(text) is not None


def override(spec: T, items: Sequence[str], names: Mapping[str, type] | None = None) -> T:
    """A spec with settings replaced by path: ``["rpn.cls_loss=Focal(gamma=1.5)", "fit.augment.0.p=.3"]``.

    Later items see the effect of earlier ones. A word where a string is wanted needs no quotes. Raises
    :class:`UsageError` for an unknown path, part or field and for a value of the wrong type.
    """
    if items and names is None:
        names = vocabulary()
    for item in items:
        if not is_override(item):
            raise UsageError(f"{short(item)} is not of the form key=value")
        path, text = (part.strip() for part in item.split("=", 1))
        spec = _replaced(spec, Any, path.split("."), 0, text, names or {})
    return spec


def _replaced(old: Any, hint: Any, path: Sequence[str], done: int, text: str, names: Mapping[str, type]) -> Any:
    """``old`` with the value at ``path[done:]`` replaced; ``hint`` is what may stand in its place."""
    where = ".".join(path[:done])
    if done == len(path):
        return _new_value(old, hint, text, where, names)
    key = path[done]
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        fields = settings(type(old))
        if key not in fields:
            kind = f"{where}: {type(old).__name__}" if where else type(old).__name__
            raise UsageError(f"unknown setting {key}", where=kind, fix=nearest(key, fields, "settings"))
        new = _replaced(getattr(old, key), hints(type(old)).get(key, Any), path, done + 1, text, names)
        return made(lambda: dataclasses.replace(old, **{key: new}), ".".join(path))
    if isinstance(old, (tuple, list)):
        if not key.isdecimal() or int(key) >= len(old):
            valid = f"0 to {len(old) - 1}" if old else "none, it is empty"
            raise UsageError(f"{key} is not a place in it", where=where, fix=f"Valid places: {valid}")
        items = list(old)
        items[int(key)] = _replaced(items[int(key)], element(hint, int(key)), path, done + 1, text, names)
        return type(old)(items)
    raise UsageError(
        f"{key} does not exist, {where} is {short(repr(old))}",
        where=".".join(path),
        fix=f"Set {where} as a whole ({name_of(hint)})",
    )


@runtime_checkable
class Completed(Protocol):
    """A part that takes what it leaves open from the part it replaces, as ``Stretch()`` does with its size."""

    def like(self, other: Any) -> Any: ...


# a name or a relative path; an absolute path, or one from ./, ../ or ~/; a name that begins with a digit
_WORD = re.compile(r"[A-Za-z_][\w./:-]*|(?:~?/|\.\.?/)[\w./:~+-]+|\d[\w-]*[A-Za-z_-][\w-]*")


def _new_value(old: Any, hint: Any, text: str, where: str, names: Mapping[str, type]) -> Any:
    plain = {*names, *CONSTANTS, "None", "True", "False"}
    if _WORD.fullmatch(text) and text not in plain:
        word = _as_word(text, hint, where)
        if word is not None:
            return word
    new = parse_value(text, names, where=where, hint=hint)
    if dataclasses.is_dataclass(old) and isinstance(new, Completed):
        return made(lambda: new.like(old), where)
    return new


def _as_word(text: str, hint: Any, where: str) -> str | None:
    """An unquoted word, where a string is wanted and the word is no number."""
    try:
        float(text)
        return None
    except ValueError:
        pass
    try:
        return str(fitted(text, hint)) if hint is not Any else None
    except Mismatch as mismatch:
        if not any(isinstance(a, str) for option in (hint, *get_args(hint)) for a in get_args(option)):
            return None
        raise UsageError(f"{text!r} is not {mismatch}", where=where) from None


# ------------------------------------------------------------------------------------------ value -> text
def show(value: Any, width: int = 100) -> str:
    """The constructor text of a spec or part over several lines; :func:`parse_spec` reads it back."""
    return _lines(value, width, 0, 0)


def _lines(value: Any, width: int, indent: int, used: int = 1) -> str:
    """``used``: characters that stand before and behind the value on its line, besides the indent."""
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


def to_json(spec: Any) -> dict[str, Any]:
    """``{"schema": 1, "spec": text}``, ready for ``json.dump``."""
    return {"schema": SCHEMA, "spec": _flat(spec)}


def from_json(stored: Mapping[str, Any], names: Mapping[str, type] | None = None) -> Spec:
    """The inverse of :func:`to_json`. Raises :class:`FovealError` for another schema or another content."""
    schema, text = stored.get("schema"), stored.get("spec")
    if schema != SCHEMA or not isinstance(text, str):
        raise FovealError(
            f"schema {schema!r}, expected {SCHEMA} with the text of a spec",
            where="spec",
            fix="Another version wrote it",
        )
    return parse_spec(text, names)


def difference(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two specs differ: ``[(path, value in a, value in b)]``, as deep as their classes agree."""
    if type(a) is type(b) and dataclasses.is_dataclass(a):
        pairs = [(n, getattr(a, n), getattr(b, n)) for n in settings(type(a))]
    elif isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        # text, not ==: it tells 1 from True and finds nan equal to itself
        return [] if _flat(a) == _flat(b) else [(path, a, b)]
    return [row for name, x, y in pairs for row in difference(x, y, f"{path}.{name}" if path else name)]
