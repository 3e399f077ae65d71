"""Loads a state into a module, completely or with an error that lists what does not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import FovealError

_COUNTER = "num_batches_tracked"  # absent from old files and from frozen norms; no output depends on it
_readings: ContextVar[list[list[str]] | None] = ContextVar("readings", default=None)


@contextmanager
def record_unused() -> Iterator[list[list[str]]]:
    """Inside, every :func:`load_state` appends the names of the tensors that were not used."""
    unused: list[list[str]] = []
    token = _readings.set(unused)
    try:
        yield unused
    finally:
        _readings.reset(token)


def load_network_file(module: nn.Module, path: str | Path, *, known: Collection[str], what: str) -> None:
    """Loads a file of the network ``what`` into ``module``, which may be a part of it.

    ``known``: the keys of the whole network. Those that ``module`` lacks (the classifier) are ignored, and so are other
    layers outside a network that is complete. Raises ``FovealError`` where a key is missing or unexpected, or a tensor
    has another shape or is not finite.
    """
    from .open import read_weights  # late, as everywhere: a run of ours needs no reader of other files
    from .reading.entries import choose_state, covers, usual

    file = read_weights(path)
    found = choose_state(file, covers(module.state_dict()), what) or usual(file)
    load_state(module, found.state, path=path, known=known, what=what)


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], *, path: str | Path, known: Collection[str] = (), what: str
) -> None:
    """As :func:`load_network_file`, from a state already read from ``path``. After an error ``module`` is unchanged."""
    current = module.state_dict()
    missing = [key for key in current if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in current and key not in known and not key.endswith(_COUNTER)]
    if not missing:  # layers of its own beside a whole network, such as another classifier, are left out
        inside = {_top(key) for key in current}
        unexpected = [key for key in unexpected if _top(key) in inside] if known else unexpected
    other_shape = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(current[key].shape)}"
        for key in current
        if key in state and state[key].shape != current[key].shape
    ]
    nonfinite = [key for key in current if key in state and not torch.isfinite(state[key]).all()]
    reasons = [
        _listed("missing", missing),
        _listed("unexpected", unexpected),
        _listed("of another shape", other_shape),
        _listed("not finite", nonfinite),
    ]
    if any(reasons):
        raise FovealError(
            f"does not fit {what}: {'; '.join(r for r in reasons if r)}",
            path=path,
            fix=_fix(state),
        )
    # tensors that are the module's own memory need no copy
    changed = {k: state[k] for k in current if k in state and state[k].data_ptr() != current[k].data_ptr()}
    module.load_state_dict(changed, strict=False)
    if (readings := _readings.get()) is not None:
        readings.append([key for key in state if key not in current and not key.endswith(_COUNTER)])


def _fix(state: Mapping[str, Tensor]) -> str:
    if any(key.startswith(("backbone.bottom_up.", "proposal_generator.", "neck.lateral_convs.")) for key in state):
        return "Give this detector's file as the model: foveal train FILE --data DATA"
    return "Give the file of this network, or choose the network of this file"


def _top(key: str) -> str:
    return key.split(".", 1)[0]


def _listed(label: str, items: list[str], shown: int = 3) -> str:
    if not items:
        return ""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{label} {', '.join(items[:shown])}{more}"
