"""Other people's checkpoints: read safely, in our words, or fetched by name. torch is imported only to read a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .published import ALIASES, PUBLISHED, fetch, find, is_alias, published_file
    from .reading import read_state
    from .torchvision import import_weights, read_torchvision

_WHERE = {
    "ALIASES": "published",
    "PUBLISHED": "published",
    "fetch": "published",
    "find": "published",
    "import_weights": "torchvision",
    "is_alias": "published",
    "published_file": "published",
    "read_state": "reading",
    "read_torchvision": "torchvision",
}

__all__ = [
    "ALIASES",
    "PUBLISHED",
    "fetch",
    "find",
    "import_weights",
    "is_alias",
    "published_file",
    "read_state",
    "read_torchvision",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
