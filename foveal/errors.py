"""The package's own exceptions, and the warning for paths that have moved.

The command line turns an exception into one clear line and an exit status.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any


class FovealError(Exception):
    """Input that is refused (exit status 1).

    The message says: file, place in it, value found, what was expected, what to do.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, where: str = "", fix: str = "") -> None:
        self.message, self.path, self.where, self.fix = message, path, where, fix
        place = ": ".join(str(p) for p in (path, where) if p not in (None, ""))
        text = f"{place}: {message}" if place else message
        super().__init__(f"{text}. {fix}" if fix else text)


class UsageError(FovealError):
    """A command or call that is wrong in itself: an unknown preset, override or option (exit status 2)."""


def at_least(spec: object, smallest: int, *names: str) -> None:
    """Raises :class:`UsageError` for the first of these fields of a spec that is below ``smallest``."""
    for name in names:
        if not getattr(spec, name) >= smallest:
            raise UsageError(f"{type(spec).__name__}: {name} is {getattr(spec, name)}, expected {smallest} or more")


def moved(old: str, new: str, name: str) -> Any:
    """The attribute ``name`` of the module ``new``, for somebody who imports it by its earlier path, with a warning."""
    module = importlib.import_module(new) if not name.startswith("__") else None
    if module is None or not hasattr(module, name):
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    warnings.warn(f"{old}.{name} is now {new}.{name}", DeprecationWarning, stacklevel=3)
    return getattr(module, name)
