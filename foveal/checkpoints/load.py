"""Loads a model from any source: a run, a checkpoint, an alias, or a weights file of another project."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..assembly.detector import Detector, Spec
from ..config.parse import spec_from_json
from ..errors import FovealError, UsageError, nearest
from ..parts.layers.fast_layers import use_fast_layers
from ..parts.layers.norms import fold_norms
from ..weights.state import load_state

if TYPE_CHECKING:
    from ..weights.reading.entries import WeightsFile


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is resolved but not built yet."""

    path: Path
    spec: Callable[[], Spec]  # parsed on demand: the weights are usable even where the spec cannot be read
    classes: tuple[str, ...]
    state: dict[str, Tensor]
    seen: int = 0  # images that it was trained on in a run
    tool: str = ""  # whose file it is, where the same weights need that tool's settings
    trained_on: str = ""  # hashes of the images that trained it (:mod:`foveal.data.records.trained_on`)
    notes: tuple[str, ...] = ()  # how a file was read: what was taken off, left out or assumed

    def build(self, spec: Spec) -> Detector:
        """The detector of ``spec`` with these weights. Raises :class:`FovealError` where they do not fit it."""
        detector = spec.build(self.classes)
        what = f"{type(spec).__name__} with {len(self.classes)} classes"
        load_state(detector, self.state, path=self.path, what=what)
        detector.trained_on = self.trained_on
        return detector


def find(
    source: str | Path,
    preset: str | None = None,
    *,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    file: WeightsFile | None = None,
    parts: Sequence[type] = (),
) -> ResolvedModel:
    """Resolves a run (its best checkpoint), a checkpoint, a Hugging Face folder, an alias or a file to a model.

    A published alias is read from the cache and never downloaded here: ``foveal weights fetch`` does that. ``preset``
    names the detector of a foreign file where it cannot be recognized; a Darknet file needs its ``cfg`` (path or
    text). ``names`` are the classes of a foreign file (a .names file, or the names themselves). ``file``: the
    content of the file, where it was read already. ``parts``: custom classes that the spec names. Raises
    :class:`FovealError` for a source that is not a model.
    """
    from .folder import is_hub_folder, load_checkpoint

    path = Path(source)
    if cfg is not None and not path.is_file():
        raise UsageError(f"a cfg belongs to a Darknet weights file, which {source} is not")
    if path.is_dir():
        if names is not None:
            raise UsageError(f"{source} already contains class names", fix="Leave the names out")
        if is_hub_folder(path):
            from .huggingface import read_hub_folder

            spec, classes, state, trained_on = read_hub_folder(path, preset, parts)
            return ResolvedModel(path, lambda: spec, classes, state, trained_on=trained_on)
        if preset is not None:
            raise UsageError(f"{source} already contains its spec", fix="Leave the preset out")
        checkpoint = load_checkpoint(path)
        training_state = checkpoint.meta["state"]
        seen = int(training_state.get("step", 0)) * int(training_state.get("batch_size", 0))
        return ResolvedModel(
            path,
            lambda: checkpoint.parsed(parts),
            checkpoint.classes,
            checkpoint.state_dict,
            seen,
            trained_on=checkpoint.meta.get("trained_on", ""),
        )
    if path.is_file():
        if cfg is not None:
            return _read_darknet(path, preset, cfg, names)
        return _read_file(path, preset, names, file, parts)
    from ..weights.cache import is_alias

    if is_alias(str(source)):
        return _read_published(str(source), preset, names)
    raise FovealError(
        "no such run, checkpoint, weights file or alias",
        path=source,
        fix=f"{_nearest(path)} Give an alias of `foveal weights list` or the folder of `foveal train --out`".strip(),
    )


def tell(model: ResolvedModel) -> None:
    """Logs how a file of another project was read, one line each; without a handler they go to standard error."""
    for line in model.notes:
        logging.getLogger("foveal").warning("%s: %s", model.path, line)


def _nearest(path: Path) -> str:
    """A suggestion of similar names: published detectors, and files in the same folder."""
    from ..weights.cache import ALIASES, PUBLISHED, is_alias

    siblings = {str(p): p for p in path.parent.iterdir()} if path.parent.is_dir() else {}
    known = [*filter(is_alias, PUBLISHED), *ALIASES, *siblings]
    return nearest(str(path), known, count=3)


