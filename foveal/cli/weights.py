"""``foveal weights list|fetch|import|export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FovealError, UsageError
from .common import CfgFile, NamesFile, group, names, progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from ..detectors.base import Spec

app = group()


@app.callback()
def weights() -> None:
    """Other people's checkpoints: what is published, fetched when you ask for it, read without running their code.

    \b
    Example:
      foveal weights list
      foveal weights fetch accurate
      foveal weights import fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --out models/r50
      foveal weights export runs/first --out first.safetensors
    """


@app.command("list")
def list_() -> None:
    """The published checkpoints: name, what it is with us, size, score, and whether it is here.

    \b
    Example:
      foveal weights list
    """
    from ..weights.published import ALIASES, PUBLISHED, cache_folder

    short = {name: alias for alias, name in ALIASES.items()}
    rows = [("name", "alias", "preset", "MB", "score", "here")]
    for entry in PUBLISHED.values():
        here = "yes" if (cache_folder() / entry.file).is_file() else "no"
        score = "-" if entry.score is None else f"{entry.score:.1f} {entry.metric}"
        rows.append(
            (entry.name, short.get(entry.name, "-"), entry.preset or "-", f"{entry.megabytes:.0f}", score, here)
        )
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip())
    say(f"Fetched files lie in {cache_folder()}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="An alias, or a name of `weights list`.", show_default=False)],
    cache: Annotated[Path | None, typer.Option("--cache", help="Another folder to keep it in.")] = None,
) -> None:
    """Downloads a published checkpoint, once, and checks it by its hash.

    \b
    Example:
      foveal weights fetch accurate
    """
    from ..weights import fetch as run

    with progress(f"fetching {name}") as update:
        path = run(name, cache, progress=update)
    say(str(path))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pth, .safetensors or .weights file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="A new folder.", show_default=False)],
    preset: Annotated[str | None, typer.Option("--preset", help="What it is, where that is not clear.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class names, comma-separated, without background.")
    ] = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
) -> None:
    """Reads a foreign checkpoint, safely, and writes it as one of ours, which every verb takes.

    \b
    Example:
      foveal weights import fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --out models/r50
      foveal weights import yolov3-tiny.weights --cfg yolov3-tiny.cfg --names coco.names --out models/tiny
      foveal predict models/r50 photo.jpg
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("is there already", path=out, fix="Name a new or empty folder")
    from ..config import show
    from ..train.checkpoint import Content, save
    from ..train.environment import versions
    from ..weights.loading import load_into

    spec, found, state = _foreign(file, preset, names(classes), cfg, names_file)
    detector = spec.build(found)
    load_into(detector, state, path=file, what=type(spec).__name__)
    described = {"spec": show(spec), "classes": list(found), "versions": versions()}
    origin = {"step": 0, "imported": file.name}
    save(out / "checkpoints", 0, Content(detector.state_dict(), {}, {}, origin, described))
    say(f"{out}: {type(spec).__name__}, {len(found)} classes")


def _foreign(
    file: Path, preset: str | None, classes: list[str] | None, cfg: Path | None, names_file: Path | None
) -> tuple[Spec, tuple[str, ...], dict[str, Tensor]]:
    """Spec, class names and state of somebody else's file."""
    if cfg is None:
        if names_file is not None:
            raise UsageError("--names belongs to a Darknet file, which needs --cfg too")
        from ..weights import import_weights

        return import_weights(file, preset, names=classes)
    if preset is not None or (classes is not None and names_file is not None):
        raise UsageError("--cfg says what the file holds: no --preset; and --names or --classes, not both")
    from ..detectors.darknet_files import import_darknet

    return import_darknet(file, cfg, names_file or classes)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or alias.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", help="A .safetensors file; of a Darknet network also .weights.", show_default=False)
    ],
    svd: Annotated[
        str | None,
        typer.Option("--svd", help="Ranks of a region head's fully connected layers: each becomes two smaller ones."),
    ] = None,
) -> None:
    """Writes the weights of a run as one safetensors file, with spec and class names in its header.

    A Darknet network is also written as Darknet has it: .weights, and beside it .cfg and .names. With --svd the fully
    connected layers of a region head are compressed by truncated SVD (Fast R-CNN: 1024,256).

    \b
    Example:
      foveal weights export runs/first --out first.safetensors
      foveal weights export runs/fast --out small.safetensors --svd 1024,256
      foveal weights export runs/mine --out mine.weights
    """
    import json

    if out.exists():
        raise FovealError("is there already", path=out, fix="Name a new file")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from ..config import to_json
    from ..loading import find

    found = find(model)
    spec, state = found.spec(), found.state
    if svd is not None:
        from ..weights.compress import compress

        spec, state = compress(spec, state, _ranks(svd))
    if out.suffix == ".weights":
        from ..detectors.darknet_files import export_darknet

        for path in export_darknet(spec, found.classes, state, out, seen=found.seen):
            say(str(path))
        return
    header = {**to_json(spec), "classes": list(found.classes)}
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({k: v.contiguous() for k, v in state.items()}, out, {"foveal": json.dumps(header)})
    except SafetensorError as error:  # it wraps what the disk refused
        raise FovealError(f"cannot be written ({error})", path=out) from None
    say(str(out))


def _ranks(text: str) -> tuple[int, ...]:
    """``1024,256`` -> ``(1024, 256)``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{text!r} is no list of ranks", where="--svd", fix="Write 1024,256")
    return tuple(map(int, parts))
