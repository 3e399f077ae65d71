"""One door for everything that can be a model: a run, a checkpoint, an alias, somebody else's weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .config import override
from .detectors.base import Detector
from .errors import FovealError
from .parts.norms import fold


def load(
    source: str | Path,
    *,
    preset: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    overrides: Sequence[str] = (),
) -> Detector:
    """The detector of a run folder (its best checkpoint), a checkpoint folder, an alias or a torchvision file.

    It comes ready for inference (see :func:`ready`). ``precision`` is "32", "bf16" or "16"; None takes what the device
    is fast at. ``overrides`` change the spec before it is built (``["roi.select.score=0.3"]``). A published alias is
    read from the cache and never fetched here: ``foveal weights fetch`` does that. Raises ``FovealError`` for anything
    that is no model.
    """
    from .train.checkpoint import load_checkpoint
    from .weights import import_weights, is_alias, published_file

    path = Path(source)
    if path.is_dir():
        found = load_checkpoint(path)
        spec, classes, state = found.spec, found.classes, found.state_dict
    elif path.is_file():
        spec, classes, state = import_weights(path, preset)
    elif is_alias(str(source)):
        path = Path(published_file(str(source)))
        spec, classes, state = import_weights(path, preset)
    else:
        raise FovealError(
            "no such run, checkpoint, weights file or alias",
            path=source,
            fix="`foveal weights list` shows the aliases; a run is the folder that `foveal train --out` made.",
        )
    detector = override(spec, list(overrides)).build(classes)
    if detector.merges_classes:
        detector.classes = ("object",)
    put(detector, state, path)
    return ready(detector, device, precision)


def put(detector: Detector, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state that must fit, batch norm's counters aside. Raises ``FovealError`` naming what does not."""
    own = detector.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state and k not in optional]
    extra = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
    other = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or other:
        shapes = [f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in other[:3]]
        lines = [f"missing: {', '.join(missing[:3])}"] * bool(missing) + [f"unknown: {', '.join(extra[:3])}"] * bool(
            extra
        )
        raise FovealError(
            f"does not fit {type(detector.spec).__name__} with {len(detector.classes)} classes "
            f"({len(missing)} missing, {len(extra)} unknown, {len(other)} of another shape): "
            f"{'; '.join(lines + shapes)}",
            path=path,
        )
    detector.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def ready(detector: Detector, device: str = "auto", precision: str | None = None) -> Detector:
    """A copy for inference: norms folded into convolutions, channels-last, in a number format the device is fast at."""
    from .train.environment import find_device
    from .train.precision import choose

    where = find_device(device)
    kind = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[choose(precision, where)]
    return cast(Detector, fold(detector)).to(where, kind).eval()
