"""The sides of a comparison: runs that differ in their seed alone are one side, and what the sides differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FovealError
from ..read_run import RunRecord, read_record
from .settings import flat

SEED = "seed"
ROOT = "spec"  # the setting that is the class of the detector
LOSS_WORDS = ("loss", "normalizer", "quality", "weight", "label_smoothing")


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same on all sides."""

    name: str
    values: tuple[str, ...]  # of each side; "-" where it has none
    folded: int = 0  # settings below it that differ because it does


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The runs in ``paths``: the folder of ``train --seeds`` stands for its runs. Each folder counts once."""
    found: dict[Path, Path] = {}
    for path in paths:
        seeds = [] if (path / "run.json").exists() else sorted(path.glob("seed-*/run.json"), key=_number)
        for run in [file.parent for file in seeds] or [path]:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _number(file: Path) -> tuple[int, str]:
    text = file.parent.name.partition("-")[2]
    return (int(text) if text.isdigit() else 0, text)


def finished_records(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs, read. Raises :class:`FovealError` for one that has not ended."""
    records = [read_record(path) for path in paths]
    for record in records:
        if not record.results:
            where, why = "results.json", "the run has not ended: there are no results"
        elif record.results.get("ended", True) in ("", None):
            where, why = "results.json", "the run has not ended"
        else:
            continue
        fix = f"Let it end, or continue it: foveal train --resume --out {record.path}"
        raise FovealError(f"{why} ({where})", path=record.path, fix=fix)
    return records


def side_groups(records: Sequence[RunRecord]) -> list[list[int]]:
    """Indices of the runs of each side, in the order given. Where all differ in the seed alone, each is a side."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, record in enumerate(records):
        settings = flat(record.run, record.path)
        groups.setdefault(tuple((k, v) for k, v in settings.items() if k != SEED), []).append(index)
    if len(groups) == 1:
        return [[index] for index in range(len(records))]
    return list(groups.values())


def setting_differences(records: Sequence[RunRecord]) -> list[SettingDifference]:
    """The settings in which these runs (one of each side) differ, without the seed.

    Where a part is another, settings that only one of the two parts has are counted at the part and not listed.
    """
    settings = [flat(record.run, record.path) for record in records]
    keys = list(dict.fromkeys(key for s in settings for key in s if key != SEED))
    rows = {k: tuple(s.get(k, "-") for s in settings) for k in keys}
    rows = {k: values for k, values in rows.items() if len(set(values)) > 1}
    folded: dict[str, int] = {}
    for key, values in rows.items():
        owner = _owner(key, rows)
        if "-" in values and owner is not None:
            folded[owner] = folded.get(owner, 0) + 1
    return [
        SettingDifference(key, values, folded.get(key, 0))
        for key, values in rows.items()
        if "-" not in values or _owner(key, rows) is None
    ]


def _owner(key: str, rows: dict[str, tuple[str, ...]]) -> str | None:
    """The highest part above a setting that is itself another on the sides."""
    parts = key.split(".")
    above = [ROOT, *(".".join(parts[:k]) for k in range(1, len(parts)))]
    return next((part for part in above if part in rows and part != key), None)


def loss_definition(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """What decides the value of a run's losses: two runs with the same may share an axis."""
    settings = flat(record.run, record.path)
    whole = (ROOT, "cfg")  # a cfg holds the losses of its network
    chosen = {k: v for k, v in settings.items() if k in whole or any(word in k for word in LOSS_WORDS)}
    chosen = {k: v for k, v in chosen.items() if not k.startswith(("fit.", "backbone", "weights", "initial"))}
    names = sorted(set(record.losses("train")))
    return (*sorted(chosen.items()), ("losses", ", ".join(names)))


def letter(index: int) -> str:
    """A, B, ... Z, AA, ..."""
    return chr(65 + index) if index < 26 else letter(index // 26 - 1) + letter(index % 26)
