"""Resuming a run: its newest checkpoint, what has changed since, and which changes the call accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import folder as checkpoint
from ..checkpoints.content import Content
from ..checkpoints.folder import DamagedCheckpoint
from ..config.overrides import difference
from ..data.records.inventory import Inventory, differences, replaced_files
from ..errors import FovealError, UsageError
from ..files.atomic import read_object, write_json
from .datasets import Datasets

if TYPE_CHECKING:
    from ..assembly.detector import Spec
    from ..data.records.dataset import Dataset

INVENTORIES = "data_sets"  # folder in the run's: what it was trained and validated on
# Settings of a recipe that may change: they have no state of their own. Of fit.solver and fit.ema only the values may.
FREE = {
    *("lr", "schedule", "warmup_steps", "warmup_factor", "warmup_power", "bias_lr", "backbone_lr", "predictor_lr"),
    *("clip", "early_stop", "val_every", "augment", "difficult", "crowd", "norm_decay", "bias_decay", "batch"),
    *("accumulate", "repeat_threshold", "warmup_share", "backbone_decay", "ema_share", "keep"),
}


@dataclass(frozen=True)
class Change:
    """A difference between the run so far and the call that resumes it."""

    name: str  # as ``--accept`` names it
    text: str


def open_folder(out: Path, resume: bool) -> tuple[Content, list[DamagedCheckpoint]] | None:
    """The newest whole checkpoint of a run, and the damaged ones after it; None: there is nothing to resume.

    Raises :class:`UsageError` where the folder holds a run and ``resume`` is false.
    """
    folder = out / "checkpoints"
    if not resume:
        if (out / "run.json").exists() or folder.exists():
            raise UsageError("the folder holds a run", path=out, fix="Resume it with --resume, or choose another --out")
        return None
    newest = checkpoint.newest(folder)
    if newest is not None and "plan" not in newest[1].state:
        raise UsageError(
            "the folder holds imported weights, and no run to resume",
            path=out,
            fix=f"Start a run with --weights {out} and another --out",
        )
    return None if newest is None else (newest[1], newest[2])


@dataclass(frozen=True)
class Comparison:
    """A checkpoint beside the call that resumes it."""

    resumed: Content
    out: Path  # the run folder
    spec: Spec
    described: dict[str, Any]  # spec.json of the call
    fixed: dict[str, Any]  # what goes into state.json
    sets: Datasets
    masks: bool  # whether the detector learns masks
    parts: Sequence[type] = ()

    def changes(self) -> list[Change]:
        """Everything that ``--accept`` may name. Raises :class:`UsageError` for what no run survives."""
        state, fixed = self.resumed.state, self.fixed
        found = list(self._recipe())
        self._check_classes()
        for name, key in (("seed", "seed"), ("batch", "batch_size"), ("precision", "precision")):
            if (old := state.get(key, fixed[key])) != fixed[key]:
                found.append(Change(name, f"--{name} was {old} and is {fixed[key]}"))
        for name, key, dataset in (("data", "data", self.sets.training), ("val", "val_data", self.sets.validation)):
            what = "training" if name == "data" else "validation"
            if text := self._data(name, state.get(key, fixed[key]), fixed[key], dataset):
                found.append(Change(name, f"the {what} data changed since the run began: {text}"))
        if (old := state.get("proposals", fixed["proposals"])) != fixed["proposals"]:
            text = "were added" if old is None else "are gone" if fixed["proposals"] is None else "changed"
            found.append(Change("proposals", f"the proposals of the training data {text} since the run began"))
        return found

    def processes(self) -> str:
        """A warning where their number differs, else ""."""
        old, new = self.resumed.state["processes"], self.fixed["processes"]
        if old == new:
            return ""
        return f"warning: {new} processes resume a run of {old}; the result will not be bit-identical"

    def _recipe(self) -> Iterator[Change]:
        from ..config.parse import parse_spec, stored_modules

        stored = self.resumed.spec
        if stored["spec"] == self.described["spec"]:
            return
        rows = difference(parse_spec(stored["spec"], parts=self.parts, modules=stored_modules(stored)), self.spec)
        fixed = [row for row in rows if not _free(*row)]
        texts = [f"{path} was {old} and is {new}" for path, old, new in (fixed or rows)[:5]]
        text = f"the run has another spec: {'; '.join(texts)}"
        if fixed:
            fix = f"Resume with the same settings, or start another run with --weights {self.out}"
            if [path for path, *_ in fixed] == ["fit.epochs"]:
                fix = f"Leave it as it was, and give --epochs {fixed[0][2]} for a longer run"
            raise UsageError(text, fix=fix)
        if rows:  # none where an earlier version wrote the same spec in other words
            yield Change("recipe", text)

    def _check_classes(self) -> None:
        stored, here = self.resumed.spec["classes"], self.described["classes"]
        if stored != here:
            old, new = ", ".join(stored), ", ".join(here)
            fix = f"Name the same with --classes, or start another run with --weights {self.out}"
            raise UsageError(f"the run has the classes {old}; the data has {new}", fix=fix)

    def _data(self, name: str, old: str, new: str, dataset: Dataset) -> str:
        """How a dataset differs from that of the run, whose hash is ``old``; empty: it does not."""
        before = Inventory.read(inventory_path(self.out, old))
        if old == new:
            whole = before is not None and len(before.images) == len(dataset)
            return replaced_files(before, dataset) if before is not None and whole else ""
        now = Inventory.of(dataset, masks=self.masks)
        if before is None:  # an earlier version of foveal began the run
            key = "train" if name == "data" else "val"
            totals = recorded(self.out).get("data_sets", {}).get(key, {})
            had = f"{totals.get('images', '?')} images with {totals.get('objects', '?')} objects"
            return f"it had {had}, and has {now.text()}; the run has no list of its images that would tell which"
        phrases = differences(before, now) or ["the objects or classes are in another order"]
        return f"{'; '.join(phrases)}; it had {before.text()}, and has {now.text()}"


def check_accepted(changes: Sequence[Change], accept: Sequence[str]) -> None:
    """Raises :class:`UsageError` where a change is not accepted."""
    refused = [change for change in changes if change.name not in accept]
    if refused:
        names = ",".join(dict.fromkeys([*accept, *(change.name for change in refused)]))
        fix = f"Resume with the same, or accept the change: --resume --accept {names}"
        raise UsageError("; ".join(change.text for change in refused), fix=fix)


def _free(path: str, old: Any, new: Any) -> bool:
    """Whether a setting of a spec may change in a run."""
    parts = path.split(".")
    if parts[0] != "fit" or len(parts) < 2:
        return False
    if parts[1] == "ema":
        return None not in (old, new)
    return parts[1] in FREE or (parts[1] == "solver" and len(parts) > 2)


# ------------------------------------------------------------------------------------------- the run folder
def inventory_path(out: Path, digest: str) -> Path:
    """The file that lists the images of a dataset with this hash."""
    return out / INVENTORIES / f"{digest[:16]}.json"


def write_inventories(out: Path, sets: Datasets, fixed: dict[str, Any], *, masks: bool, anew: bool) -> list[str]:
    """Lists the images of both datasets in the run folder, where they are not listed; ``anew``: in any case.

    Returns warnings about files that cannot be read at present.
    """
    lines = []
    for key, dataset in (("data", sets.training), ("val_data", sets.validation)):
        path = inventory_path(out, fixed[key])
        if anew or not path.exists():
            inventory = Inventory.of(dataset, masks=masks)
            inventory.write(path)
            if names := [image.name for image in inventory.images if image.bytes < 0][:3]:
                what = "cannot be read now; a later change of the file is not noticed"
                lines.append(f"warning: {', '.join(names)} {what}")
    return lines


def recorded(out: Path) -> dict[str, Any]:
    """``run.json``; empty where it is missing or damaged."""
    try:
        return read_object(out / "run.json")
    except FovealError:
        return {}


def kept_convention(out: Path) -> str | None:
    """The convention of the boxes that a run was started with."""
    arguments = recorded(out).get("arguments")
    return arguments.get("convention") if isinstance(arguments, dict) else None


def has_length(out: Path) -> bool:
    """Whether a run was begun without a time limit: one that is given on resuming ends the session, not the run."""
    arguments = recorded(out).get("arguments")
    return isinstance(arguments, dict) and arguments.get("max_time") is None


def record_changes(out: Path, record: dict[str, Any], after: int, changes: Sequence[Change]) -> None:
    """Rewrites ``run.json`` of a run that is resumed: the present settings, and under "resumed" what has changed.

    ``record`` is that of the call, ``after`` the iteration that is resumed.
    """
    old, call = recorded(out), record["arguments"]
    before = old.get("arguments") or {}
    length = {name: call[name] for name in ("epochs", "max_time")}
    if not any(length.values()):  # the length stays
        call = {**call, **{name: before.get(name) for name in length}}
    entry: dict[str, Any] = {"after": after, "changes": {change.name: change.text for change in changes}}
    for name, value in length.items():
        if value is not None and value != before.get(name):
            entry[name] = {"before": before.get(name), "after": value}
    if len(entry) == 2 and not changes:
        return
    entries = old.get("resumed", [])
    if entries[-1:] != [entry]:  # the same: it was stopped before it could save anything
        entries = [*entries, entry]
    write_json(out / "run.json", {**record, "arguments": call, "start": old.get("start"), "resumed": entries})


def as_divided(sets: Datasets, divided: dict[str, Any] | None) -> Datasets:
    """The datasets divided as the run divided them, where it did; images that are new since are trained on.

    Dividing anew would move images from one set to the other as soon as one image is added.
    """
    if not sets.note or not divided:
        return sets
    records = [record for dataset in sets.both for record in dataset.records]
    held_out = set(divided["val"])
    if {record.id for record in records} == held_out | set(divided["train"]):
        return sets
    place = {id: k for k, id in enumerate([*divided["train"], *divided["val"]])}
    records.sort(key=lambda record: place.get(record.id, len(place)))
    training = replace(sets.training, records=[r for r in records if r.id not in held_out])
    validation = replace(sets.validation, records=[r for r in records if r.id in held_out])
    note = f"divided as when the run began, new images train: {len(training)} to train, {len(validation)} to validate"
    return Datasets(training, validation, note)


def set_aside(out: Path, damaged: list[DamagedCheckpoint]) -> list[str]:
    """Renames damaged checkpoints, so that they are not loaded again; one warning for each."""
    lines = []
    for error in damaged:
        path = Path(str(error.path))
        target = path.with_name(f"damaged-{path.name}")
        checkpoint.remove(target)
        os.replace(path, target)
        lines.append(f"warning: {error}. It was renamed to {target.name}; the checkpoint before it is used")
    return lines


def check_best(out: Path, state: dict[str, Any], *, other_images: bool = False) -> str:
    """Forgets a best checkpoint that is gone, damaged or of other images; the next validation makes a new one."""
    if state["best"] is None:
        return ""
    path = out / "checkpoints" / f"step-{state['best']}"
    if other_images:
        line = f"the best checkpoint so far (iteration {state['best']}) was chosen on other validation data"
    else:
        try:
            checkpoint.verify(path)
            return ""
        except DamagedCheckpoint as error:
            line = f"warning: the best checkpoint is lost ({error})"
    state["best"], state["best_results"], state["stale"] = None, None, 0
    checkpoint.unpoint(out / "checkpoints", "best")
    return f"{line}; the next validation makes a new one"
