"""Text -> value: literals and constructor calls, parsed with ``ast`` and never executed."""

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
    Raises :class:`UsageError` that names ``where``, what was found and what was expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is the user's own business
            tree = ast.parse(text.strip(), mode="eval")
            return checked(_value(tree.body, names, where, 0, hint), hint, where, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        fix = (
            'Quote text in a call: Darknet("my.cfg")' if "/" in text else "Write a literal or a call: Focal(gamma=2.0)"
        )
        raise UsageError(f"cannot read {short(text)} ({reason})", where=where, fix=fix) from None


def _value(node: ast.expr, names: Mapping[str, type], where: str, depth: int, hint: Any = Any) -> Any:
    """``hint`` only chooses what an error suggests; :func:`checked` is what checks."""
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
        return _construct(node, names, where, depth, hint)
    if isinstance(node, ast.Name):
        if node.id in names:
            raise UsageError(f"{node.id} is a part", where=where, fix=f"Write {node.id}() to make one")
        quoted = f"Text needs quotes here: {node.id!r}" if _takes_text(hint) else ""
        fix = quoted or _nearest_part(node.id, names, hint)
        raise UsageError(f"unknown name {node.id}", where=where, fix=fix)
    raise UsageError(
        f"{short(ast.unparse(node))} is neither a literal nor a call of a part",
        where=where,
        fix="Write the value itself, for expressions are not evaluated",
    )


def _construct(node: ast.Call, names: Mapping[str, type], where: str, depth: int, hint: Any) -> Any:
    """A call of one of our classes: its arguments bound to fields, checked, and the class called."""
    node = current_call(node, names)
    assert isinstance(node.func, ast.Name)
    name = node.func.id if node.func.id in names else PARTS.get(node.func.id, node.func.id)
    if name not in names:
        raise UsageError(f"unknown part {name}", where=where, fix=_nearest_part(name, names, hint))
    cls = names[name]
    fields, place = settings(cls), f"{where}: {name}" if where else name
    positional = [f for f, field in fields.items() if not field.kw_only]
    if len(node.args) > len(positional):
        raise UsageError(f"{len(node.args)} values for {len(positional)} fields", where=place)
    given = list(zip(positional, node.args, strict=False))
    given += [(field_name(cls, k.arg or "**"), k.value) for k in node.keywords]
    values: dict[str, Any] = {}
    for field, argument in given:
        if field not in fields:
            raise UsageError(f"unknown field {field}", where=place, fix=nearest(field, fields, "fields"))
        if field in values:
            raise UsageError(f"{field} is given twice", where=place)
        wanted = hints(cls).get(field, Any)
        value = _value(argument, names, f"{place}.{field}", depth + 1, wanted)
        values[field] = checked(value, wanted, f"{place}.{field}", names)
    missing = [f for f, d in fields.items() if f not in values and _required(d)]
    if missing:
        raise UsageError(f"{missing[0]} is missing", where=place, fix=f"Set all of its fields: {', '.join(fields)}")
    return made(lambda: cls(**values), place)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def checked(value: Any, hint: Any, where: str, names: Mapping[str, type]) -> Any:
    """The value as the annotation wants it. Raises :class:`UsageError` with the parts of ``names`` that would do."""
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
    """The parts that may stand where ``hint`` is annotated; all of them where none is known to."""
    return [n for n, cls in names.items() if hint is not Any and takes(hint, cls)] or list(names)


def _nearest_part(name: str, names: Mapping[str, type], hint: Any) -> str:
    help_ = nearest(name, _fitting(names, hint), "parts")
    return f"{help_}. {names.missing(name)}" if isinstance(names, Vocabulary) else help_


def made(make: Callable[[], Any], where: str) -> Any:
    """Calls a constructor; a value it refuses is the user's, so it becomes a :class:`UsageError`."""
    try:
        return make()
    except FovealError as error:
        raise UsageError(str(error), where=where) from None
    except (ValueError, TypeError, ArithmeticError, AssertionError) as error:
        raise UsageError(str(error) or f"refused ({type(error).__name__})", where=where) from None


def short(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
