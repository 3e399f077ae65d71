"""The files of a checkpoint: their bytes, the list of their SHA-256 digests, and which file differs from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

SUMS = "SHA256SUMS"
MODEL, RAW, OPTIMIZER, STATE, SPEC = (
    "model.safetensors",
    "raw.safetensors",
    "optimizer.safetensors",
    "state.json",
    "spec.json",
)
FILES = {MODEL, RAW, OPTIMIZER, STATE, SPEC}


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage (tied weights): the second becomes a copy
        plain[name] = flat.clone() if flat.data_ptr() in seen else flat
        seen.add(flat.data_ptr())
    return safetensors.torch.save(plain)


def json_bytes(value: dict[str, Any]) -> bytes:
    """A JSON file in UTF-8."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Digests by file name -> the list, as ``sha256sum`` writes it."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def is_listed(folder: Path, name: str) -> bool:
    """Whether a file of a checkpoint is as it was written, by the list of digests beside it."""
    try:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        return f"{digest}  {name}\n".encode() in (folder / SUMS).read_bytes()
    except OSError:
        return False


def blame(listed: bytes, sums: Mapping[str, str]) -> tuple[str, str]:
    """(file, reason) of a damaged checkpoint: ``listed`` is its list of digests, ``sums`` are those of its files."""
    lines = listed.decode("ascii", "replace").splitlines()
    pairs = [re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+)", line) for line in lines]
    then = {pair[2]: pair[1] for pair in pairs if pair}
    if not all(pairs) or not {MODEL, OPTIMIZER, STATE, SPEC} <= then.keys() <= FILES:
        return SUMS, "the list of hashes is damaged"
    for name, digest in then.items():
        if name not in sums:
            return name, "the file is missing"
        if digest != sums[name]:
            return name, f"the file is damaged: its SHA-256 is {sums[name][:12]}..., {SUMS} says {digest[:12]}..."
    extra = sorted(sums.keys() - then.keys())
    return (extra[0], f"the file is not in {SUMS}") if extra else (SUMS, "the list of hashes is damaged")
