"""Reads weights files of other packages: PyTorch pickles and safetensors, recognized by content.

Nothing in a file is ever executed: pickles go through ``torch.load(weights_only=True)``. foveal's own checkpoints are
not read here and are never pickles.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FovealError

StateDict = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "model_state_dict", "params")  # keys under which training scripts save the weights
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_FIX = "Give a .pth file with a state dict, or a .safetensors file"


def read_state(path: str | Path) -> StateDict:
    """The tensors of a weights file by name, on the CPU.

    Reads plain state dicts, those wrapped as ``{"state_dict": ...}`` or ``{"model": ...}``, keys with a ``module.``
    prefix, old and new PyTorch files and safetensors. Raises ``FovealError`` with the file and what it is where it is
    something else, truncated, or contains code.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind != "pytorch":
        raise FovealError(f"is {kind}, not a weights file", path=path, fix=_fix(kind))
    return _unwrap(_read_pickle(path), path)


def sniff(path: str | Path) -> str:
    """The type of a file by its first bytes: ``pytorch``, ``safetensors``, or a description of anything else."""
    path = Path(path)
    if not path.exists():
        raise FovealError("there is no such file", path=path)
    if path.is_dir():
        raise FovealError("is a folder, not a weights file", path=path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise FovealError(f"cannot be read ({error.strerror})", path=path) from error
    if not head:
        return "an empty file"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "pytorch"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < max(size, 2**20):
        return "safetensors"
    return _name_of_other(head)


def is_classifier(state: StateDict) -> bool:
    """Whether a state is that of a classification network, by the name of its last layer."""
    heads = ("fc", "classifier", "head", "head.fc", "head.head", "classifier.0", "classifier.1", "classifier.2",
             "classif", "last_linear")  # fmt: skip
    return any(f"{name}.weight" in state for name in heads) and not any(key.startswith("backbone.") for key in state)


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


def _name_of_other(head: bytes) -> str:
    lower = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer (the real file was not downloaded)"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page (a download that went wrong?)"
    known = {b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"\x1f\x8b": "a gzip archive",
             b"\x89HDF": "an HDF5 file", b"%PDF": "a PDF"}  # fmt: skip
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    if not head.strip(b"\0"):
        return "a file of zeros (a copy that was cut off?)"
    if b"\0" not in head and _is_text(head):
        return "a text file"
    major, minor, revision = struct.unpack("<3i", head[:12]) if len(head) >= 12 else (-1, -1, -1)
    if major == 0 and 0 <= minor <= 2 and 0 <= revision <= 10:
        return "a Darknet file (or something like it)"
    return "of an unknown format"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == 512  # a character cut by the end of the sample
    return True


def _fix(kind: str) -> str:
    if "git-lfs" in kind:
        return "Run `git lfs pull` in the repository that it came from"
    if "Darknet" in kind:
        return "Give its cfg as well: --cfg FILE.cfg; to train, FILE.cfg is the model and this file its --weights"
    return _FIX


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FovealError(f"is a damaged safetensors file ({_first_line(error)})", path=path) from error
    return _checked(state, path)


def _read_pickle(path: Path) -> Any:
    try:
        # torchvision's and other training scripts save their argparse namespace with the weights; it is plain data
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|global) `?([\w.]+)`?", str(error))
        if code:
            raise FovealError(
                f"contains code ({code[1]}), which is never executed",
                path=path,
                fix="Save the weights alone, with torch.save(model.state_dict(), ...), where the file comes from",
            ) from error
        raise FovealError(
            f"is not a weights file that can be read ({_first_line(error)})", path=path, fix=_FIX
        ) from error
    except Exception as error:  # the unpickler raises almost anything for a damaged file
        if "TorchScript" in str(error):
            raise FovealError("is a TorchScript program, which contains code", path=path, fix=_FIX) from error
        reason = f"is truncated, damaged or not a PyTorch file ({_first_line(error)})"
        raise FovealError(reason, path=path, fix="Download or copy it again") from error


def _unwrap(loaded: Any, path: Path) -> StateDict:
    for _ in range(3):  # {"state_dict": {"model": ...}} happens; more does not
        if not isinstance(loaded, Mapping):
            raise FovealError(f"contains a {type(loaded).__name__}, not weights by name", path=path, fix=_FIX)
        inner = [loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    return _checked(loaded, path)


def _checked(loaded: Mapping[Any, Any], path: Path) -> StateDict:
    if not loaded:
        raise FovealError("contains no weights", path=path, fix=_FIX)
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            what = f"is a {type(value).__name__}, not a tensor" if isinstance(key, str) else "has no name"
            raise FovealError(
                f"entry {key!r} {what}",
                path=path,
                fix=_FIX + ", not a training state",
            )
    state = dict(loaded)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__
