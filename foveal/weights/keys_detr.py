"""Converts the keys of DETR's checkpoints, of the original code (facebookresearch/detr) and transformers, both ways.

foveal's are the original's names under ``backbone.`` and ``head.``. transformers has separate projections of queries,
keys and values (``q_proj``, ``k_proj``, ``v_proj``), renamed its keys with version 5, and contains timm's ResNet
(torchvision's names) or its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import FovealError
from .open import StateDict

Form = Literal["original", "transformers", "transformers-4"]
Inner = Literal["timm", "transformers"]  # the package whose names the ResNet inside has

_Pairs = Sequence[tuple[str, str]]

_ORIGINAL: _Pairs = (  # ours, theirs
    ("backbone.", "backbone.0.body."),
    ("head.encoder.", "transformer.encoder."),
    ("head.decoder.", "transformer.decoder."),
    ("head.", ""),
)
_TRANSFORMERS: _Pairs = (
    ("backbone.", "model.backbone.model."),
    ("head.encoder.", "model.encoder."),
    ("head.decoder.norm.", "model.decoder.layernorm."),
    ("head.decoder.", "model.decoder."),
    ("head.input_proj.", "model.input_projection."),
    ("head.query_embed.", "model.query_position_embeddings."),
    ("head.class_embed.", "class_labels_classifier."),
    ("head.bbox_embed.", "bbox_predictor."),
)
_ENCODER: _Pairs = (
    (".norm1.", ".self_attn_layer_norm."),
    (".norm2.", ".final_layer_norm."),
    (".linear1.", ".mlp.fc1."),
    (".linear2.", ".mlp.fc2."),
    (".out_proj.", ".o_proj."),
)
_DECODER: _Pairs = (
    (".norm1.", ".self_attn_layer_norm."),
    (".norm2.", ".encoder_attn_layer_norm."),
    (".norm3.", ".final_layer_norm."),
    (".multihead_attn.", ".encoder_attn."),
    *_ENCODER[2:],
)
_OLD: _Pairs = (  # version 5, version 4
    ("model.backbone.model.", "model.backbone.conv_encoder.model."),
    (".o_proj.", ".out_proj."),
    (".mlp.fc", ".fc"),
)
_SPLIT = re.compile(r"(.*)\.([qkv])_proj\.(weight|bias)$")
_JOINED = re.compile(r"(.*)\.in_proj_(weight|bias)$")
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.*)")
_SHORTCUT = re.compile(r"layer(\d)\.(\d+)\.downsample\.([01])\.(.*)")
_THEIR_BLOCK = re.compile(r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)\.(.*)")
_THEIR_SHORTCUT = re.compile(r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.*)")
_STEM: _Pairs = (("conv1.", "embedder.embedder.convolution."), ("bn1.", "embedder.embedder.normalization."))


def is_detr(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a known form."""
    return any(key in state for key in ("query_embed.weight", "model.query_position_embeddings.weight"))


def detr_to_ours(state: Mapping[str, Tensor]) -> StateDict:
    """A state of any form -> the same under foveal's keys. Raises ``FovealError`` for an unknown form."""
    if not is_detr(state):
        first = ", ".join(list(state)[:3])
        raise FovealError(f"is not a known form of DETR: a state of {len(state)} tensors ({first}, ...)")
    if "query_embed.weight" in state:
        return {_key(key, _ORIGINAL, back=True): value for key, value in state.items()}
    newest = {_replaced(key, _OLD, back=True): value for key, value in state.items()}
    joined = _joined(newest)
    return {_from_transformers(key): value for key, value in joined.items()}


def detr_to_theirs(state: Mapping[str, Tensor], form: Form, inner: Inner = "timm") -> StateDict:
    """The inverse of :func:`detr_to_ours`, in a given form. ``inner`` is for transformers' forms."""
    if form == "original":
        return {_key(key, _ORIGINAL): value for key, value in state.items()}
    newest = _split({_to_transformers(key, inner): value for key, value in state.items()})
    return newest if form == "transformers" else {_replaced(key, _OLD): value for key, value in newest.items()}


