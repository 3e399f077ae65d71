"""``foveal doctor``. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Classes, ImagesDir, names, note, paths, progress, say, single, write_json, write_text


def doctor(
    data: Annotated[list[Path], typer.Argument(help="A data set; several are joined.", show_default=False)],
    images: ImagesDir = None,
    classes: Classes = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="The findings as a JSON list; without a file: standard output.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="The report as a page.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 for a warning, too.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Every finding, repeats not folded.")] = False,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Decode every image.")] = True,
) -> int:
    """Every finding in a data set, before training: errors (train would refuse it), warnings, notes.

    Exit status 1 where a finding is an error.

    \b
    Example:
      foveal doctor my-photos
      foveal doctor annotations.json --images pictures --json findings.json --html findings.html
    """
    from ..data.doctor.examine import examine
    from ..data.doctor.page import page

    with progress("reading") as update:
        report = examine(paths(data), images, names(classes), decode, update)
    (note if "-" in (str(json), str(html)) else say)(report.text(every=all_))
    write_json(None if json is None else report.to_list(), json)
    if html is not None:
        write_text(page(report), html)
    return report.status(strict)


app = single(doctor)
