"""The files of a checkpoint and the list of their SHA-256 digests: writing it, and naming the file that differs."""

from __future__ import annotations

import re
from collections.abc import Mapping

SUMS = "SHA256SUMS"
MODEL, RAW, OPTIMIZER, STATE, SPEC = (
    "model.safetensors",
    "raw.safetensors",
    "optimizer.safetensors",
    "state.json",
    "spec.json",
)
FILES = {MODEL, RAW, OPTIMIZER, STATE, SPEC}


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Digests by file name -> the list, as ``sha256sum`` writes it."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


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
