"""``foveal compare``. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import FovealError, UsageError
from .common import note, say, single, write_text


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="A folder for curves.png and compare.txt.")] = None,
) -> None:
    """Several runs side by side: the settings in which they differ, scores, and curves.

    \b
    Example:
      foveal compare runs/bce runs/focal --out comparison
    """
    from ..report.compare import comparison, curves
    from ..report.read_run import read_record

    if len(runs) < 2:
        raise UsageError("one run has nothing to be compared with", fix="Name at least two run folders")
    if out is not None and out.exists() and not out.is_dir():
        raise FovealError("is a file, not a folder", path=out)
    records = [read_record(run) for run in runs]
    text = comparison(records)
    say(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(text + "\n", out / "compare.txt")
        (out / "curves.png").write_bytes(curves(records))
        note(f"{out / 'curves.png'}")


app = single(compare)
