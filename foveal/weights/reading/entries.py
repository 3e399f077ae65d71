"""The content of a weights file: every set of named tensors in it, and the search for the one that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FovealError

NamedTensors = dict[str, Tensor]
Fits = Callable[[NamedTensors], bool]

_USUAL = ("state_dict", "model", "model_state_dict", "params")  # where training scripts save the weights
_DEPTH = 5  # VISSL: {"classy_state_dict": {"base_model": {"model": {"trunk": ...}}}}
_COMPONENTS = 4  # of a prefix: "module.model.detector.net."
# averages of the weights over training, which are what their authors evaluate
_AVERAGED = re.compile(r"(^|[._])(ema|emas|average|averaged|avg|swa|shadow|teacher|polyak)\d*($|[._])", re.IGNORECASE)
# slow copies that exist for the sake of training alone (MoCo, BYOL): never where their counterpart fits too
_COPIES = re.compile(r"(^|\.)(encoder_k|momentum_\w+|target_\w+|key_encoder)\.")
_NOT_WEIGHTS = re.compile(r"optim|momentum_buffer|exp_avg|scheduler|scaler|(^|[._])grads?($|[._])", re.IGNORECASE)
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not imported. It keeps items, and ignores whatever else it is given."""

    name = ""  # of the class: ``package.module.Class``

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that was read."""

    path: Path
    entries: Mapping[str, NamedTensors]  # by their path in the file: "" for the file itself, "state_dict", "ema.module"
    plain: Mapping[str, Any] = field(default_factory=dict)  # the file's other entries, such as "meta"
    objects: Sequence[str] = ()  # the classes of objects in it that were not read

    @property
    def is_caffe(self) -> str:
        """What says that a ResNet in it is Caffe's form ("config", "name"); "" where nothing does."""
        meta = self.plain.get("meta")
        texts = [meta.get(key) for key in ("config", "cfg")] if isinstance(meta, Mapping) else []
        if config := next((text for text in texts if isinstance(text, str)), ""):
            return "config" if re.search(r"""style\s*=\s*['"]caffe['"]""", config) else ""
        return "name" if re.search(r"caffe|msra", self.path.name, re.IGNORECASE) else ""


@dataclass(frozen=True)
class Found:
    """One set of tensors in a file under the names that fit."""

    entry: str
    prefix: str  # taken off the names
    state: NamedTensors

    @property
    def place(self) -> str:
        return f"{self.entry}: {self.prefix}" if self.entry and self.prefix else self.entry or self.prefix


@contextmanager
def record_notes() -> Iterator[list[str]]:
    """Inside, :func:`note` appends to this list."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(text: str) -> None:
    """Tells how a file was read, once each, to whoever records notes."""
    if (notes := _notes.get()) is not None and text not in notes:
        notes.append(text)


def entries_of(loaded: Any, path: Path) -> WeightsFile:
    """What was read from ``path``, with its sets of tensors. Raises :class:`FovealError` where there is none."""
    entries: dict[str, NamedTensors] = {}
    objects: list[str] = []
    _collect(loaded, "", _DEPTH, entries, objects)
    if not entries:
        raise FovealError(*_nothing(loaded, objects), path=path, fix=_NOTHING_FIX if not objects else _OBJECT_FIX)
    plain = {k: v for k, v in loaded.items() if k not in entries} if isinstance(loaded, Mapping) else {}
    return WeightsFile(path, entries, plain, tuple(dict.fromkeys(objects)))


def choose_state(file: WeightsFile, fits: Fits, what: str) -> Found | None:
    """The one set of tensors, with one prefix taken off its names, that ``fits``; None: there is none.

    Of several the average of the weights (EMA) is taken. Notes say what was taken off and what was left out. Raises
    :class:`FovealError` for several that differ, none of which is an average. ``what``: what they fit.
    """
    found = [one for entry in file.entries for one in _in_entry(file, entry, fits)]
    if len(found) > 1 and (kept := [one for one in found if not _COPIES.search("." + one.prefix)]):
        found = kept
    if not found:
        return None
    chosen = found[0] if len(found) == 1 else _among(file, found, what)
    _tell(file, chosen)
    return chosen


def usual(file: WeightsFile) -> Found:
    """The set of tensors under a usual name, else the largest; the prefixes of PyTorch's wrappers are taken off."""
    known = (entry for name in _USUAL for entry in file.entries if entry.split(".")[0] == name)
    entry = next(known, "" if "" in file.entries else max(file.entries, key=lambda e: len(file.entries[e])))
    state, prefix = file.entries[entry], ""
    while True:
        for wrapper in ("module.", "_orig_mod."):
            if all(key.startswith(wrapper) for key in state):
                state, prefix = {key[len(wrapper) :]: value for key, value in state.items()}, prefix + wrapper
                break
        else:
            break
    found = Found(entry, prefix, state)
    _tell(file, found)
    return found


