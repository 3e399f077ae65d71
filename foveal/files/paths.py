"""Types of arguments that many functions take: a file or folder, and a progress callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PathLike = str | Path
OnProgress = Callable[[int, int], None]  # (done, total); a total of 0 is unknown
