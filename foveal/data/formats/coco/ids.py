"""The ids of a COCO file: in any notation, and found in another notation than their own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..validate import number

Key = int | str  # an id, see :func:`as_key`


def as_key(value: object) -> Key | None:
    """An id: whole numbers as ``int`` in any notation (7, 7.0, "7"), other text as it is, else ``None``."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 and str(int(text)) == text else text
    return None


class IdTable:
    """The ids of one list of entries; each is also found by another notation or by a name, where only one fits."""

    def __init__(self, keys: Iterable[Key], names: Iterable[tuple[str, Key]] = ()) -> None:
        self.keys = dict.fromkeys(keys)
        self._names = names
        self._notations: dict[str, set[Key]] | None = None

    def find(self, value: object) -> tuple[Key | None, bool]:
        """The id that ``value`` means (``None``: of no entry), and whether it is written otherwise.

        A number is never taken for a name: it is rather the id of an entry that was removed.
        """
        key = as_key(value)
        if key is None or key in self.keys:
            return key, False
        if self._notations is None:
            self._notations = {}
            for own in self.keys:
                self._notations.setdefault(_notation(own), set()).add(own)
            for name, own in self._names:
                if not _notation(name).isdigit():
                    self._notations.setdefault(_notation(name), set()).add(own)
        fitting = self._notations.get(_notation(key), set())
        return (next(iter(fitting)), True) if len(fitting) == 1 else (None, False)


def _notation(key: Key) -> str:
    """What the notations of one id have in common: no capitals, blanks and zeros in front."""
    text = str(key).strip().casefold()
    value = number(text) if len(text) < 19 else None
    return str(int(value)) if value is not None and math.isfinite(value) and value == int(value) else text
