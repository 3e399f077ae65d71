"""A detector as the file, or the folder, that somebody else's program reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..assembly.detector import Spec
from ..config.overrides import difference
from ..config.show import spec_to_json
from ..errors import FovealError, UsageError
from ..files.atomic import atomic_file
from ..parts.backbones.timm import Timm, whole_names
from ..weights.keys_detr import Inner
from ..weights.keys_torchvision import recognize_network, to_torchvision, torchvision_to_ours, upgrade
from ..weights.open import StateDict
from .foreign.darknet import export_darknet
from .foreign.detr import export_detr
from .huggingface import write_hub_folder

Target = Literal["foveal", "hf", "hf4", "torchvision", "detr", "darknet", "backbone"]
_BACKBONES = ("backbone.network.", "backbone.body.", "backbone.")  # timm's network, a pyramid's, any other
# settings with others of which the same weights find other boxes
_BOXES = re.compile(r"(anchors|priors|pool|input\.(mean|std)|(\w+\.)*coder)\b")
_SUFFIX: dict[str, Target] = {".safetensors": "foveal", ".weights": "darknet", "": "hf"}


def target_of(out: Path) -> Target:
    """What a name without further words means. Raises ``UsageError`` for one that means nothing."""
    found = _SUFFIX.get(out.suffix.lower())
    if found is None:
        raise UsageError(f"{out.name} does not say what to write", where="--out", fix=f"Give --to {_list(Target)}")
    return found


def export(
    out: Path,
    to: Target,
    spec: Spec,
    classes: Sequence[str],
    state: StateDict,
    *,
    inner: Inner = "timm",
    seen: int = 0,
) -> list[Path]:
    """Writes a detector in the form ``to``, whole or not at all; the paths written.

    ``foveal``: one safetensors file with spec and class names in its header. ``hf``: a folder (see
    :mod:`foveal.checkpoints.huggingface`), ``hf4`` with the keys of transformers 4. ``torchvision``: a state dict
    of its detector. ``detr``: the original code's. ``darknet``: weights, cfg and names. ``backbone``: the backbone
    alone, under the keys of the package it is of. ``inner``: whose names the ResNet inside a transformers' DETR
    has. Raises ``FovealError`` for a detector that has no such form, and for files that are there already.
    """
    if to == "darknet":
        return export_darknet(spec, classes, state, out, seen=seen)
    if to in ("hf", "hf4"):
        return write_hub_folder(out, spec, classes, state, "transformers" if to == "hf" else "transformers-4", inner)
    if out.exists():
        raise FovealError("is there already", path=out, fix="Name a new file")
    if to == "foveal":
        header = {**spec_to_json(spec), "classes": list(classes)}
        _safetensors(state, out, {"foveal": json.dumps(header)})
    elif to == "detr":
        _either({"model": export_detr(spec, state, "original")}, out)
    elif to == "torchvision":
        _either(_torchvision(spec, state), out)
    else:
        _either(_backbone(spec, state), out)
    return [out]


def remarks(to: Target, spec: Spec, state: StateDict) -> list[str]:
    """What the reader of the file has to know, and the file does not say."""
    if to != "torchvision":
        return []
    from .. import presets

    said = []
    if getattr(getattr(spec, "backbone", None), "eps", None) == 0:
        said = ["its norms have an epsilon of 0: torchvision.models.detection._utils.overwrite_eps(model, 0.0)"]
    plain = presets.get(recognize_network(_theirs(state), ""))
    other = dict.fromkeys(found[0] for path, *_ in difference(spec, plain) if (found := _BOXES.match(path)))
    if other:
        said.append(f"{', '.join(other)}: not torchvision's own. Its model needs the same, else it finds other boxes")
    return said


def _torchvision(spec: Spec, state: StateDict) -> StateDict:
    """Raises ``UsageError`` for a detector that torchvision has not."""
    theirs = _theirs(state)
    try:
        recognize_network(theirs, "")
        same = torchvision_to_ours(upgrade(theirs)).keys() == state.keys()
    except FovealError:
        same = False
    if not same:
        raise UsageError(
            f"{type(spec).__name__} on this backbone is no detector of torchvision's", fix="Use --to foveal"
        )
    return theirs


def _theirs(state: StateDict) -> StateDict:
    return to_torchvision(state, features=any(key.startswith("backbone.features.") for key in state))


def _backbone(spec: Spec, state: StateDict) -> StateDict:
    prefix = next((p for p in _BACKBONES if any(key.startswith(p) for key in state)), None)
    if prefix is None:
        raise UsageError(f"{type(spec).__name__} has no backbone of its own", where="--to backbone")
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    backbone = getattr(spec, "backbone", None)
    return whole_names(backbone.name, own) if isinstance(backbone, Timm) else own


# ------------------------------------------------------------------------------------------------ files
def _either(content: Mapping[str, Any], out: Path) -> None:
    """As safetensors where the name says so, else as torch writes a state dict."""
    if out.suffix.lower() == ".safetensors":
        _safetensors(content.get("model", content), out, {"format": "pt"})
        return
    _atomically(out, lambda path: torch.save(dict(content), path))


def _safetensors(state: Mapping[str, Tensor], out: Path, header: dict[str, str]) -> None:
    import safetensors.torch

    tensors = {key: value.contiguous() for key, value in state.items()}
    _atomically(out, lambda path: safetensors.torch.save_file(tensors, path, header))


def _atomically(out: Path, write: Callable[[Path], None]) -> None:
    """The file is complete or absent. Raises ``FovealError`` where it cannot be written."""
    from safetensors import SafetensorError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as part:
            write(part)
    except (SafetensorError, OSError, RuntimeError) as error:  # both libraries wrap what the disk refused
        raise FovealError(f"cannot be written ({error})", path=out) from None


def _list(kind: Any) -> str:
    return ", ".join(get_args(kind))
