"""Deprecated path of :mod:`foveal.parts.losses.normalizers`; it goes with version 0.2."""

from __future__ import annotations

from typing import Any

from ..errors import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, "foveal.parts.losses.normalizers", name)
