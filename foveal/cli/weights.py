"""``foveal weights list|fetch|import|export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import FovealError, UsageError
from .common import CfgFile, NamesFile, group, names, note, progress, say

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
def list_(
    name: Annotated[str | None, typer.Argument(help="One of them: its card.", show_default=False)] = None,
) -> None:
    """The published checkpoints: name, what it is with us, size, score, and whether it is here; of one, its card.

    \b
    Example:
      foveal weights list
      foveal weights list accurate
    """
    from ..weights.cache import ALIASES, PUBLISHED, find_published, weights_folder

    if name is not None:
        entry = find_published(name)
        say(entry.name)
        for what, text in entry.card():
            say(f"  {what}: {text}")
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
        say("  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip())
    say("timm's: timm/NAME. `foveal weights list NAME` shows data, licence and source of one.")
    say(f"Fetched files lie in {weights_folder()}")


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="An alias, a name of `weights list`, timm/NAME, or an address.", show_default=False)
    ],
    cache: Annotated[Path | None, typer.Option("--cache", help="Another folder to keep it in.")] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="Of an address: the file's hash, or 8 digits of it or more.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only what is here already (FOVEAL_OFFLINE=1: always).")
    ] = False,
) -> None:
    """Downloads a published checkpoint, once, and checks it by its hash. A cut download goes on where it ended.

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
            say(str(fetch_url(name, sha256, cache, progress=update, offline=offline)))
        return
    if sha256 is not None:
        raise UsageError(f"the hash of {name} is known", where="--sha256", fix="Use it with an address only")
    for what, text in find_published(name).card():
        if what in ("data", "licence", "source"):
            note(f"{what}: {text}")
    with progress(f"fetching {name}") as update:
        path = run(name, cache, progress=update, offline=offline)
    say(str(path))


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
      foveal weights import detr-r50-e632da11.pth --out models/detr
      foveal weights import yolov3-tiny.weights --cfg yolov3-tiny.cfg --names coco.names --out models/tiny
      foveal predict models/r50 photo.jpg
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("is there already", path=out, fix="Name a new or empty folder")
    if classes is not None and names_file is not None:
        raise UsageError("--names or --classes, not both")
    from ..checkpoints.folder import Content, save
    from ..checkpoints.load import find
    from ..config.show import show
    from ..runtime.processes import versions

    found = find(model, preset, cfg=cfg, names=names_file or names(classes))
    spec = found.spec()
    detector = found.build(spec)
    described = {"spec": show(spec), "classes": list(found.classes), "versions": versions()}
    origin = {"step": 0, "imported": found.path.name}
    save(out / "checkpoints", 0, Content(detector.state_dict(), {}, {}, origin, described))
    say(f"{out}: {type(spec).__name__}, {len(found.classes)} classes")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run, checkpoint, alias or weights file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="A file or folder that is not there yet.", show_default=False)],
    to: Annotated[
        Literal["foveal", "hf", "hf4", "torchvision", "detr", "darknet", "backbone"] | None,
        typer.Option("--to", help="The form. Default: .safetensors foveal, .weights darknet, a folder hf."),
    ] = None,
    resnet: Annotated[
        Literal["timm", "transformers"],
        typer.Option("--resnet", help="Whose names the ResNet inside a transformers' DETR has."),
    ] = "timm",
    svd: Annotated[
        str | None,
        typer.Option("--svd", help="Ranks of a region head's fully connected layers: each becomes two smaller ones."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Of a weights file, where it is not clear.")] = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
) -> None:
    """Writes the weights of a run in the form that a program reads, whole or not at all.

    foveal: one safetensors file with spec and class names in its header. hf: a folder with config.json (id2label) and
    model.safetensors; a DETR as transformers' own (hf4: with the keys of its version 4). torchvision, detr: state dicts
    of torchvision's detectors and of the original DETR. darknet: .weights, and beside it .cfg and .names. backbone: the
    backbone alone, for backbone.weights=FILE. With --svd the fully connected layers of a region head are compressed by
    truncated SVD (Fast R-CNN: 1024,256).

    \b
    Example:
      foveal weights export runs/first --out first.safetensors
      foveal weights export runs/detr --out my-detr --to hf
      foveal weights export runs/r50 --out r50.pth --to torchvision
      foveal weights export runs/fast --out small.safetensors --svd 1024,256
      foveal weights export runs/mine --out mine.weights
    """
    from ..checkpoints.export import export as write
    from ..checkpoints.export import remarks, target_of
    from ..checkpoints.load import find

    form = to or target_of(out)

    found = find(model, preset, cfg=cfg, names=names_file)
    spec, state = found.spec(), found.state
    found.build(spec)  # half a detector is refused, not written
    if svd is not None:
        from ..checkpoints.compress import compress

        spec, state = compress(spec, state, _ranks(svd))
    for path in write(out, form, spec, found.classes, state, inner=resnet, seen=found.seen):
        say(str(path))
    for line in remarks(form, spec, state):
        note(line)


def _ranks(text: str) -> tuple[int, ...]:
    """``1024,256`` -> ``(1024, 256)``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{text!r} is no list of ranks", where="--svd", fix="Write 1024,256")
    return tuple(map(int, parts))
