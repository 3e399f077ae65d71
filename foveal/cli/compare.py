"""``foveal compare``. Imports torch only where detections are to be made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import FovealError, UsageError
from ..files.atomic import write_bytes
from .common import (
    BoxConvention,
    Classes,
    Device,
    ImagesDir,
    Json,
    Limit,
    OwnParts,
    Split,
    names,
    own_parts,
    paths,
    print_err,
    print_findings,
    print_out,
    progress,
    single,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from ..data.records.dataset import Dataset
    from ..report.comparison.compared import RunComparison

FAILED = 4  # the exit status of --fail-if

Runs = Annotated[
    list[Path],
    typer.Argument(help="Run folders, the baseline first; a folder of train --seeds stands for its runs.",
                   show_default=False),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option("--out", help="The page (.html), or a folder for compare.html, compare.txt and curves.png."),
]
DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Data set to score all runs on; default: the images that each run validated on.",
                 show_default=False),
]  # fmt: skip
Protocol = Annotated[
    Literal["coco", "voc07", "voc10"] | None,
    typer.Option("--protocol", help="Protocol to score by; default: that of the runs' results."),
]
FailIf = Annotated[
    Literal["worse", "not-better"] | None,
    typer.Option("--fail-if", help="Exit with status 4 if any run is worse than the first, or not better than it."),
]
MinScore = Annotated[
    float | None,
    typer.Option("--min-score", min=0, max=1, help="Leave out detections below this score, of all runs alike."),
]
ShowFunnel = Annotated[
    bool, typer.Option("--funnel/--no-funnel", help="Trace every image for the miss funnels (kept in the run).")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Detect again, whatever detections the runs keep.")]
Accept = Annotated[
    list[str] | None,
    typer.Option("--accept", help="Compare although this differs: version (of foveal, in training).", metavar="WHAT"),
]


def compare(
    runs: Runs,
    out: Out = None,
    data: DataOption = None,
    split: Split = None,
    images: ImagesDir = None,
    convention: BoxConvention = None,
    classes: Classes = None,
    protocol: Protocol = None,
    min_score: MinScore = None,
    funnel: ShowFunnel = True,
    json: Json = None,
    fail_if: FailIf = None,
    accept: Accept = None,
    fresh: Fresh = False,
    parts: OwnParts = None,
    device: Device = "auto",
    limit: Limit = None,
) -> int:
    """Says whether runs are better or worse than the first, or that it cannot be told, and shows why.

    Runs that differ in their seed alone are one side. Scores are compared on the same draws of images, with a 95 %
    interval of the difference. The page has settings, scores, classes, curves, errors, miss funnels, thresholds, times
    and the images that decide. Detections that a run does not keep are made on the images that it validated on, or on
    --data, and kept in it.

    \b
    Example:
      foveal compare runs/bce runs/focal --out comparison.html
      foveal compare runs/old runs/new --data my-photos --split test --json - --fail-if worse
    """
    from ..report.comparison.make import CompareOptions, compare_folders
    from ..report.comparison.text import comparison_text
    from ..report.evaluate_run import EvaluationRequest

    _check(out, accept)
    _needs_data(data, split=split, images=images, convention=convention, limit=limit)
    request = EvaluationRequest(funnel and (out is not None or json is not None), None, fresh, device, own_parts(parts))
    options = CompareOptions(
        None if data is None else paths(data),
        split,
        images,
        convention,
        limit,
        names(classes),
        protocol,
        min_score,
        accept or (),
        request,
    )
    comparison = compare_folders(runs, options, on_data=_Told(), task=progress)
    text = comparison_text(comparison)
    if str(json) != "-":
        print_out(text)
    write_json(comparison.to_dict(), json)
    _write(comparison, text, out)
    worst = comparison.worst
    return FAILED if fail_if and (worst == "worse" or (fail_if == "not-better" and worst != "better")) else 0


class _Told:
    """Prints the findings of each dataset once."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def __call__(self, dataset: Dataset) -> None:
        if str(dataset.path) not in self.paths:
            self.paths.add(str(dataset.path))
            print_findings(dataset)


def _check(out: Path | None, accept: list[str] | None) -> None:
    if out is not None and out.exists() and not out.is_dir() and out.suffix.lower() != ".html":
        raise FovealError("is a file, not a folder", path=out)
    for word in accept or ():
        if word != "version":
            raise UsageError(f"{word!r} is unknown", where="--accept", fix="Give version")


def _needs_data(data: list[Path] | None, **options: object) -> None:
    """Refuses what says more about a dataset that is not given."""
    for name, value in options.items():
        if data is None and value is not None:
            raise UsageError("needs --data", where=f"--{name}", fix="Give the dataset to score all runs on")


def _write(comparison: RunComparison, text: str, out: Path | None) -> None:
    """The page, and in a folder text and curves beside it."""
    from ..report.comparison.page import write_comparison

    if out is None:
        print_err("page: add --out comparison.html")
        return
    if out.suffix.lower() == ".html" and not out.is_dir():
        print_err(f"page: {write_comparison(comparison, out)}")
        return
    from ..report.comparison.settings import curves

    write_text(text + "\n", out / "compare.txt")
    write_bytes(out / "curves.png", curves([run.record for run in comparison.runs]))
    print_err(f"page: {write_comparison(comparison, out / 'compare.html')}")


app = single(compare)
