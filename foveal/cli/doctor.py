"""``foveal doctor``. Imports torch only with ``--for``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .common import (
    BoxConvention,
    Classes,
    ImagesDir,
    Json,
    OwnParts,
    names,
    own_parts,
    paths,
    print_err,
    print_out,
    progress,
    single,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from ..assembly.detector import Spec


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA... [key=value ...]",
        help="Dataset; several are joined. With --for also settings of the detector to replace.",
        show_default=False,
    ),
]


def doctor(
    data: Words,
    images: ImagesDir = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    json: Json = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="[FILE]",
            help="Write a page with findings and images to this file; -, or no word after it, is standard output.",
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="PRESET",
            help="Say how the objects fit a preset, run or checkpoint: their sizes at its input, and its anchors.",
        ),
    ] = None,
    parts: OwnParts = None,
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
      foveal doctor my-photos --for faster_rcnn_mini input.short=400 --html page.html
    """
    if str(json) == str(html) == "-":
        raise UsageError("--json and --html cannot both be standard output", fix="Name a file for one of them")
    from ..data.doctor.examine import examine_parts, for_training
    from ..data.doctor.page import page

    spec, words = None, list(data)
    if for_ is not None:
        spec, words = _spec(for_, words, parts)
    with progress("reading") as update:
        sources = paths([Path(word) for word in words])
        report, splits = examine_parts(sources, images, names(classes), decode, update, convention)
    fit = None
    if spec is not None:
        from ..checks.object_fit import object_fit

        fit = object_fit(spec, for_training(splits), str(for_))
    told = report.text(every=all_) + ("" if fit is None else f"\n{fit.text()}")
    (print_err if "-" in (str(json), str(html)) else print_out)(told)
    write_json(None if json is None else report.to_list(), json)
    if html is not None:
        write_text(page(report, splits, fit), html)
    return report.status(strict)


def _spec(source: str, words: list[str], parts: list[str] | None) -> tuple[Spec, list[str]]:
    """The spec that ``--for`` names, with the settings among the words replaced, and the other words."""
    from ..checkpoints.initial import find_spec
    from ..config.overrides import override, without_overrides

    classes = own_parts(parts)
    rest, overrides = without_overrides(words)
    return override(find_spec(source, classes)[0], overrides, parts=classes), rest


app = single(doctor)
