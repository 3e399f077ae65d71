"""Several runs that differ only in their seed, and the mean and standard deviation of their results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.folder import Run
from ..files.atomic import write_json


def train_seeds(one: Callable[[int], Run], out: Path, seeds: Sequence[int], *, write: bool) -> Run:
    """Calls ``one(seed)`` for every seed and writes mean and standard deviation to ``out/results.json``."""
    runs = tuple(map(one, seeds))
    if write:
        write_json(out / "results.json", summarize_seeds([run.results for run in runs], seeds))
    return Run(out, runs)


def summarize_seeds(results: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The results.json of several runs: the mean of every score, and its sample standard deviation as ``spread``.

    Both are of the weights that are kept, and under ``last`` of the last ones. A score that is undefined in one run is
    undefined in the mean.
    """
    head: dict[str, Any] = {
        name: results[0][name] for name in ("protocol", "split", "images", "keep") if name in results[0]
    }
    return {
        **head,
        **_means(results),
        "seeds": list(seeds),
        "spread": _spreads(results),
        "last": {**_means([r["last"] for r in results]), "spread": _spreads([r["last"] for r in results])},
        "runs": [
            {"seed": seed, "AP": r["AP"], "last": {"AP": r["last"]["AP"]}}
            for seed, r in zip(seeds, results, strict=True)
        ],
    }


def _numbers(results: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    names = [n for n in results[0] if n.startswith(("AP", "AR"))]
    return {name: [r[name] for r in results] for name in names}


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    return {
        name: None if None in values else statistics.fmean(v for v in values if v is not None)
        for name, values in _numbers(results).items()
    }


def _spreads(results: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    return {
        name: None if None in values or len(values) < 2 else statistics.stdev(v for v in values if v is not None)
        for name, values in _numbers(results).items()
    }
