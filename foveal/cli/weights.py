"""``foveal weights list|fetch|import|export``. The first two never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from .common import (
    CfgFile,
    NamesFile,
    OwnParts,
    PresetOf,
    group,
    names,
    own_parts,
    print_err,
    print_notes,
    print_out,
    progress,
)

app = group()


@app.callback()
def weights() -> None:
    """Lists, downloads, imports and exports weights. Files are read without running code that is in them.

    \b
    Example:
      foveal weights list
      foveal weights fetch accurate
      foveal weights import fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --out models/r50
      foveal weights export runs/first --out first.safetensors
    """


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Name of one, to show its card.", show_default=False)] = None,
) -> None:
    """Lists the published checkpoints: name, preset, size, score, and whether it is downloaded; of one, its card.

    \b
    Example:
      foveal weights list
      foveal weights list accurate
    """
    from ..weights.cache import ALIASES, PUBLISHED, find_published, weights_folder

    if name is not None:
        entry = find_published(name)
        print_out(entry.name)
        for what, text in entry.card():
            print_out(f"  {what}: {text}")
        return
    short = {name: alias for alias, name in ALIASES.items()}
    rows = [("name", "alias", "preset", "MB", "score", "here")]
    for entry in PUBLISHED.values():
        here = "yes" if all((weights_folder() / part.file).is_file() for part in entry.parts) else "no"
        score = "-" if entry.score is None else f"{entry.score:.1f} {entry.metric}"
        preset = entry.preset or ("its cfg" if entry.cfg else "-")
        rows.append((entry.name, short.get(entry.name, "-"), preset, f"{entry.megabytes:.0f}", score, here))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print_out("  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip())
    print_out("timm's: timm/NAME; torchvision's other backbones: torchvision/NAME.")
    print_out("`foveal weights list NAME` shows data, licence and source of one.")
    print_out(f"Fetched files lie in {weights_folder()}")


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="An alias, a name of `weights list`, timm/NAME, torchvision/NAME, or an address.", show_default=False
        ),
    ],
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of the downloaded files; default: the cache.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="SHA-256 of the file at an address, or its first 8 digits or more.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only what is downloaded already (FOVEAL_OFFLINE=1: always).")
    ] = False,
) -> None:
    """Downloads a published checkpoint, once, and checks its hash. An interrupted download resumes.

    \b
    Example:
      foveal weights fetch accurate
      foveal weights fetch timm/resnet50.a1_in1k
      foveal weights fetch https://example.org/mine-0123abcd.pth
    """
    from ..weights.cache import fetch as run
    from ..weights.cache import fetch_url, find_published

    if "://" in name:
        with progress(f"fetching {name}") as update:
            print_out(str(fetch_url(name, sha256, cache, progress=update, offline=offline)))
        return
    if sha256 is not None:
        raise UsageError(f"the hash of {name} is known", where="--sha256", fix="Use it with an address only")
    for what, text in find_published(name).card():
        if what in ("data", "licence", "source"):
            print_err(f"{what}: {text}")
    with progress(f"fetching {name}") as update:
        path = run(name, cache, progress=update, offline=offline)
    print_out(str(path))


@app.command("import")
def import_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .pth, .safetensors or .weights file, a Hugging Face folder, or an alias.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder.", show_default=False)],
    preset: PresetOf = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names of the classes, comma-separated, without background.")
    ] = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    parts: OwnParts = None,
) -> None:
    """Converts a foreign checkpoint to one of foveal's, which every verb takes.

    \b
    Example:
      foveal weights import fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --out models/r50
      foveal weights import detr-r50-e632da11.pth --out models/detr
      foveal weights import yolov3-tiny.weights --cfg yolov3-tiny.cfg --names coco.names --out models/tiny
      foveal predict models/r50 photo.jpg
    """
    if classes is not None and names_file is not None:
        raise UsageError("--names or --classes, not both")
    from ..checkpoints.load import import_model

    spec, known = import_model(
        model, out, preset=preset, cfg=cfg, names=names_file or names(classes), parts=own_parts(parts)
    )
    print_notes(spec)
    print_out(f"{out}: {type(spec).__name__}, {len(known)} classes")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run, checkpoint, alias or weights file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="A new file or folder.", show_default=False)],
    to: Annotated[
        Literal["foveal", "hf", "hf4", "torchvision", "detr", "detectron2", "mmdetection", "darknet", "backbone"]
        | None,
        typer.Option(
            "--to", help="Format to write; default: foveal for .safetensors, darknet for .weights, hf for a folder."
        ),
    ] = None,
    resnet: Annotated[
        Literal["timm", "transformers"],
        typer.Option("--resnet", help="Key names of the ResNet in a transformers DETR."),
    ] = "timm",
    svd: Annotated[
        str | None,
        typer.Option(
            "--svd", help="Ranks, such as 1024,256, to compress the fully connected layers of a region head to."
        ),
    ] = None,
    preset: PresetOf = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    parts: OwnParts = None,
) -> None:
    """Writes the weights of a run in the format of another program.

    foveal: one safetensors file with spec and class names in its header. hf: a folder with config.json (id2label) and
    model.safetensors; a DETR as transformers' own (hf4: with the keys of its version 4). torchvision, detr: state dicts
    of torchvision's detectors and of the original DETR. detectron2, mmdetection: checkpoints of theirs, .pth. darknet:
    .weights, and beside it .cfg and .names. backbone: the backbone alone, for backbone.weights=FILE. With --svd the
    fully connected layers of a region head are compressed by truncated SVD (Fast R-CNN: 1024,256).

    \b
    Example:
      foveal weights export runs/first --out first.safetensors
      foveal weights export runs/detr --out my-detr --to hf
      foveal weights export runs/r50 --out r50.pth --to torchvision
      foveal weights export runs/fast --out small.safetensors --svd 1024,256
      foveal weights export runs/mine --out mine.weights
    """
    from ..checkpoints.export import export_model

    ranks = None if svd is None else _ranks(svd)
    written, remarks = export_model(
        model, out, to, preset=preset, cfg=cfg, names=names_file, inner=resnet, svd=ranks, parts=own_parts(parts)
    )
    for path in written:
        print_out(str(path))
    for line in remarks:
        print_err(line)


def _ranks(text: str) -> tuple[int, ...]:
    """``1024,256`` -> ``(1024, 256)``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{text!r} is not a list of ranks", where="--svd", fix="Write 1024,256")
    return tuple(map(int, parts))
