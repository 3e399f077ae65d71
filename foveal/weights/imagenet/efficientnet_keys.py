"""Converts the keys of EfficientNet-PyTorch (lukemelas and its followers, EfficientNet-Lite too) to timm's.

There the blocks are numbered through (``_blocks.3``), in timm by stage (``blocks.2.0``); a block without expansion has
other names in timm. Squeeze-and-excitation layers are only in the networks that are not Lite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
_EXCITATION = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_EXPANDED = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
             "conv_pwl": "_project_conv", "bn3": "_bn2", **_EXCITATION}  # fmt: skip
_PLAIN = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2", **_EXCITATION}
_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")


def is_efficientnet(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of EfficientNet-PyTorch."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def efficientnet_to_timm(state: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the names of timm's network, whose keys are ``known``; unknown ones keep their names."""
    ours = {theirs: key for key, theirs in _names(list(known)).items()}
    return {ours.get(key, key): value for key, value in state.items()}


def _names(known: list[str]) -> dict[str, str]:
    """timm's key -> EfficientNet-PyTorch's."""
    places = [(int(m[1]), int(m[2])) for key in known if (m := _BLOCK.fullmatch(key))]
    number = {place: index for index, place in enumerate(sorted(set(places)))}
    expanded = {(int(m[1]), int(m[2])) for key in known if (m := _BLOCK.fullmatch(key)) and m[3].startswith("bn3.")}
    names = {}
    for key in known:
        layer, _, kind = key.rpartition(".")
        if (match := _BLOCK.fullmatch(layer)) is None:
            theirs = _OUTSIDE.get(layer)
        else:
            place = int(match[1]), int(match[2])
            inner = (_EXPANDED if place in expanded else _PLAIN).get(match[3])
            theirs = inner and f"_blocks.{number[place]}.{inner}"
        if theirs:
            names[key] = f"{theirs}.{kind}"
    return names
