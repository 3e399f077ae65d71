"""One door for everything that can be a model: a run, a checkpoint, an alias, somebody else's weights file."""

from __future__ import annotations

from pathlib import Path

from .detectors.base import Detector
from .errors import FovealError


def load(source: str | Path, *, preset: str | None = None, device: str = "auto", precision: str | None = None) -> Detector:
    """The detector of a run folder (its best checkpoint), a checkpoint folder, an alias or a torchvision file.

    ``precision`` is "32", "bf16" or "16"; None takes what the device is fast at. A published alias is read from the cache
    and never fetched here: ``foveal weights fetch`` does that. Raises ``FovealError`` for anything that is not a model.
    """
    from .weights import import_weights, is_alias, published_file

    path = Path(source)
    if path.is_dir():
        detector = _from_checkpoint(path)
    elif path.is_file():
        spec, classes, state = import_weights(path, preset)
        detector = spec.build(classes)
        detector.load_state_dict(state)
    elif is_alias(str(source)):
        return load(published_file(str(source)), device=device, precision=precision)
    else:
        raise FovealError(
            "no such run, checkpoint, weights file or alias",
            path=source,
            fix="`foveal weights list` shows the aliases; a run is the folder that `foveal train --out` made",
        )
    return ready(detector, device, precision)


def _from_checkpoint(path: Path) -> Detector:
    from .train.checkpoint import load_checkpoint

    found = load_checkpoint(path)
    detector = found.spec.build(found.classes)
    detector.load_state_dict(found.state)
    return detector
