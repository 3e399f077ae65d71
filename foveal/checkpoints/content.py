"""What a checkpoint holds: its content, its files with their digests, and the schema that says how to read them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..errors import FovealError

SUMS = "SHA256SUMS"
MODEL, RAW, OPTIMIZER, STATE, SPEC = (
    "model.safetensors",
    "raw.safetensors",
    "optimizer.safetensors",
    "state.json",
    "spec.json",
)
FILES = {MODEL, RAW, OPTIMIZER, STATE, SPEC}
Tensors = Mapping[str, Tensor]
JSON = dict[str, Any]


@dataclass(frozen=True)
class Content:
    """What a checkpoint is written from and read as. ``raw`` and ``optimizer`` may be empty."""

    model: Tensors
    raw: Tensors
    optimizer: Tensors
    state: JSON
    spec: JSON

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each file of the checkpoint, but for the list of digests."""
        yield MODEL, tensor_bytes(self.model)
        if self.raw:
            yield RAW, tensor_bytes(self.raw)
        yield OPTIMIZER, tensor_bytes(self.optimizer)
        yield STATE, json_bytes(self.state)
        yield SPEC, json_bytes({"schema": SCHEMA, **self.spec})


# ------------------------------------------------------------------------------------ the schema
# The number goes up by one when what is written can no longer be read as it was; the upgrade from the number before is
# then added here, and the stored runs in tests/golden stay as they are. A detector's spec has upgrades of its own
# (foveal/config/renamed.py).
SCHEMA = 1
UPGRADES: dict[int, Callable[[Content], Content]] = {}  # schema N -> what makes a content of N + 1 of it


def upgraded(content: Content, path: Path) -> Content:
    """The content of a checkpoint in the present schema, by one upgrade after the other.

    Raises :class:`FovealError` for a schema that this version does not know.
    """
    schema = content.spec.get("schema")
    if type(schema) is not int or not min(UPGRADES, default=SCHEMA) <= schema <= SCHEMA:
        newer = type(schema) is int and schema > SCHEMA
        written = f"schema {schema!r} was written by a newer foveal" if newer else f"schema {schema!r} is unknown"
        fix = "Update foveal, or export the weights with the version that wrote them: foveal weights export"
        known = f"{written}; this one reads schema {min(UPGRADES, default=SCHEMA)} to {SCHEMA}"
        raise FovealError(known, path=path, where=SPEC, fix=fix if newer else "Copy the checkpoint again")
    for number in range(schema, SCHEMA):
        content = UPGRADES[number](content)
        content = replace(content, spec=content.spec | {"schema": number + 1})
    return content


# ------------------------------------------------------------------------------------- the files
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
