"""Names as text on a screen or in a drawing: class and file names may hold line ends, escapes and what is no text."""

from __future__ import annotations

import re

# control characters, line and paragraph separators, what changes the direction of writing, bytes that are no text
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str, most: int | None = None) -> str:
    """Text on one line: what would end it, or change the screen, is escaped; of at most ``most`` characters."""
    shown = _HIDDEN.sub(_escaped, text)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def visible(text: str) -> str:
    """Lines of text without characters that would change the screen."""
    return _HIDDEN.sub(lambda match: match[0] if match[0] in "\n\t" else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\x{ord(character) - 0xDC00:02x}" if "\udc80" <= character <= "\udcff" else repr(character)[1:-1]
