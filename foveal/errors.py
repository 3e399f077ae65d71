"""The package's own exceptions. The command line turns them into one clear line and an exit status."""

from __future__ import annotations

from pathlib import Path


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


def at_least(spec: object, least: int, *names: str) -> None:
    """Raises :class:`UsageError` for the first of these fields of a spec that is below ``least``."""
    for name in names:
        if not getattr(spec, name) >= least:
            raise UsageError(f"{type(spec).__name__}: {name} is {getattr(spec, name)}, expected {least} or more")
