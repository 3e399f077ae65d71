"""Imports a detector from Darknet's files (cfg, weights and names), and exports one to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ...assembly.detector import Spec
from ...assembly.task import BoxTask
from ...detectors.darknet import DarknetDetector, detection_layers
from ...detectors.yolo import V2_TASK
from ...errors import FovealError
from ...files.atomic import write_text
from ...parts.darknet.cfg import read_names
from ...parts.darknet.cfg_graph import cfg_text, read_net, with_geometry, with_outputs
from ...parts.darknet.heads import Head
from ...parts.darknet.weights import read_darknet, read_start, write_darknet
from ...parts.losses.yolo import YOLOBoxLoss
from ...parts.resizing import BLACK, WHITE
from ...weights.open import StateDict


def cfg_of(spec: Spec) -> str | None:
    """The cfg of a Darknet detector, which is needed to read its weights file; None for another detector."""
    return spec.cfg if isinstance(spec, DarknetDetector) else None


def read_start_state(path: str | Path, cfg: str) -> tuple[tuple[str, ...], StateDict]:
    """Placeholders for the classes, and the state that a training run of ``cfg`` (its text) starts from: that of a file
    of the cfg, of the same network for other classes, or of its first layers. Raises :class:`FovealError`.
    """
    classes, state = read_start(path, cfg)
    names = tuple(f"class {k}" for k in range(classes or cast(Head, detection_layers(read_net(cfg))[0].head).classes))
    return names, {f"backbone.{key}": value for key, value in state.items()}


def import_darknet(
    path: str | Path, cfg: str | Path, names: str | Path | Sequence[str] | None = None
) -> tuple[DarknetDetector, tuple[str, ...], StateDict]:
    """Spec, class names and state of a Darknet detector's files.

    ``names``: the .names file, or the names; None: ``class 0``, ``class 1``, ... Raises :class:`FovealError` for files
    that do not match, with both counts.
    """
    text = cfg_text(str(cfg))
    net = read_net(text, cfg if text != str(cfg) else None)
    header, state = read_darknet(path, net)
    spec = DarknetDetector.from_cfg(cfg, seen=header.seen)
    classes = cast(Head, detection_layers(net)[0].head).classes
    if names is None:
        class_names = tuple(f"class {k}" for k in range(classes))
    else:
        class_names = read_names(names) if isinstance(names, (str, Path)) else tuple(names)
    if len(class_names) != classes:
        where = names if isinstance(names, (str, Path)) else None
        raise FovealError(
            f"holds {len(class_names)} names, the cfg has classes={classes}",
            path=where,
            fix="Give the names of this cfg",
        )
    return spec, class_names, {f"backbone.{key}": value for key, value in state.items()}


def export_darknet(spec: Spec, classes: Sequence[str], state: StateDict, out: Path, *, seen: int = 0) -> list[Path]:
    """Writes a detector as Darknet's files: ``out`` (.weights), and its cfg and names beside it. Returns the paths.

    The cfg gets the classes, the size of the input and the shapes of the boxes. ``seen``: images trained on since the
    spec was made. Raises :class:`FovealError` for another detector, for one that Darknet would decode differently,
    and for files that exist already.
    """
    if not isinstance(spec, DarknetDetector) or spec.task.cls_loss.channels(len(classes)) != len(classes):
        raise FovealError(f"{type(spec).__name__} is not a network of Darknet", fix="Write a .safetensors file")
    files = [out, out.with_suffix(".cfg"), out.with_suffix(".names")]
    for file in files:
        if file.exists():
            raise FovealError("exists already", path=file, fix="Name a new file")
    text = with_outputs(spec.cfg, len(classes))
    shapes = {
        layer.index: level for layer, level in zip(detection_layers(read_net(text)), spec.cells.shapes, strict=True)
    }
    text = with_geometry(text, spec.input.canvas(()), shapes)
    if what := _first_difference(spec, DarknetDetector.from_cfg(text)):
        raise FovealError(f"{what} is not what Darknet does with this network", fix="Write a .safetensors file")
    # plus the images that its initial weights were trained on, as far as they count for the warm-up
    if isinstance(spec.task.box_loss, YOLOBoxLoss):
        seen += cast(YOLOBoxLoss, V2_TASK.box_loss).warmup_images - spec.task.box_loss.warmup_images
    net, names = read_net(text), _names_file(classes)
    weights = {key.removeprefix("backbone."): value for key, value in state.items()}
    try:
        write_text(files[1], text)
        write_text(files[2], names)
        write_darknet(out, net, weights, seen=seen)
    except BaseException:  # all three or none
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return files


def _names_file(classes: Sequence[str]) -> str:
    """One name a line. Raises :class:`FovealError` for a name that such a file cannot hold."""
    for name in classes:
        if name != name.strip() or name.splitlines() != [name] or not name.isprintable():
            raise FovealError(
                f"a .names file cannot hold the class {name!r}", where="--out", fix="Write a .safetensors file"
            )
    return "\n".join(classes) + "\n"


def _first_difference(spec: DarknetDetector, reference: DarknetDetector) -> str:
    """The first setting of ``spec`` by which its detections differ from Darknet's; "" where there is none."""
    logits = torch.linspace(-3, 3, 12).view(1, 4, 3)

    def scores(task: BoxTask) -> Tensor | None:
        return None if task.quality is None else task.quality.scores(task.cls_loss.scores(logits), logits[..., 0])

    our_scores, darknet_scores = scores(spec.task), scores(reference.task)
    if spec.task.coder != reference.task.coder:
        return f"task.coder={spec.task.coder}"
    if our_scores is None or darknet_scores is None or not torch.equal(our_scores, darknet_scores):
        return f"task.cls_loss={spec.task.cls_loss} with task.quality={spec.task.quality}"
    if spec.cells != reference.cells:
        return f"cells={spec.cells}"
    if spec.input.pixels != (BLACK, WHITE):
        return f"input.mean={spec.input.pixels[0]} with input.std={spec.input.pixels[1]}"
    return ""
