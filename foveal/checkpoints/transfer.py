"""Loads weights into a detector and reports which tensors were loaded, newly initialized or unused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FovealError
from ..weights.reading.entries import record_notes
from ..weights.state import record_unused
from .class_columns import same_classes, with_columns

if TYPE_CHECKING:
    from ..assembly.detector import Detector

_COUNTER = "num_batches_tracked"  # no output depends on it
# placeholder names of a file without class names, in lower case
_PLACEHOLDER = re.compile(r"(class|unused) \d+|label_\d+")
_SHOWN = 8  # names per line


@dataclass(frozen=True)
class LoadReport:
    """The names of the detector's tensors that were loaded or newly initialized, and of the file's unused ones."""

    source: str
    loaded: tuple[str, ...]
    new: Mapping[str, tuple[str, ...]]  # by reason
    unused: tuple[str, ...]
    numbers: tuple[int, int]  # values loaded, values in total
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the console: groups of names, long lists truncated."""
        total = len(self.loaded) + sum(map(len, self.new.values()))
        share = " of ".join(f"{n / 1e6:.2f}" for n in self.numbers)
        lines = [f"{self.source}: {len(self.loaded)} of {total} tensors loaded ({share} million values)"]
        numbered = _numbered([*self.loaded, *(name for names in self.new.values() for name in names), *self.unused])
        for label, names in self._groups():
            if names:
                lines.append(f"  {_shown(label)}: {_short(_folded(names, numbered))}")
        return lines + [f"  {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """For ``run.json``: the same groups in full, under the keys ``kept``, ``made new (...)`` and ``not used``."""
        return {"from": self.source, **{what: list(names) for what, names in self._groups()}, "notes": self.notes}

    def _groups(self) -> list[tuple[str, list[str]]]:
        """(label, paths): a path represents all tensors below it."""
        labels = {name: "kept" for name in self.loaded}
        for reason, names in self.new.items():
            labels |= dict.fromkeys(names, f"made new ({reason})")
        loaded_or_new = grouped(labels)
        with_unused = grouped(labels | dict.fromkeys(self.unused, "not used"))
        return [*loaded_or_new.items(), ("not used", with_unused.get("not used", []))]


def _shown(label: str) -> str:
    """The printed form of a label of ``run.json``."""
    if label in ("kept", "not used"):
        return {"kept": "loaded", "not used": "unused"}[label]
    return label.replace("made new", "newly initialized", 1)


def grouped(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Label -> the shortest paths with only tensors of that label: ``{"backbone.conv1.weight": "kept", ...}`` ->
    ``{"kept": ["backbone"]}``."""
    kinds: dict[str, set[str]] = {}
    for name, label in labels.items():
        for path in _paths(name):
            kinds.setdefault(path, set()).add(label)
    paths_by_label: dict[str, list[str]] = {}
    for name, label in labels.items():
        path = next((p for p in _paths(name) if kinds[p] == {label}), name)
        if path not in paths_by_label.setdefault(label, []):
            paths_by_label[label].append(path)
    return paths_by_label


def transfer(detector: Detector, state: Mapping[str, Tensor], source: str | Path, classes: Sequence[str]) -> LoadReport:
    """Loads ``state`` into ``detector`` as far as names, shapes and classes agree.

    A tensor that depends on the classes is loaded where their names are the same in the same order, or unknown. Else
    the columns of the classes that have the same name are (:mod:`~foveal.checkpoints.class_columns`), with those of no
    class, and the other classes keep their random values. Raises :class:`FovealError` where nothing fits, or a value
    is not finite.
    """
    tensors: dict[str, Tensor] = detector.state_dict()
    fitting = {name: value for name, value in state.items() if name in tensors and tensors[name].shape == value.shape}
    notes, class_dependent = _names(detector, classes)
    columns, taken = _columns(detector, state, classes, class_dependent)
    fitting = {name: value for name, value in fitting.items() if name not in class_dependent} | columns
    nonfinite = [name for name, value in fitting.items() if not value.isfinite().all()]
    if nonfinite:
        raise FovealError(f"holds values that are not finite: {', '.join(nonfinite[:3])}", path=source)
    parameters = {name for name, _ in detector.named_parameters()}
    if not parameters & fitting.keys():
        raise FovealError(
            f"no weight fits this detector ({type(detector.spec).__name__})",
            path=source,
            fix="Start from the same kind of detector, or one with the same backbone",
        )
    detector.load_state_dict(fitting, strict=False)
    our_count, their_count = len(detector.classes), len(classes)
    class_reason = f"{our_count} classes here, {their_count} there" if our_count != their_count else "other classes"
    new: dict[str, list[str]] = {}
    for name in tensors:
        if name not in fitting and not name.endswith(_COUNTER):
            reason = (
                "not in the weights"
                if name not in state
                else class_reason
                if name in class_dependent
                else "another shape"
            )
            new.setdefault(reason, []).append(name)
    unused = [name for name in state if name not in tensors and not name.endswith(_COUNTER)]
    return _report(source, tensors, fitting, new, unused, notes + taken)


def pretrained(detector: Detector, read: Callable[[], None], source: str | Path) -> LoadReport:
    """Reports which tensors of the detector ``read`` (a spec's ``load_pretrained``) loads."""
    tensors: dict[str, Tensor] = detector.state_dict()
    before = {name: value._version for name, value in tensors.items()}  # incremented by every change in place
    with record_unused() as readings, record_notes() as notes:
        read()
    loaded = {name: value for name, value in tensors.items() if value._version > before[name]}
    ignored = [set(names) for names in readings]  # a part may use the layers that another one ignores
    unused = [n for n in readings[0] if all(n in names for names in ignored)] if readings else []
    new = [name for name in tensors if name not in loaded and not name.endswith(_COUNTER)]
    return _report(source, tensors, loaded, {"not in the weights": new} if new else {}, unused, notes)


def _report(
    source: str | Path,
    tensors: Mapping[str, Tensor],
    loaded: Mapping[str, Tensor],
    new: Mapping[str, Sequence[str]],
    unused: Sequence[str],
    notes: Sequence[str],
) -> LoadReport:
    """The report on the detector's ``tensors``, of which ``loaded`` were loaded; counters are left out."""
    names = [name for name in tensors if name in loaded and not name.endswith(_COUNTER)]
    sizes = (
        sum(tensors[n].numel() for n in names),
        sum(v.numel() for n, v in tensors.items() if not n.endswith(_COUNTER)),
    )
    reasons = {reason: tuple(each) for reason, each in new.items()}
    return LoadReport(str(source), tuple(names), reasons, tuple(unused), sizes, tuple(notes))


def _names(detector: Detector, classes: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Notes on the class names, and the tensors of other classes than the detector's (:func:`_of_classes`)."""
    ours, theirs = ([name.strip().casefold() for name in names] for names in (detector.classes, classes))
    if ours == theirs:
        return [], {}
    if len(ours) == len(theirs) and all(map(_PLACEHOLDER.fullmatch, theirs)):
        assumed = ", ".join(detector.classes)
        return [f"the weights do not name their {len(theirs)} classes, which are assumed to be {assumed}"], {}
    return [], _of_classes(detector)


def _columns(
    detector: Detector, state: Mapping[str, Tensor], classes: Sequence[str], class_dependent: Mapping[str, int]
) -> tuple[dict[str, Tensor], list[str]]:
    """The class-dependent tensors with the columns of the classes that ``state`` has too, and a note on them."""
    same, own = same_classes(detector.classes, classes) if class_dependent else {}, detector.state_dict()
    if not same:
        return {}, []
    counts = len(detector.classes), len(classes)
    merged = {
        name: tensor
        for name, rows in class_dependent.items()
        if name in state and rows and (tensor := with_columns(name, (own, state), rows, counts, same)) is not None
    }
    if not merged:
        return {}, []
    note = f"{len(same)} of {counts[0]} classes keep their columns of the {counts[1]} there: "
    note += ", ".join(detector.classes[k] for k in same)
    others = [name for k, name in enumerate(detector.classes) if k not in same]
    return merged, [note + (f"; newly initialized: {', '.join(others)}" if others else "")]


def _of_classes(detector: Detector) -> dict[str, int]:
    """The tensors whose shape depends on the number of classes, and the rows that a class adds to each (0: none)."""
    with torch.device("meta"):
        larger = detector.spec.build([*detector.classes, "one more"]).state_dict()
    return {
        name: len(larger[name]) - len(value)
        for name, value in detector.state_dict().items()
        if larger[name].shape != value.shape
    }


def _paths(name: str) -> Iterable[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``."""
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _numbered(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers below each path: ``["a.0.w", "a.2.w"]`` -> ``{"a": [0, 2]}``."""
    by_parent: dict[str, set[int]] = {}
    for name in names:
        for path in _paths(name):
            parent, _, leaf = path.rpartition(".")
            if leaf.isdecimal():
                by_parent.setdefault(parent, set()).add(int(leaf))
    return {parent: sorted(numbers) for parent, numbers in by_parent.items()}


def _folded(paths: Sequence[str], numbered: Mapping[str, Sequence[int]]) -> list[str]:
    """``a.0, a.1, a.2, b`` -> ``a.0-2, b``; missing numbers do not interrupt a range."""
    folded: list[str] = []
    first = last = -1  # of the current range: indices among its parent's numbers
    parent_of_range = ""
    for path in paths:
        parent, _, leaf = path.rpartition(".")
        at = numbered[parent].index(int(leaf)) if leaf.isdecimal() else -1
        if at >= 0 and parent == parent_of_range and at == last + 1:
            folded[-1] = f"{parent}.{numbered[parent][first]}-{leaf}"
        else:
            folded.append(path)
            parent_of_range, first = (parent, at) if at >= 0 else ("", -1)
        last = at
    return folded


def _short(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more (run.json names all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
