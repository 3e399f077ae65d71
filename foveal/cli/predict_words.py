"""The words of ``foveal predict``: the model, the sources, the settings; and the detector that they name."""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .common import print_notes

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..runner.onnx_detector import OnnxDetector

DEFAULT_MODEL = "accurate"
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def open_model(
    model: str,
    what: dict[str, Any],
    parts: tuple[type, ...],
    device: str,
    precision: str | None,
    proposals: list[Path] | None,
) -> Detector | OnnxDetector:
    """``what``: settings of a model, which a file of ``foveal export`` has no use for."""
    from ..inference.exported import is_exported, open_exported

    if is_exported(model):
        if given := [name for name, value in {**what, "proposals": proposals}.items() if value]:
            raise UsageError(f"the settings of an exported file are fixed, and {given[0]} is given", path=model)
        return open_exported(model)
    from ..checkpoints.load import load

    detector = load(model, **what, parts=parts, device=device, precision=precision)
    print_notes(detector.spec)
    return detector


def sort_words(arguments: list[str], darknet: bool) -> tuple[str, list[str], list[str]]:
    """Model, sources and overrides. ``darknet``: the first word is their weights, whatever its name."""
    from ..config.overrides import without_overrides

    words, overrides = without_overrides(arguments)
    model = words.pop(0) if words and (darknet or _is_model(words[0])) else DEFAULT_MODEL
    for word in words:
        if _is_model_for_sure(word):
            raise UsageError(f"{word} is a model, and stands among the images", fix="Name one model, before the images")
    if not words:
        raise UsageError("no image, folder or pattern is given", fix="Run foveal predict --help for the usage")
    return model, words, overrides


def with_stdin(words: list[str]) -> list[str]:
    """The words, with the names on standard input in place of ``-``."""
    from ..inference.sources import read_list

    out: list[str] = []
    for word in words:
        out += read_list(sys.stdin.buffer.read(), "standard input", Path()) if word == "-" else [word]
    return out


def _is_model(word: str) -> bool:
    """An alias, a run or checkpoint folder, or a weights file. A file or folder that exists is no alias."""
    from ..weights.cache import is_alias
    from ..weights.reading.kinds import MODEL_SUFFIXES, WEIGHTS_SUFFIXES

    path = Path(word)
    if path.is_dir():  # with weights and no images it is another tool's run, whose files are told
        endings = {file.suffix.lower() for file in path.glob("*.*")}
        return _is_model_for_sure(word) or bool(endings & {*WEIGHTS_SUFFIXES} and not endings & {*_IMAGES})
    if path.exists() or is_alias(word):
        return _is_model_for_sure(word)
    bare = path.suffix == "" and not glob.has_magic(word) and word != "-"  # a wrong name: the nearest ones are told
    return bare or path.suffix.lower() in MODEL_SUFFIXES


def _is_model_for_sure(word: str) -> bool:
    from ..weights.cache import is_alias
    from ..weights.reading.kinds import MODEL_SUFFIXES

    path = Path(word)
    if path.is_dir():
        inside = ("run.json", "checkpoints", "model.safetensors", "pytorch_model.bin", "config.json", "SHA256SUMS")
        return any((path / name).exists() for name in inside)
    return path.suffix.lower() in MODEL_SUFFIXES if path.exists() else is_alias(word)