def covers(wanted: Mapping[str, Tensor]) -> Fits:
    """Whether a state has every tensor of ``wanted`` in its shape; counters of norms may be missing."""
    needed = {key: value.shape for key, value in wanted.items() if not key.endswith("num_batches_tracked")}

    def fits(state: NamedTensors) -> bool:
        return bool(needed) and all(key in state and state[key].shape == shape for key, shape in needed.items())

    return fits


# ------------------------------------------------------------------------------------------------ search
def _in_entry(file: WeightsFile, entry: str, fits: Fits) -> Iterator[Found]:
    state = file.entries[entry]
    for prefix in _prefixes(state):
        part = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if fits(part):
            yield Found(entry, prefix, part)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """ "" and every dotted beginning of the names."""
    found: dict[str, None] = {"": None}
    for key in state:
        parts = key.split(".")
        for count in range(1, min(len(parts), _COMPONENTS + 1)):
            found[".".join(parts[:count]) + "."] = None
    return list(found)


def _among(file: WeightsFile, found: Sequence[Found], what: str) -> Found:
    """The one of several that is meant."""
    swapped = [one for one in found if one.entry == "state_dict"]
    if len(swapped) == 1 and "steps" in file.entries.get("ema_state_dict", {}):
        note("MMEngine stores the averaged weights (EMA) as 'state_dict', which is used, and the others beside them")
        return swapped[0]
    averaged = [one for one in found if _AVERAGED.search(f"{one.entry}.{one.prefix}")]
    if len(averaged) == 1:
        others = ", ".join(repr(one.place) for one in found if one is not averaged[0])
        note(f"{averaged[0].place!r}, the average of the weights (EMA), is used, not {others}, which fits too")
        return averaged[0]
    pool = averaged or list(found)
    if all(_same(pool[0].state, one.state) for one in pool[1:]):
        return pool[0]
    places = ", ".join(repr(one.place or "the names without a prefix") for one in islice(pool, 4))
    raise FovealError(
        f"holds {len(pool)} sets of weights that fit {what} and differ: {places}",
        path=file.path,
        fix="Save the one that you mean alone, with torch.save({name: tensor, ...}, ...)",
    )


def _same(a: NamedTensors, b: NamedTensors) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def _tell(file: WeightsFile, found: Found) -> None:
    whole = file.entries[found.entry]
    if found.entry and found.entry not in _USUAL:
        note(f"the weights are those of its entry {found.entry!r}")
    if found.prefix:
        left = [key for key in whole if not key.startswith(found.prefix)]
        parts = ", ".join(dict.fromkeys(_apart(key, found.prefix) for key in left))
        count = "1 tensor outside it is" if len(left) == 1 else f"{len(left)} tensors outside it are"
        outside = f"; {count} not used ({parts[:100]})" if left else ""
        note(f"the prefix {found.prefix!r} was taken off the names{outside}")
    loose = [] if found.entry else [key for key, value in file.plain.items() if isinstance(value, int | float | str)]
    if loose:
        listed = ", ".join(map(str, loose[:4]))
        note(f"what is no tensor was left out ({listed})")
    if file.objects:
        shown = ", ".join(file.objects[:3])
        note(f"objects beside the weights were not read ({shown})")


def _apart(key: str, prefix: str) -> str:
    """The beginning of a name where it parts from the prefix."""
    parts, taken = key.split("."), prefix.split(".")
    same = next((i for i, (a, b) in enumerate(zip(parts, taken, strict=False)) if a != b), 0)
    return ".".join(parts[: same + 1])


# --------------------------------------------------------------------------------------------- collecting
_NOTHING_FIX = "Give a .pth file with a state dict, or a .safetensors file"
_OBJECT_FIX = "Save the weights alone, with torch.save(model.state_dict(), ...), where the file comes from"


def _collect(value: Any, path: str, depth: int, entries: dict[str, NamedTensors], objects: list[str]) -> None:
    """Adds the sets of tensors in ``value``, and the classes of objects that are not read."""
    if isinstance(value, Inert) and not value:
        objects.append(value.name)
        return
    if isinstance(value, list | tuple):
        value = dict(enumerate(value)) if depth == _DEPTH else {}
    if not isinstance(value, Mapping):
        return
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if tensors:
        entries[path] = tensors
    if depth:
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            if not _NOT_WEIGHTS.search(inner):
                _collect(item, inner, depth - 1, entries, objects)


def _nothing(loaded: Any, objects: Sequence[str]) -> tuple[str]:
    """What a file without any named tensor holds."""
    if objects:
        return (f"contains code ({objects[0]}), which is never executed",)
    if not isinstance(loaded, Mapping):
        return (f"contains a {type(loaded).__name__}, not weights by name",)
    if not loaded:
        return ("contains no weights",)
    key, value = next(iter(loaded.items()))
    if not isinstance(key, str):
        return (f"entry {key!r} has no name",)
    return (f"entry {key!r} is a {type(value).__name__}, not a tensor",)