def load(
    source: str | Path,
    *,
    preset: str | None = None,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    overrides: Sequence[str] = (),
    parts: Sequence[type] = (),
) -> Detector:
    """Loads a detector, ready for inference, from a run, a checkpoint, a Hugging Face folder, a file or an alias.

        detector = foveal.load("runs/first", overrides=["roi.select.score=0.3"])
        detections = foveal.load("accurate").predict("photo.jpg")

    ``cfg`` and ``names`` belong to a Darknet file: ``load("x.weights", cfg="x.cfg", names="coco.names")``.
    ``precision`` is "32", "bf16" or "16"; None selects the fastest precision of the device. ``overrides`` change
    the spec before it is built (``["roi.select.score=0.3"]``). ``parts`` are custom classes that the spec or the
    overrides name (``[Brier]``). Raises :class:`FovealError` as :func:`find` does, and for weights that do not fit.
    """
    model = find(source, preset, cfg=cfg, names=names, parts=parts)
    tell(model)
    spec = model.spec()
    if overrides:
        from ..config.overrides import override

        spec = override(spec, list(overrides), parts=parts)
    return ready(model.build(spec), device, precision)


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    parts: Sequence[type] = (),
) -> tuple[Spec, tuple[str, ...]]:
    """Writes any model that :func:`find` resolves as a checkpoint into the new folder ``out``.

    Returns its spec and class names. Raises :class:`FovealError` where ``out`` is not empty, or where the weights do
    not fit their detector.
    """
    from ..config.show import show
    from ..config.table import custom_parts
    from ..runtime.processes import versions
    from .content import Content
    from .folder import save

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("exists already", path=out, fix="Give a new or empty folder")
    model = find(source, preset, cfg=cfg, names=names, parts=parts)
    tell(model)
    detector = model.build(model.spec())
    spec = detector.spec
    described = {"spec": show(spec), "classes": list(model.classes), "versions": versions()}
    if modules := custom_parts(spec):
        described["parts"] = modules
    if model.trained_on:
        described["trained_on"] = model.trained_on
    origin = {"step": 0, "imported": model.path.name}
    save(out / "checkpoints", 0, Content(detector.state_dict(), {}, {}, origin, described))
    return spec, model.classes


def _read_published(name: str, preset: str | None, names: str | Path | Sequence[str] | None) -> ResolvedModel:
    """A downloaded checkpoint, with the preset that it was published for."""
    from ..weights.cache import find_published as entry_of
    from ..weights.cache import published_files

    weights, *others = published_files(name)
    if others:
        cfg, default_names = others
        return _read_darknet(weights, preset, cfg, default_names if names is None else names)
    return _read_file(weights, preset or entry_of(name).preset, names)


def _read_file(
    path: Path,
    preset: str | None,
    names: str | Path | Sequence[str] | None = None,
    file: WeightsFile | None = None,
    parts: Sequence[type] = (),
) -> ResolvedModel:
    """A file that ``foveal weights export`` wrote, or one of another project."""
    from ..parts.darknet.cfg import read_names
    from ..parts.darknet.weights import is_darknet
    from ..weights.open import header, read_weights
    from ..weights.reading.entries import record_notes, usual
    from .foreign.recognize import import_foreign

    if names is not None and is_darknet(path):
        raise UsageError("names without a cfg", fix="Give the cfg of the Darknet weights too")
    header_entry = header(path).get("foveal")
    if header_entry is None or preset is not None:
        class_names = read_names(names) if isinstance(names, str | Path) else names
        with record_notes() as notes:
            tool, spec, classes, tensors = import_foreign(file or read_weights(path), preset, names=class_names)
        return ResolvedModel(path, lambda: spec, classes, tensors, tool=tool, notes=tuple(notes))
    if names is not None:
        raise UsageError(f"{path} already contains class names", fix="Leave the names out")
    stored, classes = _parse_header(header_entry, path)
    state = usual(file or read_weights(path)).state
    trained_on = str(stored.get("trained_on", ""))
    return ResolvedModel(path, lambda: spec_from_json(stored, parts=parts), classes, state, trained_on=trained_on)


def _read_darknet(
    path: Path, preset: str | None, cfg: str | Path, names: str | Path | Sequence[str] | None
) -> ResolvedModel:
    from .foreign.darknet import import_darknet

    if preset is not None:
        raise UsageError("a preset and a cfg both define the detector of the file", fix="Give one of them")
    spec, classes, state = import_darknet(path, cfg, names)
    return ResolvedModel(path, lambda: spec, classes, state)


def _parse_header(text: str, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The spec (as JSON) and class names that ``foveal weights export`` wrote into the header."""
    try:
        stored = json.loads(text)
        classes = stored["classes"]
        if not (isinstance(stored, dict) and isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise FovealError(
            f"the header's entry 'foveal' is not what `foveal weights export` writes (it begins {text[:40]!r})",
            path=path,
            fix="Name a preset to read it as a file of another project, or export it again",
        ) from None
    return stored, tuple(classes)


def ready(detector: Detector, device: str = "auto", precision: str | None = None) -> Detector:
    """A copy for inference: norms folded into convolutions, channels-last, in the device's precision."""
    from ..runtime.precision import choose, find_device

    target = find_device(device)
    dtype = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[choose(precision, target)]
    folded = cast(Detector, fold_norms(detector)).to(target, dtype).eval()
    if target.type == "cpu" and dtype != torch.float16:
        use_fast_layers(folded)
    if dtype != torch.float32 and target.type == "cpu":
        from ..parts.layers.narrow_maps import guard_narrow

        guard_narrow(folded)
    return folded
