"""Losses of classes, boxes and quality scores, and what normalizes them."""

from __future__ import annotations

from typing import Any

from ...errors import moved


def __getattr__(name: str) -> Any:
    """Deprecated: the class losses by the path they had when this folder was one module; it goes with version 0.2."""
    return moved(__name__, "foveal.parts.losses.classification", name)
