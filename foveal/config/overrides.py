"""Overrides settings of a spec by path, and lists the difference of two specs."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from ..errors import UsageError, nearest
from .fields import Mismatch, element, fitted, hints, name_of, settings
from .literals import CONSTANTS, construct, parse_value, short
from .parse import T
from .renamed import field_name
from .show import _flat
from .table import Vocabulary

__all__ = ["difference", "is_override", "override", "without_overrides"]


# -------------------------------------------------------------------------------------------- overrides
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*\s*=(?!=)")


def is_override(text: str) -> bool:
    """Whether a command-line argument has the form ``key=value``."""
    return OVERRIDE.match(text) is not None


def without_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are no overrides, and the overrides; a file that is called like one is none."""
    overrides = [word for word in words if is_override(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def override(
    spec: T, items: Sequence[str], names: Mapping[str, type] | None = None, *, parts: Sequence[type] = ()
) -> T:
    """A spec with settings replaced by path: ``["rpn.cls_loss=Focal(gamma=1.5)", "fit.augment.0.p=.3"]``.

    Later items see the effect of earlier ones. A word where a string is expected needs no quotes. ``names`` and
    ``parts``: see :func:`parse_spec`. Raises :class:`UsageError` for an unknown path, part or field and for a value of
    the wrong type.
    """
    if items and names is None:
        names = Vocabulary(parts)
    for item in items:
        if not is_override(item):
            raise UsageError(f"{short(item)} is not of the form key=value")
        path, text = (part.strip() for part in item.split("=", 1))
        spec = _replaced(spec, Any, path.split("."), 0, text, names or {})
    return spec


def _replaced(old: Any, hint: Any, path: Sequence[str], done: int, text: str, names: Mapping[str, type]) -> Any:
    """``old`` with the value at ``path[done:]`` replaced; ``hint`` is its annotation."""
    where = ".".join(path[:done])
    if done == len(path):
        return _new_value(old, hint, text, where, names)
    key = path[done]
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        fields, key = settings(type(old)), field_name(type(old), key)
        if key not in fields:
            kind = f"{where}: {type(old).__name__}" if where else type(old).__name__
            raise UsageError(f"unknown setting {key}", where=kind, fix=nearest(key, fields, "settings"))
        new = _replaced(getattr(old, key), hints(type(old)).get(key, Any), path, done + 1, text, names)
        return construct(lambda: dataclasses.replace(old, **{key: new}), ".".join(path))
    if isinstance(old, (tuple, list)):
        if not key.isdecimal() or int(key) >= len(old):
            valid = f"0 to {len(old) - 1}" if old else "none, it is empty"
            raise UsageError(f"{key} is not an index of it", where=where, fix=f"Use one of the indices {valid}")
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
    """A part that copies unset fields from the part it replaces: a resize rule the mean and std of its pixels.

    ``given``: the names of the fields that are set explicitly.
    """

    def like(self, other: Any, given: frozenset[str]) -> Any: ...


# a name or a relative path; an absolute path, or one from ./, ../ or ~/, of any letters, since no literal starts so; a
# name that starts with a digit
_WORD = re.compile(r"[A-Za-z_][\w./:-]*|(?:~?/|\.\.?/).+|\d[\w-]*[A-Za-z_-][\w-]*")


def _new_value(old: Any, hint: Any, text: str, where: str, names: Mapping[str, type]) -> Any:
    """The value of an override: an unquoted word or a parsed value, completed from ``old`` where it is a part."""
    plain = {*names, *CONSTANTS, "None", "True", "False"}
    if _WORD.fullmatch(text) and text not in plain:
        word = _as_word(text, hint, where)
        if word is not None:
            return word
    new = parse_value(text, names, where=where, hint=hint)
    if dataclasses.is_dataclass(old) and isinstance(new, Completed):
        return construct(lambda: new.like(old, _given(text, type(new))), where)
    return new


def _given(text: str, cls: type) -> frozenset[str]:
    """The names of the fields that a call of ``cls`` sets: ``Stretch(320, height=320)`` -> width, height."""
    call = ast.parse(text.strip(), mode="eval").body
    assert isinstance(call, ast.Call)
    positional = [name for name, field in settings(cls).items() if not field.kw_only][: len(call.args)]
    return frozenset([*positional, *(field_name(cls, keyword.arg or "") for keyword in call.keywords)])


def _as_word(text: str, hint: Any, where: str) -> str | None:
    """The unquoted word ``text`` where a string is expected and it is not a number, else None."""
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


def difference(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The settings in which two specs differ, ``[(path, value in a, value in b)]``, as deep as their classes agree."""
    if type(a) is type(b) and dataclasses.is_dataclass(a):
        pairs = [(n, getattr(a, n), getattr(b, n)) for n in settings(type(a))]
    elif isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        # text, not ==: it distinguishes 1 from True and treats NaN as equal to itself
        return [] if _flat(a) == _flat(b) else [(path, a, b)]
    return [row for name, x, y in pairs for row in difference(x, y, f"{path}.{name}" if path else name)]
