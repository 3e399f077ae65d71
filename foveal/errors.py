"""The package's exceptions, the hint for an unknown name, and the warning for import paths that have moved.

The command line turns an exception into one line and an exit status.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LISTED = 30  # names of a hint


class FovealError(Exception):
    """Input that is rejected (exit status 1).

    The message states the file, the location in it, the value and what was expected; ``fix`` is what to do about it,
    as an imperative sentence without a full stop.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, where: str = "", fix: str = "") -> None:
        self.message, self.path, self.where, self.fix = message, path, where, fix
        location = ": ".join(str(p) for p in (path, where) if p not in (None, ""))
        text = f"{location}: {message}" if location else message
        super().__init__(f"{text}. {fix}" if fix else text)


class UsageError(FovealError):
    """An invalid command or call: an unknown preset, override or option (exit status 2)."""


def at_least(spec: object, smallest: int, *names: str) -> None:
    """Raises :class:`UsageError` for the first of these fields of a spec that is below ``smallest``."""
    for name in names:
        if not getattr(spec, name) >= smallest:
            raise UsageError(f"{type(spec).__name__}: {name} is {getattr(spec, name)}, expected {smallest} or more")


def nearest(name: str, names: Iterable[str], what: str = "", count: int = 1) -> str:
    """The hint for an unknown name: ``Did you mean paint? Valid settings: inner, paint, room``.

    ``what`` says what the valid ``names`` are; without it they are not listed, nor are they where they are many and at
    least one of them is close. At most ``count`` close names are suggested; case does not matter.
    """
    valid = sorted(names)
    folded = {n.lower(): n for n in valid}
    close = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, count)]
    hint = f"Did you mean {' or '.join(close)}?" if close else ""
    if not what or (close and len(valid) > _LISTED):
        return hint
    if not valid:
        return f"There are no {what} here"
    more = f" and {len(valid) - _LISTED} more" if len(valid) > _LISTED else ""
    listed = (f'"{name}"' if "," in name else name for name in valid[:_LISTED])
    return f"{hint} Valid {what}: {', '.join(listed)}{more}".strip()


def moved(old: str, new: str, name: str) -> Any:
    """The attribute ``name`` of the module ``new``, for somebody who imports it by its earlier path, with a warning."""
    module = importlib.import_module(new) if not name.startswith("__") else None
    if module is None or not hasattr(module, name):
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    warnings.warn(f"{old}.{name} is now {new}.{name}", DeprecationWarning, stacklevel=3)
    return getattr(module, name)
