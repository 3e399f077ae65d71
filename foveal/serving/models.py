"""The detectors of a server: exported files, which need no torch, or anything that ``foveal.load`` takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images.load import ImageError, decode
from ..data.images.modes import TooManyPixels
from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray, PathLike
from ..inference.exported import is_exported, open_any
from ..inference.predict import Prediction
from ..runner.onnx_detector import OnnxDetector
from .limits import Refused

if TYPE_CHECKING:
    from ..assembly.detector import Detector


@dataclass(frozen=True)
class Asked:
    """What a request wants to know of an image."""

    score: float = 0.5
    top: int | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedModel:
    """A detector with the name that requests give it, and what ``/info`` says of it."""

    name: str
    detector: Detector | OnnxDetector
    facts: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.detector.classes)

    def answer(self, data: bytes, asked: Asked, max_pixels: int) -> bytes:
        """The JSON of an image: an entry of ``predict --json`` with ``model`` and ``ms``.

        Raises :class:`Refused` for what is no image or a larger one than ``max_pixels``.
        """
        started = time.perf_counter()
        pixels = _decoded(data, max_pixels)
        entry = self.detect(pixels, asked).to_dict()
        if asked.top is not None:
            entry["detections"] = entry["detections"][: asked.top]
        entry |= {"model": self.name, "ms": round(1e3 * (time.perf_counter() - started), 2)}
        return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()

    def detect(self, pixels: ImageArray, asked: Asked) -> Prediction:
        """The detections in upright RGB pixels (H, W, 3)."""
        found = self.detector.predict_arrays([pixels])[0].above(asked.score)
        height, width = pixels.shape[:2]
        return Prediction("image", width, height, found.only(asked.classes) if asked.classes else found)


def _decoded(data: bytes, max_pixels: int) -> ImageArray:
    """The pixels of a body. Raises :class:`Refused`."""
    try:
        return decode(data, max_pixels=max_pixels)
    except TooManyPixels as error:
        raise Refused(413, "too_many_pixels", error.message) from None
    except ImageError as error:
        raise Refused(415, "not_an_image", error.message) from None


# ---------------------------------------------------------------------------------------------------- opening
def open_models(sources: Sequence[PathLike], *, device: str = "auto", threads: int = 0) -> list[ServedModel]:
    """Loads the detectors. Raises :class:`FovealError` for one that is not there, takes external proposals, or has
    other classes than the first."""
    opened = [_open(source, device, threads) for source in sources]
    names = _names(sources)
    for source, detector in zip(sources[1:], opened[1:], strict=True):
        if other := set(opened[0].classes) ^ set(detector.classes):
            raise FovealError(
                f"has other classes than {sources[0]} ({', '.join(sorted(other)[:5])})",
                path=source,
                fix="Serve two detectors of the same classes, or one",
            )
    return [
        ServedModel(name, detector, {"name": name, **_facts(Path(source), detector)})
        for name, source, detector in zip(names, sources, opened, strict=True)
    ]


def _open(source: PathLike, device: str, threads: int) -> Detector | OnnxDetector:
    detector = open_any(source, device=device, threads=threads)
    if not isinstance(detector, OnnxDetector) and detector.source is not None:
        raise UsageError("takes external proposals, which a request cannot bring", path=source)
    return detector


def _names(sources: Sequence[PathLike]) -> list[str]:
    """The last part of each path, with a number where two are equal."""
    names: list[str] = []
    for source in sources:
        name = Path(source).resolve().stem if is_exported(source) else Path(source).name or str(source)
        names.append(f"{name}-2" if name in names else name)
    return names


def _facts(path: Path, detector: Detector | OnnxDetector) -> dict[str, Any]:
    """What everybody may know of a detector: nothing of where it lies."""
    facts: dict[str, Any] = {"classes": list(detector.classes), "threshold": detector.threshold}
    if isinstance(detector, OnnxDetector):
        meta = detector.meta
        facts |= {"runtime": "onnxruntime", "input": meta["input"], "versions": meta.get("versions")}
        facts |= {"proof": meta.get("proof"), "architecture": _spec_name(meta.get("spec"))}
    else:
        from ..runtime.processes import versions

        facts |= {"runtime": "torch", "input": repr(detector.spec.input), "versions": versions(), "proof": None}
        facts |= {"architecture": type(detector.spec).__name__}
    return facts | {"sha256": _digest(path)}


def _spec_name(spec: Any) -> str | None:
    return str(spec["spec"]).partition("(")[0] if isinstance(spec, dict) and "spec" in spec else None


def _digest(path: Path) -> str | None:
    """The sha256 of the weights that are loaded: of a file, or of the one in a folder; None for an alias."""
    if path.is_dir():
        from ..checkpoints.content import MODEL
        from ..checkpoints.folder import find_checkpoint, is_hub_folder

        path = (path if is_hub_folder(path) else find_checkpoint(path)) / MODEL
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
