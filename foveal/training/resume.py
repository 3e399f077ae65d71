"""Resuming a run: its newest checkpoint, and whether the call matches it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import folder as checkpoint
from ..checkpoints.folder import Content, DamagedCheckpoint
from ..config.overrides import difference
from ..errors import UsageError

if TYPE_CHECKING:
    from ..assembly.detector import Spec

STRICT = {  # what decides the numbers; the number of processes does too, but a run may have to move
    "seed": "--seed",
    "batch_size": "--batch",
    "data": "the training data",
    "proposals": "the proposals of the training data",
    "val_data": "the validation data",  # APs of two sets cannot be compared, and the best is by AP
}


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


def kept_convention(out: Path) -> str | None:
    """The convention of the boxes that a run was started with, from its run.json."""
    try:
        arguments = json.loads((out / "run.json").read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError, KeyError):
        return None
    return arguments.get("convention") if isinstance(arguments, dict) else None


def check_same(
    resumed: Content, spec: Spec, described: dict[str, Any], fixed: dict[str, Any], parts: Sequence[type] = ()
) -> str:
    """Raises :class:`UsageError` where the call differs from the one that started the run. Returns a warning or ""."""
    changes = _changes(resumed, spec, parts) if resumed.spec["spec"] != described["spec"] else ""
    if changes:
        raise UsageError(f"the run has another spec: {changes}", fix="Resume with the same settings")
    if resumed.spec["classes"] != described["classes"]:
        old, new = ", ".join(resumed.spec["classes"]), ", ".join(described["classes"])
        raise UsageError(f"the run has the classes {old}; the data has {new}")
    for name, option in STRICT.items():
        old, new = resumed.state.get(name, fixed[name]), fixed[name]
        if old != new:
            values = (
                "changed since the run began" if name.endswith(("data", "proposals")) else f"was {old} and is {new}"
            )
            raise UsageError(f"{option} {values}", fix="Resume with the same, or start another run with --weights")
    if resumed.state["processes"] != fixed["processes"]:
        old, new = resumed.state["processes"], fixed["processes"]
        return f"warning: {new} processes resume a run of {old}; the result will not be bit-identical"
    return ""


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


def check_best(out: Path, state: dict[str, Any]) -> str:
    """Forgets a best checkpoint that is gone or damaged, so that the next validation makes a new one."""
    if state["best"] is None:
        return ""
    path = out / "checkpoints" / f"step-{state['best']}"
    try:
        checkpoint.verify(path)
    except DamagedCheckpoint as error:
        state["best"], state["best_results"], state["stale"] = None, None, 0
        (out / "checkpoints" / "best").unlink(missing_ok=True)
        return f"warning: the best checkpoint is lost ({error}); the next validation makes a new one"
    return ""


def _changes(resumed: Content, spec: Spec, parts: Sequence[type]) -> str:
    """How the stored spec differs; nothing where an earlier version wrote the same spec in other words."""
    from ..config.parse import parse_spec, stored_modules

    changes = difference(parse_spec(resumed.spec["spec"], parts=parts, modules=stored_modules(resumed.spec)), spec)
    return "; ".join(f"{path} was {old} and is {new}" for path, old, new in changes[:5])
