"""``foveal inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .common import (
    BoxConvention,
    CfgFile,
    Classes,
    Device,
    ImagesDir,
    Json,
    Limit,
    NamesFile,
    OwnParts,
    Precision,
    PresetOf,
    ProposalFile,
    Split,
    names,
    own_parts,
    paths,
    print_err,
    print_findings,
    print_notes,
    print_out,
    print_skipped,
    progress,
    single,
    write_json,
)

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL [IMAGE...] [key=value ...]",
        help="A run, checkpoint, alias or weights file; then images, folders, globs; then settings to replace.",
        show_default=False,
    ),
]
DataOption = Annotated[
    list[Path] | None, typer.Option("--data", help="Data set with the objects; several are joined.", show_default=False)
]


def inspect(
    arguments: Arguments,
    data: DataOption = None,
    split: Split = None,
    classes: Classes = None,
    convention: BoxConvention = None,
    images: ImagesDir = None,
    json: Json = None,
    preset: PresetOf = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    proposals: ProposalFile = None,
    parts: OwnParts = None,
    device: Device = "auto",
    precision: Precision = None,
    limit: Limit = None,
) -> None:
    """Shows where a detector loses objects: the verdict on every object of a data set, and what that costs in recall.

    \b
    Example:
      foveal inspect runs/first --data my-photos --split val
    """
    model, overrides = arguments[0], list(arguments[1:])
    from ..checkpoints.load import load

    what: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "parts": own_parts(parts)}
    detector = load(model, **what, device=device, precision=precision, overrides=overrides)
    print_notes(detector.spec)
    if data is None:
        raise UsageError("no data set is given", fix="Give --data DATA")
    from ..evaluation.scoring import divided_ids, evaluation_set
    from ..external_proposals.detector import with_proposals
    from ..inspection.funnel import miss_funnel
    from .common import limited

    where = paths(data)
    found = evaluation_set(
        where,
        split=split,
        images=images,
        divided=divided_ids(model, where),
        trained_on=detector.trained_on,
        convention=convention,
    )
    found = limited(found, limit)
    with progress("proposing") as update:
        found = with_proposals(detector, found, proposals, progress=update)
    print_findings(found)
    with progress("inspecting") as update:
        funnel = miss_funnel(detector, found, classes=names(classes), progress=update)
    print_skipped(funnel.skipped)
    if str(json) != "-":
        print_out(funnel.text())
    write_json(funnel.to_dict(), json)
    if funnel.skipped:
        print_err(f"{len(funnel.skipped)} images could not be read; their objects are not counted")


app = single(inspect)
