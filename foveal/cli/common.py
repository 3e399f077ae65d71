"""Options, output and progress that the verbs share."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, cast

import typer

from ..config.fields import is_part
from ..errors import FovealError, UsageError
from ..files.text import one_line, visible
from .targets import with_stdout

if TYPE_CHECKING:
    from ..assembly.detector import Spec
    from ..data.records.dataset import Dataset
    from ..files.aliases import OnProgress

INTERRUPTED = 130
FEW = 3  # images with one reason that are named each on a line of its own
EVERY = 5.0  # seconds between progress lines where there is no terminal

# ---------------------------------------------------------------------------------------------- options
Data = Annotated[list[Path], typer.Option("--data", help="Dataset; several are joined.", show_default=False)]
ImagesDir = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images, if they are not beside the annotations.")
]
BoxConvention = Annotated[
    str | None,
    typer.Option(
        "--convention",
        metavar="A,B,...",
        help="What the numbers of the boxes are, if not what the format says: corners, top-left, centers or ranges; "
        "pixels, fractions, percent or the frame 640x480; yx (y before x); from-1 (class numbers from 1).",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Names of the classes, in this order: a,b; one with a comma in quotes: '\"a,b\",c'."
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="Name of the split to use.")]
Device = Annotated[str, typer.Option("--device", help="Device to run on: auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    Literal["32", "bf16", "16"] | None,
    typer.Option(
        "--precision", help="Floating-point precision; default: bf16 where the device is fast at it, else 32."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N images.")]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="[FILE]",
        help="Write the result as JSON to this file; -, or no word after it, is standard output.",
    ),
]
PresetOf = Annotated[
    str | None, typer.Option("--preset", help="Preset of a weights file, where the file does not determine it.")
]
CfgFile = Annotated[Path | None, typer.Option("--cfg", help="Network of a Darknet weights file (.cfg).")]
NamesFile = Annotated[Path | None, typer.Option("--names", help="Class names of a Darknet weights file (.names).")]
ProposalFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--proposals",
        help="File of `foveal proposals --out`, for a detector that takes external proposals; several are joined.",
    ),
]
OwnParts = Annotated[
    list[str] | None,
    typer.Option("--parts", help="Module or .py file with parts of one's own, such as my_parts; several are joined."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings to replace, as in input.short=600.")
]


def single(function: Callable[..., Any]) -> typer.Typer:
    """The command line of a verb without sub-commands."""
    app = group()
    app.command(context_settings=_SETTINGS)(function)
    return app


def group() -> typer.Typer:
    """An empty command line; markup stays off, so that names in brackets are shown as they are."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=_SETTINGS,
    )


