"""Detectors in files of ``foveal export``, which run without torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FovealError, UsageError
from ..files.aliases import PathLike
from ..runner.onnx_detector import ModelError, OnnxDetector

if TYPE_CHECKING:
    from ..assembly.detector import Detector


def is_exported(source: PathLike) -> bool:
    """Whether a name is that of an exported file."""
    return Path(source).suffix.lower() == ".onnx"


def open_exported(source: PathLike, threads: int = 0) -> OnnxDetector:
    """The detector in a file of ``foveal export``. Raises :class:`FovealError` for any other file.

    ``threads``: of ONNX Runtime; 0: its own choice.
    """
    path = Path(source)
    if find_spec("onnxruntime") is None:
        raise UsageError("an ONNX file needs ONNX Runtime", path=path, fix="Run pip install 'foveal[onnx]'")
    if not path.is_file():
        raise FovealError("no such file", path=path, fix="Name a file that `foveal export` wrote")
    try:
        detector = OnnxDetector(path, threads)
    except ModelError as error:
        raise FovealError(str(error), path=path, fix="Name a file that `foveal export` wrote") from error
    if detector.external:
        raise UsageError("takes external proposals, in Python alone", path=path, fix="Call OnnxDetector.predict_arrays")
    return detector


def open_any(
    source: PathLike, parts: Sequence[type] = (), *, device: str = "auto", threads: int = 0
) -> Detector | OnnxDetector:
    """The detector in an exported file, or in anything that :func:`foveal.load` takes."""
    if is_exported(source):
        return open_exported(source, threads)
    from ..checkpoints.load import load

    return load(source, parts=parts, device=device)
