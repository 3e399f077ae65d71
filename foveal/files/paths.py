"""The type of arguments that name a file or folder."""

from __future__ import annotations

from pathlib import Path

PathLike = str | Path
