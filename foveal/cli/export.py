"""``foveal export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UsageError
from .common import (
    CfgFile,
    Json,
    Limit,
    NamesFile,
    OwnParts,
    PresetOf,
    Split,
    own_parts,
    paths,
    print_err,
    print_out,
    progress,
    single,
    write_json,
)

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL [key=value ...]",
        help="A run, checkpoint, alias or weights file; then settings to replace.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="A new file, .onnx.", show_default=False)]
To = Annotated[Literal["onnx"], typer.Option("--to", help="Format to write.")]
ProofData = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Data set to prove the file on, beside generated images; several are joined."),
]
Batch = Annotated[str, typer.Option("--batch", help="Images of every call: a number, or dynamic.")]
Size = Annotated[
    str, typer.Option("--size", help="Canvas, as in 480x640 (height, width), or dynamic: what the input rule makes.")
]


def export(
    arguments: Arguments,
    out: Out,
    to: To = "onnx",
    data: ProofData = None,
    split: Split = None,
    batch: Batch = "dynamic",
    size: Size = "dynamic",
    json: Json = None,
    preset: PresetOf = None,
    cfg: CfgFile = None,
    names_file: NamesFile = None,
    parts: OwnParts = None,
    limit: Limit = None,
) -> None:
    """Writes a detector as one ONNX file that runs without torch, and proves that it answers the same.

    The file holds the network, the decoding and the NMS; its metadata the classes, the input rule, the spec and the
    proof. The proof compares torch and ONNX Runtime on 50 generated images and on the data set, if one is given; it is
    printed and written beside the file. A file that fails is not kept. `foveal predict FILE.onnx` runs it.

    \b
    Example:
      foveal export runs/first --out first.onnx --data my-photos
      foveal export runs/first --out fixed.onnx --batch 1 --size 480x640
      foveal predict first.onnx photo.jpg
    """
    from ..config.overrides import without_overrides

    words, overrides = without_overrides(arguments)
    if len(words) != 1:
        raise UsageError(f"expected one model, got {len(words)} words", fix="Run foveal export --help for the usage")
    from ..export.write import export_onnx

    options: dict[str, Any] = {"preset": preset, "cfg": cfg, "names": names_file, "parts": own_parts(parts)}
    options |= {"batch": _batch(batch), "size": _size(size), "overrides": overrides, "limit": limit}
    with progress("proving") as update:
        proof = export_onnx(
            words[0], out, data=None if not data else paths(data), split=split, progress=update, **options
        )
    if str(json) != "-":
        print_out(proof.text())
    write_json(proof.to_dict(), json)
    print_err(f"{out}: proved; see {out}.proof.json")


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{text!r} is not a number of images", where="--batch", fix="Write 1, 8 or dynamic")
    return int(text)


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"{text!r} is not a size", where="--size", fix="Write 480x640 (height x width) or dynamic")
    return int(height), int(width)


app = single(export)
