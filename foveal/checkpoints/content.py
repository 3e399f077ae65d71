"""What a checkpoint holds, the number of its schema, and the upgrades of what earlier versions of foveal wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FovealError
from .digests import MODEL, OPTIMIZER, RAW, SPEC, STATE, json_bytes, tensor_bytes

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
