"""Names of splits: train, val, test and their aliases."""

from __future__ import annotations

from collections.abc import Sequence

SPLIT_ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}


def find_split(name: str, splits: Sequence[str]) -> str | None:
    """The split that a name refers to: itself, or an alias (``valid`` for ``val``)."""
    if name in splits:
        return name
    for aliases in SPLIT_ALIASES.values():
        if name in aliases:
            return next((s for s in splits if s.lower() in aliases), None)
    return None


def split_word(text: str) -> str | None:
    """The split in the name of a folder or file: ``instances_val2017`` -> ``val``, ``Train`` -> ``train``."""
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    names = {canon for canon, aliases in SPLIT_ALIASES.items() for word in words if word in aliases}
    return names.pop() if len(names) == 1 else None


def meant_to_overlap(a: str, b: str) -> bool:
    """Whether two splits share images by design: ``trainval`` is ``train`` and ``val``."""
    return a != b and "trainval" in (a, b) and bool({a, b} & {"train", "val", "valid"})
