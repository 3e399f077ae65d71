"""Generates the options of a verb from the fields of its arguments: names, help, defaults, limits."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args

import typer

from ..config.fields import describe
from ..errors import UsageError
from .common import names, own_parts, paths, seconds


@dataclass(frozen=True)
class _Option:
    """A field on the command line."""

    name: str
    annotation: Any  # for typer
    default: Any
    convert: Callable[[Any], Any]  # from what was typed to the value of the field


def with_options(verb: Callable[..., Any], arguments: Any) -> Callable[..., Any]:
    """The verb with an option for every field of the dataclass ``arguments`` in place of its ``**options``.

    A comment is the help, ``out_dir`` is ``--out-dir``, a flag that is on by default has a ``--no-...``. Metadata:
    ``min``, ``metavar``, ``duration`` (seconds, typed as 30m), ``modules`` (that hold the classes) and ``argument`` (no
    option: what follows the others).
    """
    helps = {row.name: row.help for row in describe(arguments)}
    hints = typing.get_type_hints(arguments)
    options = [_option(f, hints[f.name], helps[f.name]) for f in fields(arguments)]

    def command(**typed: Any) -> Any:
        values = {o.name: o.convert(typed.pop(o.name)) for o in options}
        return verb(**typed, **values)

    own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    generated = [inspect.Parameter(o.name, kind, default=o.default, annotation=o.annotation) for o in options]
    first, rest = own[:1], [p.replace(kind=kind) for p in own[1:]]
    parameters = [p.replace(kind=kind) for p in first] + generated + rest
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__, command.__name__ = verb.__doc__, verb.__name__
    return command


def _option(field: Field[Any], hint: Any, text: str) -> _Option:
    kind, default, convert = _typed(field, hint)
    if default is MISSING:
        default = inspect.Parameter.empty
    if word := field.metadata.get("argument"):
        info = typer.Argument(metavar=word, help=text)
    else:
        info = typer.Option(
            *_flags(field),
            help=text,
            min=field.metadata.get("min"),
            metavar=field.metadata.get("metavar"),
            show_default=default is not inspect.Parameter.empty,
        )
    return _Option(field.name, Annotated[kind, info], default, convert)


def _flags(field: Field[Any]) -> list[str]:
    name = field.name.replace("_", "-")
    return [f"--{name}/--no-{name}"] if field.default is True else [f"--{name}"]


def _typed(field: Field[Any], hint: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """What typer reads, its default, and the way from there to the field."""
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    kinds = [kind for kind in (get_args(hint) if union else (hint,)) if kind is not NoneType]
    several = next((k for k in kinds if typing.get_origin(k) is Sequence), None)
    if field.metadata.get("duration"):
        return (
            str | None,
            None if field.default is None else _duration(field.default),
            lambda text: seconds(text, f"--{field.name.replace('_', '-')}"),
        )
    if field.metadata.get("modules"):
        return list[str] | None, None, own_parts
    if Path in kinds:
        if several is None:
            return Path | None, field.default, _same
        if field.default is MISSING:
            return list[Path], MISSING, paths
        return list[Path] | None, None, lambda given: paths(given) if given else None
    if any(typing.get_origin(k) is Mapping for k in kinds):
        return str | None, None, lambda text: pairs(text, f"--{field.name}", field.metadata["metavar"])
    if several is not None and field.metadata.get("argument"):
        return list[str] | None, None, lambda given: given or ()
    if several is not None:
        return str | None, None, lambda text: names(text, f"--{field.name}")
    return hint, field.default, _same


def _same(value: Any) -> Any:
    return value


def _duration(value: Any) -> str:
    return f"{value / 60:g}m" if value % 60 == 0 else f"{value:g}s"


def pairs(text: str | None, option: str, form: str) -> dict[str, str] | None:
    """``train=trainval,val=test`` -> ``{"train": "trainval", "val": "test"}``."""
    if text is None:
        return None
    split = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if not split or any(len(pair) != 2 or not pair[1].strip() for pair in split):
        raise UsageError(f"{text!r} is not of the form {form}", where=option)
    return {name.strip(): value.strip() for name, value in split}
