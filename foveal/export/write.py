"""Writes a detector as one ONNX file that proves that it answers as torch does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..assembly.detector import Detector
from ..checkpoints.load import find, ready, tell
from ..config.overrides import override
from ..config.show import spec_to_json
from ..data.records.dataset import Dataset
from ..errors import FovealError, UsageError
from ..evaluation.scoring import evaluation_set
from ..files.aliases import OnProgress, PathLike
from ..files.atomic import write_bytes, write_json
from ..parts.layers.norms import fold_norms
from ..parts.resizing import Input
from ..runner.onnx_detector import SCHEMA
from ..runtime.processes import versions
from .graph import Axes, Graph, axes_of
from .onnx_model import to_onnx
from .proof import Proof, prove


def export_onnx(
    source: PathLike,
    out: PathLike,
    *,
    data: PathLike | Sequence[PathLike] | None = None,
    split: str | None = None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    preset: str | None = None,
    cfg: PathLike | None = None,
    names: PathLike | Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    parts: Sequence[type] = (),
    progress: OnProgress | None = None,
) -> Proof:
    """Writes the detector ``source`` (whatever :func:`foveal.load` takes) to the ONNX file ``out`` and its proof beside
    it, ``OUT.proof.json``.

    ``data``: a data set to prove it on, beside the generated images; ``split`` and ``limit`` as in evaluation.
    ``batch``: images of every call; None: any number. ``size``: (height, width) of the canvas; None: any that the input
    rule makes. Raises :class:`FovealError` where the file does not answer as torch does, and keeps none then.
    """
    target = Path(out)
    if target.exists():
        raise FovealError("exists already", path=target, fix="Name a new file")
    _needs()
    model = find(source, preset, cfg=cfg, names=names, parts=parts)
    tell(model)
    spec = override(model.spec(), list(overrides), parts=parts) if overrides else model.spec()
    detector = model.build(spec)
    dataset = None if data is None else _images(data, split, detector, limit)
    return export_detector(detector, target, dataset, batch=batch, size=size, progress=progress)


def export_detector(
    detector: Detector,
    out: Path,
    dataset: Dataset | None = None,
    *,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    progress: OnProgress | None = None,
) -> Proof:
    """:func:`export_onnx` of a detector that is built, with its weights."""
    axes = axes_of(detector, batch, size)
    proto = to_onnx(Graph(_folded(detector)), axes)
    metadata = metadata_of(detector, axes)
    add_metadata(proto, metadata)
    proof = prove(ready(detector, "cpu", "32"), proto.SerializeToString(), dataset, batch=batch, progress=progress)
    if proof.failures:
        raise FovealError(
            f"not written, because it answers otherwise than torch: {'; '.join(proof.failures)}", path=out
        )
    metadata["proof"] = proof.to_dict()
    add_metadata(proto, metadata)
    write_bytes(out, proto.SerializeToString())
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    write_json(out.with_name(f"{out.name}.proof.json"), {"file": out.name, "sha256": digest, **proof.to_dict()})
    return proof


def _needs() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(f"export needs {', '.join(missing)}", fix="Run pip install 'foveal[export]'")


def _folded(detector: Detector) -> Detector:
    folded: Any = fold_norms(detector)
    return folded  # type: ignore[no-any-return]


def _images(data: PathLike | Sequence[PathLike], split: str | None, detector: Detector, limit: int | None) -> Dataset:
    dataset = evaluation_set(data, split=split, trained_on=detector.trained_on)
    return replace(dataset, records=dataset.records[:limit])


# ---------------------------------------------------------------------------------------------------- metadata
def metadata_of(detector: Detector, axes: Axes) -> dict[str, Any]:
    """What a runner needs to know of a detector, and where it comes from."""
    return {
        "schema": SCHEMA,
        "classes": list(detector.classes),
        "input": describe_input(detector.spec.input),
        "score": detector.threshold,
        "mask_threshold": detector.mask_threshold,
        "batch": axes.batch,
        "size": axes.size,
        "spec": spec_to_json(detector.spec),
        "versions": versions(),
        "trained_on": detector.trained_on,
    }


def describe_input(rule: Input) -> dict[str, Any]:
    """The fields of :class:`foveal.runner.onnx_detector.InputRule`."""
    from ..parts.resizing import Letterbox, Original, Resize, Stretch

    mean, std = rule.pixels
    known: dict[str, Any] = {"mean": mean, "std": std, "padding": rule.padding, "rule": type(rule).__name__}
    if type(rule) is Resize:
        return known | {name: vars(rule)[name] for name in ("short", "long", "multiple", "nearest")}
    if type(rule) in (Stretch, Letterbox):
        height, width = rule.canvas(())
        return known | {"height": height, "width": width}
    if type(rule) is Original:
        return known
    raise UsageError(f"the input rule {type(rule).__name__} has no form without torch")


def add_metadata(proto: Any, metadata: dict[str, Any]) -> None:
    """Foveal's own entry, and those that other tools look for."""
    del proto.metadata_props[:]
    size = metadata["size"]
    entries = {
        "foveal": json.dumps(metadata, ensure_ascii=False, allow_nan=False),
        "names": json.dumps(dict(enumerate(metadata["classes"])), ensure_ascii=False),
        "task": "segment" if metadata["mask_threshold"] is not None else "detect",
        "stride": str(metadata["input"].get("multiple", 32)),
    }
    if size is not None:
        entries["imgsz"] = json.dumps(list(size))
    for key, value in entries.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    proto.producer_name, proto.producer_version = "foveal", metadata["versions"]["foveal"]