_SETTINGS: dict[Any, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def invoke(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Runs a command line and returns its status. Wrong usage becomes :class:`UsageError`."""
    command = typer.main.get_command(app)
    _lost.clear()
    try:
        status = command.main(args=with_stdout(arguments), prog_name=name, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # the class lies in click or in typer, depending on typer's version
        if not any(base.__name__ == "ClickException" for base in type(error).__mro__):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(f"{cast(Any, error).ctx.get_help()}\n")
            return 2
        message = str(cast(Any, error).format_message()).rstrip(".")
        raise UsageError(message, fix=f"Run {name} --help for the usage") from None
    if status == INTERRUPTED:  # newer versions of typer turn Ctrl-C into a status
        raise KeyboardInterrupt
    for lost in _lost:  # now that every file is written
        if not isinstance(lost, BrokenPipeError):  # else the reader (head, less) has seen enough
            raise FovealError(str(lost.strerror), path="standard output")
    return int(status or 0)


def seconds(text: str | None, option: str = "--max-time") -> float | None:
    """``90``, ``90s``, ``30m``, ``1.5h``, ``1h30m`` -> seconds."""
    if text is None:
        return None
    number = r"(\d+(?:\.\d+)?|\.\d+)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if total <= 0:
        raise UsageError(f"{text!r} is not a duration", where=option, fix="Write 90s, 30m or 1h30m")
    return total


_NAME = re.compile(r'(?:"((?:[^"]|"")*)"\s*|([^",][^,]*|))(?:,|$)')


def names(text: str | None, option: str = "--classes") -> list[str] | None:
    """``a, b`` -> ``["a", "b"]``; a name with a comma, a quote or spaces around it stands in quotes: ``"a, b",c``."""
    if text is None:
        return None
    listed: list[str] = []
    rest = text.lstrip()
    while rest:
        match = _NAME.match(rest)
        if match is None:
            raise UsageError(
                f"{rest!r} begins with a quote that does not end before a comma",
                where=option,
                fix='Double a quote within a name, as in """a"" b",c',
            )
        quoted, plain = match.groups()
        if quoted is not None or plain.strip():
            listed.append(quoted.replace('""', '"') if quoted is not None else plain.strip())
        rest = rest[match.end() :].lstrip()
    if not listed:
        raise UsageError("an empty list of names", where=option)
    return listed


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The first ``limit`` images of a dataset."""
    return dataset if limit is None else replace(dataset, records=dataset.records[:limit])


def paths(data: Sequence[Path]) -> Path | list[Path]:
    """One path, or several to join."""
    return data[0] if len(data) == 1 else list(data)


def own_parts(modules: Sequence[str] | None) -> tuple[type, ...]:
    """The parts in one's own modules or .py files, which may be in the current folder. This runs their code."""
    classes: list[type] = []
    for word in modules or ():
        file = Path(word) if word.endswith(".py") else None
        folder = str((file.parent if file is not None else Path()).resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        name = word if file is None else file.stem
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"cannot import {word} ({error})", where="--parts") from error
        if file is not None and Path(module.__file__ or "").resolve() != file.resolve():
            raise UsageError(f"another module is named {name}", path=file, where="--parts", fix="Rename the file")
        here = [c for c in vars(module).values() if is_part(c) and f"{c.__module__}.".startswith(f"{name}.")]
        if not here:
            raise UsageError(f"no parts in {word}", where="--parts", fix="Define parts as frozen dataclasses")
        classes += here
    return tuple(classes)


# ----------------------------------------------------------------------------------------------- output
def print_out(text: str) -> None:
    """Prints lines on standard output as they are: never cut, wrapped or colored."""
    with _screen(sys.stdout):
        typer.echo(visible(text))


def print_err(text: str) -> None:
    """Prints lines on standard error: what happens, as opposed to the result."""
    with _screen(sys.stderr):
        typer.echo(visible(text), err=True)


_lost: list[OSError] = []  # errors of the screen in this command


@contextmanager
def _screen(stream: TextIO) -> Iterator[None]:
    """Goes on where nothing can be written to the screen: the files asked for are written all the same."""
    try:
        yield
    except OSError as error:
        _lost.append(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_findings(dataset: Dataset) -> None:
    """Prints what was dropped, repaired or read otherwise in a dataset, repeats folded, on standard error."""
    from ..data.records.findings import count, fold

    findings = list(dict.fromkeys(dataset.findings))
    for line in fold(findings):
        print_err(line)
    counts = count(findings)
    if counts["error"] or counts["warning"]:
        print_err(f"{dataset.path}: {counts['error']} errors, {counts['warning']} warnings")


def print_skipped(errors: Sequence[FovealError]) -> None:
    """Prints the images that could not be read on standard error; the same reason once, with a count."""
    same: dict[str, list[FovealError]] = {}
    for error in errors:
        same.setdefault(error.message, []).append(error)
    for message, group in same.items():
        if len(group) <= FEW:
            for error in group:
                print_err(f"skipped: {one_line(str(error))}")
        else:
            names = ", ".join(one_line(str(error.path)) for error in group[:FEW])
            advice = f". {group[0].fix}" if group[0].fix else ""
            print_err(f"skipped: {len(group)} images: {message} ({names}, ...){advice}")


def print_notes(spec: Spec) -> None:
    """Prints what is ignored or read otherwise of the files that a detector was made from, on standard error."""
    for note in spec.notes():
        print_err(f"note: {note}")


def write_json(value: Any, target: Path | None) -> None:
    """To a file, or to standard output for ``-``; nothing for ``None``."""
    if target is None:
        return
    write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", target)


def write_text(text: str, target: Path) -> None:
    """To a file, which is complete or absent, or to standard output for ``-``."""
    if str(target) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # JSON and HTML are UTF-8, whatever the terminal speaks
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        with _screen(sys.stdout):
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    from ..files.atomic import write_text as write

    write(target, text)


@contextmanager
def progress(what: str) -> Iterator[OnProgress]:
    """A callback ``(done, total)``: a bar on a terminal, a line every few seconds elsewhere; quiet for two seconds."""
    start = last = time.monotonic()
    bar: Any = None
    task: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar, task, last
        now = time.monotonic()
        if now - start < 2.0:
            return
        if sys.stderr.isatty():
            if bar is None:
                from rich.console import Console
                from rich.progress import Progress as Bar

                bar = Bar(console=Console(stderr=True), transient=True)
                task = bar.add_task(what, total=total or None)
                bar.start()
            bar.update(task, completed=done, total=total or None)
        elif now - last >= EVERY:
            last = now
            left = f", {(now - start) * (total - done) / done:.0f} s left" if done and total else ""
            print_err(f"{what}: {done}/{total or '?'}{left}")

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()