# ------------------------------------------------------------------------------------------------- keys
def _key(key: str, pairs: _Pairs, back: bool = False) -> str:
    """The key with the first matching prefix replaced, with ``back`` from the right side to the left."""
    for ours, theirs in pairs:
        old, new = (theirs, ours) if back else (ours, theirs)
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def _replaced(key: str, pairs: _Pairs, back: bool = False) -> str:
    """The key with every matching part replaced. Names of version 5 contain version 4's ``.fc`` and are unchanged."""
    for new, old in pairs:
        if not back:
            key = key.replace(new, old)
        elif new not in key:
            key = key.replace(old, new)
    return key


def _from_transformers(key: str) -> str:
    if key.startswith("model.encoder.layers."):
        key = _replaced(key, _flipped(_ENCODER))
    elif key.startswith("model.decoder.layers."):
        key = _replaced(key, _flipped(_DECODER))
    key = _key(key, _TRANSFORMERS, back=True)
    return "backbone." + _torchvision_name(key[len("backbone.") :]) if key.startswith("backbone.") else key


def _to_transformers(key: str, inner: Inner) -> str:
    if key.startswith("backbone.") and inner == "transformers":
        key = "backbone." + _transformers_name(key[len("backbone.") :])
    if key.startswith("head.encoder.layers."):
        key = _replaced(key, _ENCODER)
    elif key.startswith("head.decoder.layers."):
        key = _replaced(key, _DECODER)
    return _key(key, _TRANSFORMERS)


def _flipped(pairs: _Pairs) -> _Pairs:
    return [(theirs, ours) for ours, theirs in pairs]


def _torchvision_name(key: str) -> str:
    """torchvision's name of a layer of transformers' ResNet; torchvision's own are unchanged."""
    block, shortcut = _THEIR_BLOCK.match(key), _THEIR_SHORTCUT.match(key)
    if block:
        kind = "conv" if block[4] == "convolution" else "bn"
        return f"layer{int(block[1]) + 1}.{block[2]}.{kind}{int(block[3]) + 1}.{block[5]}"
    if shortcut:
        return (
            f"layer{int(shortcut[1]) + 1}.{shortcut[2]}.downsample.{int(shortcut[3] == 'normalization')}.{shortcut[4]}"
        )
    return _key(key, _STEM, back=True)


def _transformers_name(key: str) -> str:
    """The inverse of :func:`_torchvision_name`."""
    block, shortcut = _BLOCK.match(key), _SHORTCUT.match(key)
    if block:
        kind = "convolution" if block[3] == "conv" else "normalization"
        return f"encoder.stages.{int(block[1]) - 1}.layers.{block[2]}.layer.{int(block[4]) - 1}.{kind}.{block[5]}"
    if shortcut:
        kind = "normalization" if shortcut[3] == "1" else "convolution"
        return f"encoder.stages.{int(shortcut[1]) - 1}.layers.{shortcut[2]}.shortcut.{kind}.{shortcut[4]}"
    return _key(key, _STEM)


# ------------------------------------------------------------------------------------------- projections
def _joined(state: Mapping[str, Tensor]) -> StateDict:
    """``q_proj``, ``k_proj`` and ``v_proj`` of each attention as the rows of ``in_proj``, in that order."""
    new: StateDict = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _SPLIT.match(key)
        if match is None:
            new[key] = value
            continue
        name = f"{match[1]}.in_proj_{match[3]}"
        projections = parts.setdefault(name, {})
        projections[match[2]] = value
        if len(projections) == 3:
            new[name] = torch.cat([projections[letter] for letter in "qkv"])
    incomplete = [name for name, projections in parts.items() if len(projections) < 3]
    if incomplete:
        raise FovealError(f"lacks some of q_proj, k_proj and v_proj of {incomplete[0].rpartition('.')[0]}")
    return new


def _split(state: Mapping[str, Tensor]) -> StateDict:
    new: StateDict = {}
    for key, value in state.items():
        match = _JOINED.match(key)
        if match is None:
            new[key] = value
        else:
            new |= {f"{match[1]}.{k}_proj.{match[2]}": v.clone() for k, v in zip("qkv", value.chunk(3), strict=True)}
    return new
