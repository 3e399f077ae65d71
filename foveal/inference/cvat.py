"""CVAT's auto-annotation with a detector of foveal's: a module for ``cvat-cli``, which reads images and writes boxes.

    cvat-cli --server-host https://app.cvat.ai task auto-annotate 137 \\
        --function-module foveal.inference.cvat -p model=str:runs/first -p score=float:.3 --allow-unmatched-labels

It needs CVAT's SDK: ``pip install 'foveal[cvat]'``. Labels are matched by name; CVAT refuses a class that the task has
no label for, and with ``--allow-unmatched-labels`` leaves its boxes out.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import UsageError, nearest
from .exported import open_any

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..runner.onnx_detector import OnnxDetector


class CvatFunction:
    """CVAT's protocol of a detection function: ``spec`` and ``detect(context, image)``."""

    def __init__(self, detector: Detector | OnnxDetector, score: float, classes: list[str]) -> None:
        self.detector, self.score, self.classes = detector, score, classes

    @cached_property
    def spec(self) -> Any:
        """The classes as labels of rectangles (``cvat_sdk.auto_annotation.DetectionFunctionSpec``)."""
        from cvat_sdk import auto_annotation as cvat

        numbers = {name: k for k, name in enumerate(self.detector.classes)}
        labels = [cvat.label_spec(name, numbers[name], type="rectangle") for name in self.classes]
        return cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Rectangles in pixels of the image, by falling score: those of CVAT's threshold, where it gives one."""
        from cvat_sdk import auto_annotation as cvat

        threshold = self.score if context.conf_threshold is None else context.conf_threshold
        (found,) = self.detector.predict_arrays([np.asarray(image.convert("RGB"))])
        shown = found.above(threshold).only(self.classes)
        rows = zip(shown.labels.tolist(), shown.boxes.tolist(), strict=True)
        return [cvat.rectangle(label, box) for label, box in rows]


def create(model: str = "accurate", score: float = 0.5, classes: str = "") -> CvatFunction:
    """The function for ``cvat-cli -p model=str:... -p score=float:... -p classes=str:a,b`` (default: all classes).

    ``model`` is anything that :func:`foveal.load` takes, or a file of ``foveal export``.
    """
    if not 0 <= score <= 1:
        raise UsageError(f"score is {score:g}, expected a number from 0 to 1")
    detector = open_any(model)
    chosen = [name.strip() for name in classes.split(",") if name.strip()] or list(detector.classes)
    for name in chosen:
        if name not in detector.classes:
            fix = nearest(name, detector.classes, "classes")
            raise UsageError(f"the detector does not know the class {name!r}", fix=fix)
    return CvatFunction(detector, score, chosen)
