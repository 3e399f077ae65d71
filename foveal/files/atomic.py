"""JSON files: read as an object, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FovealError


def read_object(path: Path) -> dict[str, Any]:
    """Values by name. Raises :class:`FovealError` for a file that cannot be read, or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FovealError(f"cannot be read as JSON ({error})", path=path) from None
    if not isinstance(value, dict):
        raise FovealError(f"expected an object, found {type(value).__name__}", path=path)
    return value


def write_json(path: Path, value: Any) -> None:
    """Indented, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8, under another name first."""
    temporary = path.with_name(f".{path.name}.writing")
    # a file name that is not UTF-8 holds lone surrogates; replaced this way they are the escapes that JSON knows
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)


@contextmanager
def filled_folder(out: Path) -> Iterator[Path]:
    """A hidden folder to write into; at the end it is ``out``, and after any failure it is gone.

    An ``out`` that is there already, and empty, gets the contents: it may be the folder that a shell stands in.
    """
    final = Path(os.path.abspath(out))  # "." has no name
    there = final.exists()
    partial = (final if there else final.parent) / f".{final.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
    except FileExistsError:  # never removed here: nobody knows whose it is
        raise FovealError("is in the way, perhaps of a run that was killed", path=partial, fix="Remove it") from None
    try:
        yield partial
        if there:
            for path in sorted(partial.iterdir()):
                path.rename(final / path.name)
        else:
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
