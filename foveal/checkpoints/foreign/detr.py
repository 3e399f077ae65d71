"""Imports checkpoints of DETR, and exports a DETR for the original code and transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from ...assembly.detector import Spec
from ...detectors.detr import DETR
from ...errors import FovealError, UsageError
from ...parts.backbones.torchvision import Torchvision
from ...parts.heads.transformer import Transformer
from ...parts.losses.classification import CrossEntropy
from ...parts.resizing import Resize
from ...weights.coco_names import COCO_NAMES
from ...weights.keys_detr import Form, Inner, detr_to_ours, detr_to_theirs
from ...weights.open import StateDict

_NETWORKS = {"resnet50": 6, "resnet101": 23}  # blocks of its third stage
_HEAD_WIDTH = 32  # of each attention head in every published form: it is not in the weights
# the only supported values
_ONLY = {"activation_function": "relu", "position_embedding_type": "sine", "num_channels": 3}
_COUNTS = ("encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim")
_FACTOR = "rescale_factor"
_ONLY_PIXELS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2}  # 2: bilinear
# settings that their files cannot store
_OURS = (
    "neck.index", "head.anchored", "head.turns", "head.temperature", "task.coder",
    "backbone.eps", "backbone.ceil", "backbone.reduced",
)  # fmt: skip


def import_detr(
    state: Mapping[str, Any],
    path: str | Path,
    preset: str | None = None,
    *,
    names: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
) -> tuple[DETR, tuple[str, ...], StateDict]:
    """Spec, class names and state of a DETR's state dict of any form.

    ``config`` and ``processor`` are transformers' ``config.json`` and ``preprocessor_config.json``. Without them sizes
    are read from the weights, names are COCO's for 91 columns, and a network is dilated (DC5) where the file name
    contains "dc5", since the weights do not show it. Raises ``FovealError`` for another network, ``UsageError`` for a
    preset of another network.
    """
    stored = config or {}
    for supported, given in ((_ONLY, stored), (_ONLY_PIXELS, processor or {})):
        for key, only in supported.items():
            if given.get(key, only) != only:
                raise FovealError(f"{key} is {given[key]!r}, only {only!r} is supported", path=path)
    for key in (*_COUNTS, "dropout"):
        if not isinstance(stored.get(key, 0), int if key in _COUNTS else int | float):
            raise FovealError(f"{key} is {stored[key]!r}, expected a number", path=path)
    try:
        ours = detr_to_ours(state)
        base = _base(ours, Path(path), preset, stored)
        spec = replace(base, head=_head(ours, stored, base.head), input=_input(processor or {}, base))
        columns = len(ours["head.class_embed.bias"]) - 1
    except (KeyError, IndexError) as error:
        raise FovealError(f"is a DETR without {error.args[0]}", path=path, fix="Download or copy it again") from error
    except FovealError as error:
        raise type(error)(error.message, path=path, where=error.where, fix=error.fix) from error
    return spec, _names(columns, names, stored, path), ours


def export_detr(spec: Spec, state: StateDict, form: Form, inner: Inner = "timm") -> StateDict:
    """The state under the keys of the original code or of transformers. Raises ``UsageError`` for another network."""
    if not isinstance(spec, DETR) or not isinstance(spec.backbone, Torchvision) or spec.backbone.name not in _NETWORKS:
        raise UsageError(
            f"{type(spec).__name__} on this backbone is not a DETR of other projects", fix="Use --to foveal"
        )
    plain, loss = DETR(), spec.task.cls_loss
    unsupported = [f"{path}={value}" for path in _OURS if (value := attrgetter(path)(spec)) != attrgetter(path)(plain)]
    if not isinstance(loss, CrossEntropy) or not loss.background:  # without a column for "no object"
        unsupported.append(f"task.cls_loss={loss}")
    if unsupported:
        raise UsageError(f"{', '.join(unsupported)}: other projects have no such setting", fix="Use --to foveal")
    return detr_to_theirs(state, form, inner)


def transformers_config(spec: DETR, classes: Sequence[str], inner: Inner) -> dict[str, Any]:
    """``config.json`` of transformers' ``DetrForObjectDetection``. Raises ``UsageError`` for a form that it lacks."""
    head, backbone = spec.head, cast(Torchvision, spec.backbone)
    if inner == "transformers" and backbone.dilated:
        raise UsageError("transformers' own ResNet has no dilated form", where="--resnet", fix="Use timm")
    body: dict[str, Any] = {"backbone": backbone.name, "use_timm_backbone": True, "use_pretrained_backbone": False}
    if inner == "transformers":
        depths = [3, 4, _NETWORKS[backbone.name], 3]
        ours = {"model_type": "resnet", "depths": depths, "layer_type": "bottleneck", "out_features": ["stage4"]}
        body = {"backbone": None, "use_timm_backbone": False, "backbone_config": ours}
    return {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
        "d_model": head.width,
        "num_queries": head.queries,
        "encoder_layers": head.encoder,
        "decoder_layers": head.decoder,
        "encoder_attention_heads": head.heads,
        "decoder_attention_heads": head.heads,
        "encoder_ffn_dim": head.hidden,
        "decoder_ffn_dim": head.hidden,
        "dropout": head.dropout,
        "dilation": backbone.dilated,
        **_ONLY,
        **body,
    }


