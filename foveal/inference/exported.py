"""Detectors in files of ``foveal export``, which run without torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FovealError, UsageError
from ..files.aliases import PathLike
from ..runner.onnx_detector import ModelError, OnnxDetector
from .image_proposals import ImageProposals

if TYPE_CHECKING:
    from ..assembly.detector import Detector


def is_exported(source: PathLike) -> bool:
    """Whether a name is that of an exported file."""
    return Path(source).suffix.lower() == ".onnx"


def open_exported(source: PathLike) -> OnnxDetector:
    """The detector in a file of ``foveal export``. Raises :class:`FovealError` for any other file."""
    path = Path(source)
    if find_spec("onnxruntime") is None:
        raise UsageError("an ONNX file needs ONNX Runtime", path=path, fix="Run pip install 'foveal[onnx]'")
    if not path.is_file():
        raise FovealError("no such file", path=path, fix="Name a file that `foveal export` wrote")
    try:
        return OnnxDetector(path)
    except ModelError as error:
        raise FovealError(str(error), path=path, fix="Name a file that `foveal export` wrote") from error


def open_any(source: PathLike, parts: Sequence[type] = ()) -> Detector | OnnxDetector:
    """The detector in an exported file, or in anything that :func:`foveal.load` takes."""
    if is_exported(source):
        return open_exported(source)
    from ..checkpoints.load import load

    return load(source, parts=parts)


def usual_batch(detector: Detector | OnnxDetector) -> int:
    """Images in a forward pass."""
    if isinstance(detector, OnnxDetector):
        return detector.batch or 1
    from ..types import inference_batch

    return inference_batch(detector.device)


def external_proposals(
    detector: Detector | OnnxDetector,
    files: Sequence[str],
    given: PathLike | Sequence[PathLike] | ImageProposals | None,
) -> ImageProposals | None:
    """The external proposals, for a detector that takes some."""
    if isinstance(detector, OnnxDetector):
        if detector.external or given is not None:
            raise UsageError("an exported detector takes proposals in Python alone")
        return None
    if isinstance(given, ImageProposals):
        return given
    return None if given is None and detector.source is None else ImageProposals.of(detector, files, given)
