"""Reads weights files of other packages: PyTorch pickles and safetensors, recognized by content.

Nothing in a file is ever executed. foveal's own checkpoints are not read here and are never pickles.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import FovealError

if TYPE_CHECKING:
    from .reading.entries import Fits, WeightsFile

__all__ = ["StateDict", "header", "is_classifier", "read_state", "read_weights", "sniff"]

StateDict = dict[str, Tensor]

# a run of one's own needs none of what recognizes and reads the files of others, which is imported when it is needed


def read_state(path: str | Path, fits: Fits | None = None, what: str = "this network") -> StateDict:
    """The tensors of a weights file by name, on the CPU.

    A file may hold several sets of tensors, and their names may have a prefix: with ``fits`` the one set and prefix
    that fit ``what`` are searched (see :func:`~foveal.weights.reading.entries.choose_state`). Without it, and where
    nothing fits, it is the set under a usual name: the file itself, ``{"state_dict": ...}``, ``{"model": ...}``.
    Raises ``FovealError`` with the file and what it is where it is something else, truncated, or contains code.
    """
    from .reading.entries import choose_state, usual

    file = read_weights(path)
    found = None if fits is None else choose_state(file, fits, what)
    return (usual(file) if found is None else found).state


def read_weights(path: str | Path) -> WeightsFile:
    """All sets of named tensors of a file. Raises ``FovealError`` as :func:`read_state` does."""
    from .reading.entries import entries_of
    from .reading.kinds import kind_of

    path = Path(path)
    kind = kind_of(path)
    if kind.name == "safetensors":
        return entries_of(_read_safetensors(path), path)
    if kind.name != "pytorch":
        raise FovealError(kind.problem, path=path, fix=kind.fix)
    from .reading.pickles import read_pickle

    return entries_of(read_pickle(path), path)


def sniff(path: str | Path) -> str:
    """The type of a file by its content: ``pytorch``, ``safetensors``, or a description of anything else."""
    from .reading.kinds import kind_of

    return kind_of(path).name


def header(path: str | Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; empty for any other file."""
    if sniff(path) != "safetensors":
        return {}
    with Path(path).open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        try:
            metadata = json.loads(file.read(size)).get("__metadata__", {})
        except ValueError:
            return {}
    return metadata if isinstance(metadata, dict) else {}


def is_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is that of a classification network, by the name of its last layer."""
    heads = ("fc", "classifier", "head", "head.fc", "head.head", "classifier.0", "classifier.1", "classifier.2",
             "classif", "last_linear")  # fmt: skip
    return any(f"{name}.weight" in state for name in heads) and not any(key.startswith("backbone.") for key in state)


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .reading.kinds import AGAIN, first_line

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"is a damaged safetensors file ({first_line(error)})"
        raise FovealError(reason, path=path, fix=AGAIN) from error
