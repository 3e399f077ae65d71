"""foveal: object detectors from one small set of parts.

    import foveal
    detector = foveal.load("runs/demo")
    detections = detector.predict("photo.jpg")
    run = foveal.train(data="my-photos", max_time=900)
    scores = foveal.evaluate(run, data="my-photos", split="val", protocol="voc10")

Every name is imported when it is first used, so ``import foveal`` is instant and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import FovealError, UsageError

if TYPE_CHECKING:
    from . import presets
    from .checkpoints.load import load
    from .data.open import open_dataset
    from .evaluation.scoring import evaluate
    from .inference.predict import predict
    from .training.run import train
    from .types import Detections, Images, Target

__version__ = "0.1.0"

__all__ = [
    "Detections",
    "FovealError",
    "Images",
    "Target",
    "UsageError",
    "__version__",
    "evaluate",
    "load",
    "open_dataset",
    "predict",
    "presets",
    "train",
]

_WHERE = {
    "Detections": "types",
    "Images": "types",
    "Target": "types",
    "evaluate": "evaluation.scoring",
    "load": "checkpoints.load",
    "open_dataset": "data.open",
    "predict": "inference.predict",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    if name == "presets":
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
