"""One door for everything that can be a model: a run, a checkpoint, an alias, somebody else's weights file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..assembly.detector import Detector, Spec
from ..config.parse import spec_from_json
from ..errors import FovealError, UsageError, nearest
from ..parts.layers.norms import fold_norms
from ..weights.state import load_state

if TYPE_CHECKING:
    from ..weights.open import StateDict


@dataclass(frozen=True)
class ResolvedModel:
    """A model as it was found: not built yet."""

    path: Path
    spec: Callable[[], Spec]  # read when it is asked for: weights are of use where the spec is not known here
    classes: tuple[str, ...]
    state: dict[str, Tensor]
    seen: int = 0  # images that a run trained it on

    def build(self, spec: Spec) -> Detector:
        """The detector of ``spec`` with these weights. Raises :class:`FovealError` where they do not fit it."""
        detector = spec.build(self.classes)
        what = f"{type(spec).__name__} with {len(self.classes)} classes"
        load_state(detector, self.state, path=self.path, what=what)
        return detector


def find(
    source: str | Path,
    preset: str | None = None,
    *,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    state: StateDict | None = None,
    parts: Sequence[type] = (),
) -> ResolvedModel:
    """The model of a run folder (its best checkpoint), a checkpoint folder, a Hugging Face folder, an alias or a file.

    A published alias is read from the cache and never fetched here: ``foveal weights fetch`` does that. ``preset``
    says what a foreign file holds where it cannot be seen; a Darknet file needs its ``cfg`` (path or text). ``names``
    are the classes of a foreign file (a .names file, or the names themselves). ``state``: what is in the file, where
    that was read already. ``parts``: classes of one's own that the spec names. Raises :class:`FovealError` for what is
    no model.
    """
    from .folder import is_hub_folder, load_checkpoint

    path = Path(source)
    if cfg is not None and not path.is_file():
        raise UsageError(f"a cfg belongs to a Darknet weights file, {source} is none")
    if path.is_dir():
        if names is not None:
            raise UsageError(f"{source} has its class names in it", fix="Leave the names out")
        if is_hub_folder(path):
            from .huggingface import read_hub_folder

            spec, classes, state = read_hub_folder(path, preset, parts)
            return ResolvedModel(path, lambda: spec, classes, state)
        if preset is not None:
            raise UsageError(f"{source} says itself what it is", fix="Leave the preset out")
        found = load_checkpoint(path)
        story = found.meta["state"]
        seen = int(story.get("step", 0)) * int(story.get("batch_size", 0))
        return ResolvedModel(path, lambda: found.parsed(parts), found.classes, found.state_dict, seen)
    if path.is_file():
        if cfg is not None:
            return _read_darknet(path, preset, cfg, names)
        return _read_file(path, preset, names, state, parts)
    from ..weights.cache import is_alias

    if is_alias(str(source)):
        return _read_published(str(source), preset, names)
    raise FovealError(
        "no such run, checkpoint, weights file or alias",
        path=source,
        fix=f"{_nearest(path)} Give an alias of `foveal weights list` or the folder of `foveal train --out`".strip(),
    )


def _nearest(path: Path) -> str:
    """The names that were perhaps meant: of published detectors, and of what lies beside."""
    from ..weights.cache import ALIASES, PUBLISHED, is_alias

    beside = {str(p): p for p in path.parent.iterdir()} if path.parent.is_dir() else {}
    known = [*filter(is_alias, PUBLISHED), *ALIASES, *beside]
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
    ``precision`` is "32", "bf16" or "16"; None takes what the device is fast at. ``overrides`` change the spec before
    it is built (``["roi.select.score=0.3"]``). ``parts`` are classes of one's own that the spec or they name
    (``[Brier]``).
    """
    found = find(source, preset, cfg=cfg, names=names, parts=parts)
    spec = found.spec()
    if overrides:
        from ..config.overrides import override

        spec = override(spec, list(overrides), parts=parts)
    return ready(found.build(spec), device, precision)


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    cfg: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    parts: Sequence[type] = (),
) -> tuple[Spec, tuple[str, ...]]:
    """Writes any model that :func:`find` finds as a checkpoint in the new folder ``out``; its spec and class names.

    Raises :class:`FovealError` where ``out`` holds something, or where the weights do not fit their detector.
    """
    from ..config.show import show
    from ..config.table import own_parts
    from ..runtime.processes import versions
    from .folder import Content, save

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FovealError("exists already", path=out, fix="Give a new or empty folder")
    found = find(source, preset, cfg=cfg, names=names, parts=parts)
    spec = found.spec()
    detector = found.build(spec)
    described = {"spec": show(spec), "classes": list(found.classes), "versions": versions()}
    if own := own_parts(spec):
        described["parts"] = own
    origin = {"step": 0, "imported": found.path.name}
    save(out / "checkpoints", 0, Content(detector.state_dict(), {}, {}, origin, described))
    return spec, found.classes


