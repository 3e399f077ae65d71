"""Exports a detector to the file or folder that another program reads."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..assembly.detector import Spec
from ..config.overrides import difference
from ..config.show import spec_to_json
from ..errors import FovealError, UsageError
from ..files.atomic import write_bytes
from ..weights.keys_detr import Form, Inner
from ..weights.keys_torchvision import recognize_network, to_torchvision, torchvision_to_ours, upgrade
from ..weights.open import StateDict
from .compress import compress
from .foreign.darknet import export_darknet
from .foreign.detr import export_detr
from .foreign.fpn_export import export_fpn, fpn_remarks
from .huggingface import write_hub_folder
from .load import find, tell

ExportFormat = Literal["foveal", "hf", "hf4", "torchvision", "detr", "detectron2", "mmdetection", "darknet", "backbone"]
# settings that change the detections of the same weights
_BOXES = re.compile(r"(anchors|priors|pool|input\.(mean|std)|(\w+\.)*coder)\b")
_SUFFIX: dict[str, ExportFormat] = {".safetensors": "foveal", ".weights": "darknet", "": "hf"}


def target_of(out: Path) -> ExportFormat:
    """The format that a file name implies. Raises ``UsageError`` for a name that implies none."""
    form = _SUFFIX.get(out.suffix.lower())
    if form is None:
        fix = f"Give --to {_list(ExportFormat)}"
        raise UsageError(f"the name {out.name} does not imply a format", where="--out", fix=fix)
    return form


def export(
    out: Path,
    to: ExportFormat,
    spec: Spec,
    classes: Sequence[str],
    state: StateDict,
    *,
    inner: Inner = "timm",
    seen: int = 0,
    trained_on: str = "",
) -> list[Path]:
    """Writes a detector in the format ``to``, whole or not at all. Returns the paths written.

    ``foveal``: one safetensors file with spec, class names and ``trained_on`` (hashes of images) in its header.
    ``hf``: a folder (see :mod:`foveal.checkpoints.huggingface`), ``hf4`` with the keys of transformers 4.
    ``torchvision``: a state dict of its detector. ``detectron2``, ``mmdetection``: a checkpoint of theirs. ``detr``:
    the original code's. ``darknet``: weights, cfg and names. ``backbone``: the backbone alone, under the keys of the
    package it comes from. ``inner``: the project whose names the ResNet inside a transformers' DETR uses. Raises
    ``FovealError`` for a detector without such a form, and for files that exist already.
    """
    spec = spec.with_pixels()
    if to == "darknet":
        return export_darknet(spec, classes, state, out, seen=seen)
    if to in ("hf", "hf4"):
        form: Form = "transformers" if to == "hf" else "transformers-4"
        return write_hub_folder(out, spec, classes, state, form, inner, trained_on)
    if out.exists():
        raise FovealError("exists already", path=out, fix="Name a new file")
    if to == "foveal":
        header = {**spec_to_json(spec), "classes": list(classes), **({"trained_on": trained_on} if trained_on else {})}
        _safetensors(state, out, {"foveal": json.dumps(header)})
    elif to == "detr":
        _either({"model": export_detr(spec, state, "original")}, out)
    elif to in ("detectron2", "mmdetection"):
        if out.suffix.lower() == ".safetensors":
            raise UsageError("they read .pth files alone", path=out, where="--to", fix="Name a .pth file")
        _either(export_fpn(spec, classes, state, to), out)
    elif to == "torchvision":
        _either(_torchvision(spec, state), out)
    else:
        _either(_backbone(spec, state), out)
    return [out]


def export_model(
    source: str | Path,
    out: str | Path,
    to: ExportFormat | None = None,
    *,
    preset: str | None = None,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    inner: Inner = "timm",
    svd: Sequence[int] | None = None,
    parts: Sequence[type] = (),
) -> tuple[list[Path], list[str]]:
    """Writes a run, checkpoint, alias or weights file in the form ``to``; default: by the name of ``out``.

    ``preset``, ``cfg``, ``names`` and ``parts`` are as for :func:`foveal.load`. ``svd``: ranks to which the
    fully connected layers of a RoI head are compressed. Returns the paths written, and remarks for the user of the
    files. Raises what :func:`export` raises, and :class:`UsageError` where the name of ``out`` implies no format.
    """
    out = Path(out)
    form = to or target_of(out)
    model = find(source, preset, cfg=cfg, names=names, parts=parts)
    tell(model)
    spec, state = model.spec(), model.state
    model.build(spec)  # raises for an incomplete detector
    if svd is not None:
        spec, state = compress(spec, state, tuple(svd))
    written = export(out, form, spec, model.classes, state, inner=inner, seen=model.seen, trained_on=model.trained_on)
    if form in ("detectron2", "mmdetection"):
        return written, fpn_remarks(spec.with_pixels(), len(model.classes), form)
    return written, remarks(form, spec, state)


def remarks(to: ExportFormat, spec: Spec, state: StateDict) -> list[str]:
    """What the user of the exported file has to set and the file does not contain, one line each."""
    if to != "torchvision":
        return []
    from .. import presets

    lines = []
    if spec.backbone is not None and spec.backbone.eps == 0:
        lines = ["its norms have an epsilon of 0: torchvision.models.detection._utils.overwrite_eps(model, 0.0)"]
    plain = presets.get(recognize_network(_theirs(state), ""))
    differing = dict.fromkeys(match[0] for path, *_ in difference(spec, plain) if (match := _BOXES.match(path)))
    if differing:
        lines.append(
            f"{', '.join(differing)}: not torchvision's default. Set the same in its model, else the detections differ"
        )
    return lines


def _torchvision(spec: Spec, state: StateDict) -> StateDict:
    """The state under torchvision's keys. Raises ``UsageError`` for a detector that torchvision does not have."""
    theirs = _theirs(state)
    try:
        recognize_network(theirs, "")
        same = torchvision_to_ours(upgrade(theirs)).keys() == state.keys()
    except FovealError:
        same = False
    if not same:
        raise UsageError(
            f"{type(spec).__name__} on this backbone is not one of torchvision's detectors", fix="Use --to foveal"
        )
    return theirs


def _theirs(state: StateDict) -> StateDict:
    """The state under torchvision's keys."""
    return to_torchvision(state, features=any(key.startswith("backbone.features.") for key in state))


def _backbone(spec: Spec, state: StateDict) -> StateDict:
    """The backbone's state under the keys of its package. Raises ``UsageError`` where there is none."""
    prefix = "backbone."
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not tensors:
        raise UsageError(f"{type(spec).__name__} has no separate backbone", where="--to backbone")
    return tensors if spec.backbone is None else spec.backbone.package_state(tensors)


# ------------------------------------------------------------------------------------------------ files
def _either(content: Mapping[str, Any], out: Path) -> None:
    """As safetensors where the file name ends in .safetensors, else as a pickled state dict."""
    if out.suffix.lower() == ".safetensors":
        _safetensors(content.get("model", content), out, {"format": "pt"})
        return
    data = io.BytesIO()
    torch.save(dict(content), data)
    write_bytes(out, data.getvalue())


def _safetensors(state: Mapping[str, Tensor], out: Path, header: dict[str, str]) -> None:
    import safetensors.torch

    tensors = {key: value.contiguous() for key, value in state.items()}
    write_bytes(out, safetensors.torch.save(tensors, header))


def _list(kind: Any) -> str:
    return ", ".join(get_args(kind))
