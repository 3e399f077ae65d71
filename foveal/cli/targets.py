"""``--json`` and ``--html``: each takes the next word as its file; ``-``, or no word before the next option, is the
screen.

A word that is plainly meant as something else (an image, a folder, a setting, a model) is refused, never overwritten.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UsageError

OPTIONS = ("--json", "--html")
STARTS = {"--json": (b"[", b"{"), "--html": (b"<",)}  # of a file that such an option may replace


def with_stdout(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``-`` after each of these options that no word follows.

    Raises :class:`UsageError` where the word that follows is something else than a file to write.
    """
    out: list[str] = []
    words = iter(enumerate(arguments))
    for i, word in words:
        out.append(word)
        if word == "--":
            return [*out, *arguments[i + 1 :]]
        option, given, value = word.partition("=")
        if option not in OPTIONS:
            continue
        if not given:
            following = arguments[i + 1] if i + 1 < len(arguments) else None
            if following is None or (following.startswith("-") and following != "-"):
                out.append("-")
                continue
            value = following
            next(words)
            out.append(value)
        if value != "-":
            _check(option, value, [*arguments[:i], *arguments[i + (1 if given else 2) :]])
    return out


def _check(option: str, word: str, others: Sequence[str]) -> None:
    """Raises :class:`UsageError` for a word that is no file to write; ``others`` are the other arguments."""
    what = next(_meant(option, word, others), None)
    if what is not None:
        raise UsageError(
            f"{option} takes the next word as the file to write, and {word!r} is {what}",
            fix=f"Write {option} - for the screen, or name a file after it",
        )


def _meant(option: str, word: str, others: Sequence[str]) -> Iterator[str]:
    """What a word is that was not meant as a file to write."""
    from ..config.overrides import is_override
    from ..data.images.load import EXTENSIONS
    from ..weights.cache import is_alias

    path = Path(word)
    if not word:
        yield "empty"
    elif path.is_dir():
        yield "a folder"
    elif path.suffix.lower() in EXTENSIONS:
        yield "an image"
    elif not path.exists():
        if is_override(word):
            yield "a setting"
        elif "*" in path.name or "?" in path.name or glob.glob(word):
            yield "a pattern"
        elif "://" in word:
            yield "an address"
        elif is_alias(word):
            yield "a model"
    elif any(_same(path, other) for other in others):
        yield "an input of this command"
    elif path.is_file() and not _replaceable(path, STARTS[option]):
        yield f"a file that {option} did not write"


def _same(path: Path, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def _replaceable(path: Path, starts: tuple[bytes, ...]) -> bool:
    """Whether a file is empty, or of the kind that is written here."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:  # writing will say why
        return True
    return not head or head.startswith(starts)
