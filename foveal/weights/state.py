"""Putting a foreign state into a module: all of it or a clear refusal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import FovealError
from .open import read_state

_COUNTER = "num_batches_tracked"  # absent from old files and from frozen norms; no output depends on it
_readings: ContextVar[list[list[str]] | None] = ContextVar("readings", default=None)


@contextmanager
def record_unused() -> Iterator[list[list[str]]]:
    """Inside, every reading adds the names of its file that it had no place for."""
    found: list[list[str]] = []
    token = _readings.set(found)
    try:
        yield found
    finally:
        _readings.reset(token)


def load_network_file(module: nn.Module, path: str | Path, *, known: Collection[str], what: str) -> None:
    """Reads a file of the network ``what`` into ``module``, which may be a part of it.

    ``known``: the keys of the whole network. Those that ``module`` lacks (the classifier) are ignored.
    Raises ``FovealError`` where a key is missing, foreign, of another shape or not finite.
    """
    load_state(module, read_state(path), path=path, known=known, what=what)


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], *, path: str | Path, known: Collection[str] = (), what: str
) -> None:
    """As :func:`load_network_file`, from a state already read from ``path``. ``module`` is unchanged if refused."""
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(_COUNTER)]
    extra = [key for key in state if key not in own and key not in known and not key.endswith(_COUNTER)]
    wrong = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    bad = [key for key in own if key in state and not torch.isfinite(state[key]).all()]
    reasons = [
        _listed("missing", missing),
        _listed("unexpected", extra),
        _listed("of another shape", wrong),
        _listed("not finite", bad),
    ]
    if any(reasons):
        raise FovealError(
            f"does not fit {what}: {'; '.join(r for r in reasons if r)}",
            path=path,
            fix="Give the file of this network, or choose the network of this file",
        )
    given = {k: state[k] for k in own if k in state and state[k].data_ptr() != own[k].data_ptr()}  # not its own again
    module.load_state_dict(given, strict=False)
    if (readings := _readings.get()) is not None:
        readings.append([key for key in state if key not in own and not key.endswith(_COUNTER)])


def _listed(label: str, items: list[str], shown: int = 3) -> str:
    if not items:
        return ""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{label} {', '.join(items[:shown])}{more}"
