"""Reads a run folder: settings, metrics, scores. Never imports torch."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FovealError
from ..files.atomic import read_derived, read_object
from ..files.outputs import output_kind


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read."""

    path: Path
    run: dict[str, Any]  # run.json
    metrics: list[dict[str, Any]]  # metrics.jsonl
    results: dict[str, Any]  # results.json; empty until the run has ended, and where it is damaged

    def __post_init__(self) -> None:
        if not isinstance(self.run.get("arguments", {}), dict):
            raise FovealError("expected an object", path=self.path / "run.json", where="arguments")

    def series(self, split: str, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one number: ``series("val", "AP")``."""
        numbers = (int, float)
        rows = [
            r
            for r in self.metrics
            if r.get("split") == split and isinstance(r.get(name), numbers) and isinstance(r.get("step"), numbers)
        ]
        return [int(r["step"]) for r in rows], [float(r[name]) for r in rows]

    def losses(self, split: str) -> list[str]:
        """The names of the loss and its parts in the log, ``loss`` first."""
        known = ("epoch", "step", "split", "lr", "images_per_second")
        names: dict[str, None] = {}
        for row in self.metrics:
            if row.get("split") == split:
                names |= dict.fromkeys(n for n in row if n not in known and not n.startswith(("seconds_", "AP", "AR")))
        return sorted(names, key=lambda n: n != "loss")


def read_record(path: str | Path) -> RunRecord:
    """Raises :class:`FovealError` where the folder is no run or its files cannot be read."""
    path = Path(path)
    if not (path / "run.json").is_file():
        what = output_kind(path)
        message = f"{what}, not a run" if what else "no run here (run.json is missing)"
        raise FovealError(message, path=path, fix="Give the folder that --out named")
    run = read_object(path / "run.json")
    results = read_derived(path / "results.json")
    if not results and (path / "results.json").exists():
        message = "%s: cannot be read, as if the run had not ended; train --resume writes it again"
        logging.getLogger("foveal").warning(message, path / "results.json")
    metrics = []
    if (path / "metrics.jsonl").exists():
        data = (path / "metrics.jsonl").read_bytes()
        for number, line in enumerate(data.splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                if number == data.count(b"\n") + 1:  # cut: the process was killed, or is writing it
                    break
                raise FovealError("not JSON", path=path / "metrics.jsonl", where=f"line {number}") from None
            if not isinstance(row, dict):
                kind, where = type(row).__name__, f"line {number}"
                raise FovealError(f"expected an object, found {kind}", path=path / "metrics.jsonl", where=where)
            metrics.append(row)
    return RunRecord(path, run, metrics, results)
