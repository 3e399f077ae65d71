"""Imports checkpoints of torchvision: recognizes the preset and converts the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...weights.keys_torchvision import read_torchvision
from ...weights.open import StateDict


def import_weights(
    path: str | Path,
    preset: str | None = None,
    *,
    names: Sequence[str] | None = None,
    state: StateDict | None = None,
) -> tuple[Any, tuple[str, ...], StateDict]:
    """Spec, class names and state of a torchvision detector's file.

    ``preset``: name of the preset to use in place of the recognized one. Raises ``FovealError`` as
    :func:`read_torchvision` does, and ``UsageError`` for an unknown preset.
    """
    from ... import presets  # imported late: every preset is built
    from ...parts.backbones.torchvision import Torchvision

    checkpoint = read_torchvision(path, names=names, state=state)
    spec: Any = presets.get(preset or checkpoint.preset)
    backbone = spec.backbone
    if not isinstance(backbone, Torchvision):
        raise UsageError(
            f"{preset} is not on one of torchvision's networks",
            fix=f"Use {checkpoint.preset}, which the file belongs to",
        )
    if checkpoint.eps is not None:
        backbone = replace(backbone, eps=checkpoint.eps)
    if not any(key.startswith("backbone.") and key.endswith("num_batches_tracked") for key in checkpoint.state):
        backbone = replace(backbone, norm="frozen")  # trained norms count their batches, frozen ones do not
    spec = replace(spec, backbone=backbone)
    return spec, checkpoint.classes, checkpoint.state
