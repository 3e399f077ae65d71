"""Parses text into values: literals and constructor calls, read with ``ast`` and never executed."""

from __future__ import annotations

import ast
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import FovealError, UsageError, nearest
from .fields import Mismatch, fitted, hints, settings, takes
from .renamed import PARTS, current_call, field_name
from .table import Vocabulary

DEPTH = 50  # nested calls and brackets; real specs stay under 10
CONSTANTS: Mapping[str, float] = {"inf": math.inf, "nan": math.nan}  # as ``repr`` writes them


def parse_value(text: str, names: Mapping[str, type], *, where: str = "", hint: Any = Any) -> Any:
    """The value that ``text`` stands for: a literal, or constructor calls of the classes in ``names``.

    Nothing is executed but those constructors, each argument checked against its field's annotation, and the whole
    against ``hint``.
    Raises :class:`UsageError` with ``where``, the text and what was expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings are not reported
            tree = ast.parse(text.strip(), mode="eval")
            return checked(_value(tree.body, names, where, 0, hint), hint, where, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        fix = (
            'Quote text in a call: Darknet("my.cfg")' if "/" in text else "Write a literal or a call: Focal(gamma=2.0)"
        )
        raise UsageError(f"cannot read {short(text)} ({reason})", where=where, fix=fix) from None


def _value(node: ast.expr, names: Mapping[str, type], where: str, depth: int, hint: Any = Any) -> Any:
    """The value of a node. ``hint`` only selects what an error suggests; :func:`checked` does the check."""
    if depth > DEPTH:
        raise UsageError(f"more than {DEPTH} levels of nesting", where=where.split(":")[0])
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _value(node.operand, names, where, depth + 1)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, (ast.Tuple, ast.List)):
        items = [_value(item, names, where, depth + 1) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_value(k, names, where, depth + 1) for k in node.keys if k is not None]
        values = [_value(v, names, where, depth + 1) for v in node.values]
        if all(isinstance(k, (str, int, float, bool, type(None))) for k in keys):
            return dict(zip(keys, values, strict=True))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _parse_call(node, names, where, depth, hint)
    if isinstance(node, ast.Name):
        if node.id in names:
            raise UsageError(f"{node.id} is a part", where=where, fix=f"Write {node.id}() to create one")
        quoted = f"Text needs quotes here: {node.id!r}" if _takes_text(hint) else ""
        fix = quoted or _nearest_part(node.id, names, hint)
        raise UsageError(f"unknown name {node.id}", where=where, fix=fix)
    raise UsageError(
        f"{short(ast.unparse(node))} is neither a literal nor a call of a part",
        where=where,
        fix="Write the value itself; expressions are not evaluated",
    )


def _parse_call(node: ast.Call, names: Mapping[str, type], where: str, depth: int, hint: Any) -> Any:
    """The instance that a call of a part stands for: binds the arguments to fields, checks them and calls the class."""
    node = current_call(node, names)
    assert isinstance(node.func, ast.Name)
    name = node.func.id if node.func.id in names else PARTS.get(node.func.id, node.func.id)
    if name not in names:
        raise UsageError(f"unknown part {name}", where=where, fix=_nearest_part(name, names, hint))
    cls = names[name]
    fields, location = settings(cls), f"{where}: {name}" if where else name
    positional = [f for f, field in fields.items() if not field.kw_only]
    if len(node.args) > len(positional):
        raise UsageError(f"{len(node.args)} values for {len(positional)} fields", where=location)
    given = list(zip(positional, node.args, strict=False))
    given += [(field_name(cls, k.arg or "**"), k.value) for k in node.keywords]
    values: dict[str, Any] = {}
    for field, argument in given:
        if field not in fields:
            raise UsageError(f"unknown field {field}", where=location, fix=nearest(field, fields, "fields"))
        if field in values:
            raise UsageError(f"{field} is given twice", where=location)
        expected = hints(cls).get(field, Any)
        value = _value(argument, names, f"{location}.{field}", depth + 1, expected)
        values[field] = checked(value, expected, f"{location}.{field}", names)
    missing = [f for f, d in fields.items() if f not in values and _required(d)]
    if missing:
        raise UsageError(f"{missing[0]} is missing", where=location, fix=f"Set all of its fields: {', '.join(fields)}")
    return construct(lambda: cls(**values), location)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def checked(value: Any, hint: Any, where: str, names: Mapping[str, type]) -> Any:
    """The value converted to ``hint``. Raises :class:`UsageError` with the parts of ``names`` that are valid there."""
    try:
        return fitted(value, hint)
    except Mismatch as mismatch:
        fitting = [] if hint is Any else sorted(n for n, cls in names.items() if takes(hint, cls))
        fix = f"Valid parts: {', '.join(fitting)}" if fitting else ""
        raise UsageError(f"{short(repr(value))} is not {mismatch}", where=where, fix=fix) from None


def _takes_text(hint: Any) -> bool:
    try:
        return hint is not Any and isinstance(fitted("text", hint), str)
    except Mismatch:
        return False


def _fitting(names: Mapping[str, type], hint: Any) -> list[str]:
    """The parts that are valid where ``hint`` is annotated; all parts where none is known to be."""
    return [n for n, cls in names.items() if hint is not Any and takes(hint, cls)] or list(names)


def _nearest_part(name: str, names: Mapping[str, type], hint: Any) -> str:
    suggestion = nearest(name, _fitting(names, hint), "parts")
    return f"{suggestion}. {names.missing(name)}" if isinstance(names, Vocabulary) else suggestion


def construct(constructor: Callable[[], Any], where: str) -> Any:
    """Calls a constructor; its errors become a :class:`UsageError`, since the values are the user's."""
    try:
        return constructor()
    except FovealError as error:
        raise UsageError(str(error), where=where) from None
    except (ValueError, TypeError, ArithmeticError, AssertionError) as error:
        raise UsageError(str(error) or f"refused ({type(error).__name__})", where=where) from None


def short(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
