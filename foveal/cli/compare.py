"""``foveal compare``. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import FovealError, UsageError
from ..files.atomic import write_bytes
from .common import print_err, print_out, single, write_text


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for curves.png and compare.txt.")] = None,
) -> None:
    """Compares runs: scores, the settings in which they differ, and curves.

    \b
    Example:
      foveal compare runs/bce runs/focal --out comparison
    """
    from ..report.compare import comparison, curves
    from ..report.read_run import read_record

    if len(runs) < 2:
        raise UsageError("compare needs at least two runs", fix="Give at least two run folders")
    if out is not None and out.exists() and not out.is_dir():
        raise FovealError("is a file, not a folder", path=out)
    records = [read_record(run) for run in runs]
    text = comparison(records)
    print_out(text)
    if out is not None:
        write_text(text + "\n", out / "compare.txt")
        write_bytes(out / "curves.png", curves(records))
        print_err(f"{out / 'curves.png'}")


app = single(compare)