def _read_published(name: str, preset: str | None, names: str | Path | Sequence[str] | None) -> ResolvedModel:
    """A fetched checkpoint, as what it is published."""
    from ..weights.cache import find_published as entry_of
    from ..weights.cache import published_files

    weights, *others = published_files(name)
    if others:
        cfg, own = others
        return _read_darknet(weights, preset, cfg, own if names is None else names)
    return _read_file(weights, preset or entry_of(name).preset, names)


def _read_file(
    path: Path,
    preset: str | None,
    names: str | Path | Sequence[str] | None = None,
    state: StateDict | None = None,
    parts: Sequence[type] = (),
) -> ResolvedModel:
    """A file that ``foveal weights export`` wrote, or somebody else's."""
    from ..parts.darknet.cfg import read_names
    from ..parts.darknet.weights import is_darknet
    from ..weights.keys_detr import is_detr
    from ..weights.open import header, read_state
    from .foreign.torchvision import import_weights

    if names is not None and is_darknet(path):
        raise UsageError("names without a cfg", fix="Give the cfg of the Darknet weights too")
    own = header(path).get("foveal")
    if own is None or preset is not None:
        words = read_names(names) if isinstance(names, str | Path) else names
        state = state or read_state(path)
        if is_detr(state):
            from .foreign.detr import import_detr

            spec, classes, ours = import_detr(state, path, preset, names=words)
        else:
            spec, classes, ours = import_weights(path, preset, names=words, state=state)
        return ResolvedModel(path, lambda: spec, classes, ours)
    if names is not None:
        raise UsageError(f"{path} has its class names in it", fix="Leave the names out")
    story, classes = _story(own, path)
    return ResolvedModel(path, lambda: spec_from_json(story, parts=parts), classes, state or read_state(path))


def _read_darknet(
    path: Path, preset: str | None, cfg: str | Path, names: str | Path | Sequence[str] | None
) -> ResolvedModel:
    from .foreign.darknet import import_darknet

    if preset is not None:
        raise UsageError("a preset and a cfg both say what the file holds", fix="Give one of them")
    spec, classes, state = import_darknet(path, cfg, names)
    return ResolvedModel(path, lambda: spec, classes, state)


def _story(text: str, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What ``foveal weights export`` wrote into the header, and the class names of it."""
    try:
        story = json.loads(text)
        classes = story["classes"]
        if not (isinstance(story, dict) and isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise FovealError(
            f"the header's entry 'foveal' is not what `foveal weights export` writes (it begins {text[:40]!r})",
            path=path,
            fix="Name a preset to read the file as somebody else's, or export it again",
        ) from None
    return story, tuple(classes)


def ready(detector: Detector, device: str = "auto", precision: str | None = None) -> Detector:
    """A copy for inference: norms folded into convolutions, channels-last, in a number format the device is fast at."""
    from ..runtime.precision import choose
    from ..runtime.processes import find_device

    where = find_device(device)
    kind = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[choose(precision, where)]
    quick = cast(Detector, fold_norms(detector)).to(where, kind).eval()
    if kind != torch.float32 and where.type == "cpu":
        from ..parts.layers.narrow_maps import guard_narrow

        guard_narrow(quick)
    return quick
