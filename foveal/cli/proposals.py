"""``foveal proposals``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import FovealError
from .common import (
    Data,
    Device,
    ImagesDir,
    Json,
    Limit,
    OwnParts,
    Precision,
    Split,
    limited,
    names,
    own_parts,
    paths,
    print_findings,
    print_out,
    print_skipped,
    progress,
    single,
    write_json,
)


def proposals(
    data: Data,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="selective_search, selective_search_quality or sliding_windows; a source as a spec has it, such as "
            "'SelectiveSearch(width=320, min_side=10)'; or a run, checkpoint or alias with proposals of its own.",
        ),
    ] = "selective_search",
    split: Split = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Count only objects of these classes, comma-separated.")
    ] = None,
    images: ImagesDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for proposals.safetensors, proposals.npz and recall.json.")
    ] = None,
    json: Json = None,
    limit: Limit = None,
    parts: OwnParts = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Computes and caches the proposals of a dataset, and reports their class-agnostic recall (AR).

    The cache holds them by image content, so that no image is computed twice. The file proposals.safetensors in --out
    is what --proposals of train, eval, predict and check takes.

    \b
    Example:
      foveal proposals --data my-photos --split val
      foveal proposals --data my-photos --method runs/first --split val --out first-proposals
    """
    if out is not None and out.exists() and not out.is_dir():
        raise FovealError("is a file, not a folder", path=out)
    from ..data.records.subsets import select_classes
    from ..evaluation.recall import ProposalMethod, score_proposals
    from ..evaluation.scoring import divided_ids, evaluation_set

    where = paths(data)
    proposer = ProposalMethod.of(method, device, precision, own_parts(parts))
    divided = divided_ids(method, where) if proposer.trained else None
    dataset = evaluation_set(where, split=split, images=images, divided=divided, trained_on=proposer.trained_on)
    if classes is not None:
        dataset = select_classes(dataset, names(classes) or [])
    print_findings(dataset)
    with progress("proposing") as update:
        done = score_proposals(proposer, limited(dataset, limit), progress=update)
    print_skipped(done.skipped)
    print_findings(done.dataset)
    if str(json) != "-":
        print_out(done.recall.text())
        pace = "all from the cache" if done.seconds is None else f"{done.made} made, {done.seconds:.2f} s an image"
        print_out(f"{done.per_image:.0f} boxes an image; {pace}")
    write_json(done.to_dict(), json)
    if out is not None:
        done.save(out)


app = single(proposals)