def processor_config(spec: DETR) -> dict[str, Any]:
    """``preprocessor_config.json`` of transformers' ``DetrImageProcessor``. Raises ``UsageError`` for other rules."""
    rule = spec.input
    if not isinstance(rule, Resize) or rule.multiple != 1:
        raise UsageError(f"{rule} is not a resize rule of transformers' DetrImageProcessor", where="input")
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": rule.short, "longest_edge": rule.long},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(rule.pixels[0]),
        "image_std": list(rule.pixels[1]),
        "do_pad": True,
    }


# ----------------------------------------------------------------------------------------------- helpers
def _base(state: StateDict, path: Path, preset: str | None, config: Mapping[str, Any]) -> DETR:
    """The preset that the state is a variant of."""
    from ... import presets  # imported late: every preset is built

    blocks = {int(m[1]) for key in state if (m := re.match(r"backbone\.layer3\.(\d+)\.conv3\.weight$", key))}
    network = next((name for name, number in _NETWORKS.items() if number == len(blocks)), None)
    if network is None:
        raise FovealError("is not a DETR on ResNet-50 or 101, the only supported backbones")
    dilated = bool(config["dilation"]) if "dilation" in config else "dc5" in path.name.lower()
    plain = network.replace("resnet", "detr_r")
    name = preset or plain + "_dc5" * dilated
    spec = presets.get(name)
    if not isinstance(spec, DETR):
        raise UsageError(f"{name} is not a DETR, but the file is one", where="--preset", fix=f"Use {plain}")
    return spec


def _head(state: StateDict, config: Mapping[str, Any], base: Transformer) -> Transformer:
    """The head of ``base`` with the sizes of the state and the settings of the config."""

    def layers(part: str) -> int:
        return len({key.split(".")[3] for key in state if key.startswith(f"head.{part}.layers.")})

    width, queries = state["head.input_proj.weight"].shape[0], state["head.query_embed.weight"].shape[0]
    plain = base.heads if config else max(1, width // _HEAD_WIDTH)  # transformers' default, where the config has none
    heads = config.get("decoder_attention_heads", plain)
    hidden = state["head.decoder.layers.0.linear1.weight"].shape[0]
    for key, value in {"encoder_attention_heads": heads, "encoder_ffn_dim": hidden}.items():
        if config.get(key, value) != value:
            raise FovealError(f"{key} is {config[key]}, the decoder's is {value}, but only equal values are supported")
    return replace(
        base,
        width=width,
        queries=queries,
        heads=heads,
        hidden=hidden,
        encoder=layers("encoder"),
        decoder=layers("decoder"),
        dropout=config.get("dropout", base.dropout),
    )


def _input(processor: Mapping[str, Any], base: DETR) -> Any:
    """The processor's resize rule and normalization; missing settings are the preset's."""
    rule = base.input
    if not isinstance(rule, Resize) or not processor:
        return rule
    size = processor.get("size", {"shortest_edge": rule.short, "longest_edge": rule.long})
    if isinstance(size, int):  # of transformers' first versions
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size", rule.long)}
    try:
        short, long = int(size["shortest_edge"]), int(size["longest_edge"])
        own = zip(("image_mean", "image_std"), rule.pixels, strict=True)
        colors: list[Any] = [tuple(map(float, processor.get(key, value))) for key, value in own]
        mean, std = colors
        if (len(mean), len(std), min(std) > 0) != (3, 3, True) or abs(processor.get(_FACTOR, 1 / 255) - 1 / 255) > 1e-6:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        stored = {key: processor[key] for key in ("size", "image_mean", "image_std", _FACTOR) if key in processor}
        raise FovealError(f"{stored} in preprocessor_config.json is not a supported resize rule") from None
    return replace(rule, short=short, long=long, mean=mean, std=std)


def _names(columns: int, names: Sequence[str] | None, config: Mapping[str, Any], path: str | Path) -> tuple[str, ...]:
    """One name for each column but the last, which is "no object"."""
    stored = config.get("id2label")
    if names is not None:
        class_names = tuple(names)
    elif stored:
        class_names = label_names(stored, path)
    else:
        class_names = COCO_NAMES if columns == len(COCO_NAMES) else tuple(f"class {i}" for i in range(columns))
    if len(class_names) != columns:
        raise FovealError(f"has {columns} classes, {len(class_names)} names were given", path=path)
    return class_names


def label_names(id2label: Any, path: str | Path) -> tuple[str, ...]:
    """``{"0": "N/A", "1": "person"}`` -> ``("unused 0", "person")``. Raises ``FovealError`` where ids are missing."""
    if not isinstance(id2label, Mapping) or not all(str(key).isdecimal() for key in id2label):
        raise FovealError("id2label is not of the form {id: name}", path=path)
    by_id = {int(key): str(name) for key, name in id2label.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise FovealError(f"id2label has {len(by_id)} names, which are not 0 to {len(by_id) - 1}", path=path)
    names = [f"unused {i}" if by_id[i] == "N/A" else by_id[i] for i in range(len(by_id))]
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            names[i] = f"{name} ({i})"
        seen.add(names[i])
    return tuple(names)
