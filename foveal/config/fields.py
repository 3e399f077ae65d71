"""The fields of a part: their types, defaults and help; checks values against annotations.

Used by :mod:`foveal.config.parse`; imports nothing heavy.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class FieldHelp:
    """One setting of a part, as text."""

    name: str
    type: str  # the annotation as written
    default: str  # the default as text; empty where there is none
    help: str  # its trailing comment, or the one above it


class Mismatch(Exception):
    """A value that does not have the annotated type; the message is what was expected."""


# ---------------------------------------------------------------------------------------------- fields
def is_part(cls: Any) -> bool:
    """Whether ``cls`` can be a part: a frozen dataclass that is not abstract."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or inspect.isabstract(cls):
        return False
    return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def settings(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields that a constructor call can set, in order."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


@functools.cache
def hints(cls: type) -> Mapping[str, Any]:
    """The resolved annotation of every field; ``Any`` where a name exists for the type checker only."""
    resolved: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        scope = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        for name, annotation in vars(base).get("__annotations__", {}).items():
            resolved[name] = _resolve(annotation, scope)
    return resolved


def _resolve(annotation: Any, scope: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, dict(scope))["it"]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return Any


# ------------------------------------------------------------------------------------------ type checks
def fitted(value: Any, hint: Any) -> Any:
    """``value`` converted to the annotation ``hint``. Raises :class:`Mismatch` for another type.

    An integer becomes a float where a float is expected, a list a tuple where a tuple is expected and vice versa.
    Nothing else is converted: ``True`` is not a number and ``1.0`` not an integer.
    """
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value
    origin = get_origin(hint)
    if origin in (typing.Annotated, typing.Final, typing.ClassVar):
        return fitted(value, get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(hint))
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in get_args(hint)):
            return value
        raise Mismatch("one of " + ", ".join(map(repr, get_args(hint))))
    if hint is None or hint is type(None):
        return _accept(value, value is None, "None")
    if origin in (tuple, list) or hint in (tuple, list):
        return _items(value, hint)
    if origin is not None and isinstance(origin, type):
        return _generic(value, origin, get_args(hint))
    return _plain(value, hint)


def _accept(value: Any, valid: bool, expected: str) -> Any:
    if not valid:
        raise Mismatch(expected)
    return value


def _plain(value: Any, hint: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float:
        return float(_accept(value, number, "a number"))
    if hint is int:
        return _accept(value, number and isinstance(value, int), "an integer")
    if hint is bool:
        return _accept(value, isinstance(value, bool), "True or False")
    if hint is str:
        return _accept(value, isinstance(value, str), "a string")
    if isinstance(hint, type):
        return _accept(value, isinstance(value, hint), f"a {name_of(hint)}")
    return value


def _one_of(value: Any, options: Sequence[Any]) -> Any:
    """The first option that accepts the value as it is; else the first that can convert it."""
    expected, converted = [], []
    for option in options:
        try:
            result = fitted(value, option)
        except Mismatch as mismatch:
            expected.append(str(mismatch))
            continue
        if type(result) is type(value):
            return result
        converted.append(result)
    if converted:
        return converted[0]
    raise Mismatch(" or ".join(dict.fromkeys(expected)))


def _items(value: Any, hint: Any) -> Any:
    """Tuples and lists, element by element."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if not isinstance(value, (tuple, list)):
        raise Mismatch(f"a {kind.__name__} ({name_of(hint)})")
    if kind is tuple and args and args[-1] is not Ellipsis:
        length = 0 if args == ((),) else len(args)
        if len(value) != length:
            raise Mismatch(f"{length} values ({name_of(hint)})")
        item_hints: Iterable[Any] = args
    else:
        item_hints = [args[0] if args else Any] * len(value)
    items = []
    for i, (item, item_hint) in enumerate(zip(value, item_hints, strict=True)):
        try:
            items.append(fitted(item, item_hint))
        except Mismatch as mismatch:
            raise Mismatch(f"{mismatch} at index {i} of {name_of(hint)}") from None
    return kind(items)


def _generic(value: Any, origin: type, args: tuple[Any, ...]) -> Any:
    if issubclass(origin, dict) or origin is Mapping:
        _accept(value, isinstance(value, dict), "a dict")
        key, item = args or (Any, Any)
        return {fitted(k, key): fitted(v, item) for k, v in value.items()}
    if origin is Sequence:
        return _items(value, tuple[args[0], ...])  # type: ignore[valid-type]
    if origin is typing.get_origin(Callable[..., Any]):
        return _accept(value, callable(value), "a part that can be called")
    return _accept(value, isinstance(value, origin), origin.__name__)


def element(hint: Any, index: int) -> Any:
    """The annotation of element ``index`` of a tuple or list annotated with ``hint``."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        args = get_args(option)
        if (get_origin(option) in (tuple, list, Sequence)) and args:
            if get_origin(option) is tuple and args[-1] is not Ellipsis:
                return args[index] if index < len(args) else Any
            return args[0]
    return Any


def takes(hint: Any, cls: type) -> bool:
    """Whether an instance of ``cls`` is valid where ``hint`` is annotated, itself or as an element."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return issubclass(cls, hint) and hint is not object
    return any(takes(argument, cls) for argument in get_args(hint))


def name_of(hint: Any) -> str:
    """An annotation as a person writes it: ``int | None``, ``tuple[float, ...]``, ``ClassLoss``."""
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(map(name_of, args))
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(name_of, args))}]"
    return getattr(hint, "__name__", str(hint))


# ----------------------------------------------------------------------------------------------- help
def describe(part: Any) -> list[FieldHelp]:
    """Name, type, default and help of every setting of a part or spec (class or value).

    The help of a field is its trailing comment, else the comment lines directly above it.
    """
    cls = part if isinstance(part, type) else type(part)
    comments: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner):
            comments.update(_comments(owner))
    rows = []
    for name, field in settings(cls).items():
        if field.default is not MISSING:
            default = repr(field.default)
        else:
            default = "" if field.default_factory is MISSING else repr(field.default_factory())
        rows.append(FieldHelp(name, name_of(hints(cls).get(name, Any)), default, comments.get(name, "")))
    return rows


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field that this class itself declares, read from its source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):  # no source: defined at a prompt, or a stripped install
        return {}
    assert isinstance(body, ast.ClassDef)
    trailing: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments = alone if token.line.lstrip().startswith("#") else trailing
            comments[token.start[0]] = token.string.lstrip("#").strip()
    by_field = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            end = node.end_lineno or node.lineno
            text = trailing.get(end) or trailing.get(node.lineno)
            by_field[node.target.id] = text if text is not None else _above(alone, node.lineno)
    return by_field


def _above(alone: Mapping[int, str], line: int) -> str:
    lines: list[str] = []
    while (line := line - 1) in alone:
        lines.insert(0, alone[line])
    return " ".join(lines)
