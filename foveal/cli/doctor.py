"""``foveal doctor``. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .common import (
    BoxConvention,
    Classes,
    ImagesDir,
    Json,
    names,
    paths,
    print_err,
    print_out,
    progress,
    single,
    write_json,
    write_text,
)


def doctor(
    data: Annotated[list[Path], typer.Argument(help="Dataset; several are joined.", show_default=False)],
    images: ImagesDir = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    json: Json = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="[FILE]",
            help="Write a page with the findings to this file; -, or no word after it, is standard output.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 for warnings too.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="List every finding; repeats are not folded.")] = False,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Decode every image.")] = True,
) -> int:
    """Checks a dataset before training and lists errors (train would refuse it), warnings and notes.

    Exit status 1 where a finding is an error.

    \b
    Example:
      foveal doctor my-photos
      foveal doctor annotations.json --images photos --json findings.json --html findings.html
    """
    if str(json) == str(html) == "-":
        raise UsageError("--json and --html cannot both be standard output", fix="Name a file for one of them")
    from ..data.doctor.examine import examine
    from ..data.doctor.page import page

    with progress("reading") as update:
        report = examine(paths(data), images, names(classes), decode, update, convention)
    (print_err if "-" in (str(json), str(html)) else print_out)(report.text(every=all_))
    write_json(None if json is None else report.to_list(), json)
    if html is not None:
        write_text(page(report), html)
    return report.status(strict)


app = single(doctor)
