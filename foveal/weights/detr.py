"""Deprecated path of :mod:`foveal.weights.keys_detr`; it goes with version 0.2."""

from __future__ import annotations

from typing import Any

from ..errors import moved


def __getattr__(name: str) -> Any:
    return moved(
        __name__, "foveal.weights.keys_detr", {"to_ours": "detr_to_ours", "to_theirs": "detr_to_theirs"}.get(name, name)
    )
