"""Which parts of a recipe help on few images: a screening of levers over datasets and seeds, at equal minutes.

    python benchmarks/recipes.py --data DATA --out runs/recipes                  # 4 sets x 3 seeds x 16 runs of 10 min
    python benchmarks/recipes.py --data DATA --out runs/recipes --shard 1/2      # and 2/2 at once, a core each
    python benchmarks/recipes.py --out runs/recipes --summary                    # the table of what is there
    python benchmarks/recipes.py --tiny                                          # seconds: does it run at all

A block is a dataset with a seed. In each block every lever is off in half of the runs and on in the other half, by a
two-level fractional factorial of resolution IV (16 runs for up to 8 levers): all runs count for every lever, and the
effect of one is free of those of pairs. Every run has one thread and the same wall minutes, loader and validation
included; its processor seconds are written beside them, and runs that got less than 90 % of a core are counted. The
score is that of the last weights (averaged, where that lever is on).

Each run is one line of ``runs-I.jsonl``. Called again, complete runs are kept and an interrupted one starts anew. The
summary takes complete blocks alone. The effect of a lever is the mean over sets of the mean over seeds of (mean score
on - mean score off); its interval is the bootstrap of sets, and of the seeds of each, widened by Student's t for the
number of sets. With several levers one may look different by chance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveal
from foveal.data.synthetic.shapes import make_shapes
from foveal.evaluation.statistics.intervals import bootstrap_bounds

RESAMPLES = 4000
BUSY = 0.9  # of a core: a run that got less is counted
TINY = ("input.short=64", "input.long=96", "fit.batch=2")


# ------------------------------------------------------------------------------------------------- the levers
@dataclass(frozen=True)
class Lever:
    """A part of the recipe that is off or on: transforms of ``fit.augment``, or overrides."""

    name: str
    augment: str = ""  # on
    off: tuple[str, ...] = ()
    on: tuple[str, ...] = ()


LEVERS = (  # in the order of fit.augment
    Lever("mosaic", "Mosaic()"),
    Lever("mix-up", "MixUp()"),
    Lever("large-scale jitter", "ScaleJitter(0.1, 2.0)"),
    Lever("color", "PhotometricDistortion()"),
    Lever("two stages frozen", off=("backbone.frozen_stages=0",), on=("backbone.frozen_stages=2",)),
    Lever("rates by depth", on=("fit.backbone_decay=0.1",)),
    Lever("averaged weights", off=("fit.ema=None",), on=("fit.ema=0.9999", "fit.ema_share=0.1")),
    Lever("repeat rare classes", on=("fit.repeat_threshold=0.3",)),
)


def overrides(levers: Sequence[Lever], levels: Sequence[bool]) -> tuple[str, ...]:
    """The overrides of one run; the flip is always there."""
    transforms = [lever.augment for lever, on in zip(levers, levels, strict=True) if on and lever.augment]
    words = [word for lever, on in zip(levers, levels, strict=True) for word in (lever.on if on else lever.off)]
    return (*words, f"fit.augment=({', '.join([*transforms, 'HorizontalFlip()'])},)", "fit.keep=last")


def design(levers: int) -> np.ndarray[Any, Any]:
    """(runs, levers) bool, a fractional factorial of resolution IV: 2^k runs for up to 2^(k - 1) levers.

    Run r of 2^k has the k basic factors as its bits; a lever is the parity of an odd number of them. The product of two
    such columns has an even number, so that no lever is confounded with a pair of others.
    """
    factors = 1
    while 2 ** (factors - 1) < levers:
        factors += 1
    odd = sorted((m for m in range(2**factors) if m.bit_count() % 2), key=int.bit_count)
    rows = [[bool((run & mask).bit_count() % 2) for mask in odd[:levers]] for run in range(2**factors)]
    return np.array(rows)


# --------------------------------------------------------------------------------------------------- the sets
def data_sets(folder: Path | None, out: Path, tiny: bool) -> dict[str, dict[str, Any]]:
    """Arguments of ``foveal.train`` for each set."""
    shapes = out / "shapes"
    if not shapes.exists():
        splits, size = ({"train": 6, "val": 2}, (96, 64)) if tiny else ({"train": 200, "val": 200}, (320, 256))
        make_shapes(shapes, splits=splits, size=size, seed=0, masks=False)
    sets: dict[str, dict[str, Any]] = {"shapes": {"data": shapes}}
    if tiny or folder is None:
        return sets
    photos = {"data": folder / "voc2012-catdogcar", "classes": ["cat", "dog", "car"]}
    cells, coco = {"data": folder / "bccd"}, {"data": folder / "coco128-train2017"}
    return {"bccd": cells, "catdogcar": photos, "coco128": coco, **sets}


# --------------------------------------------------------------------------------------------------- the runs
@dataclass(frozen=True)
class Planned:
    """One run of the screening."""

    block: str  # set and seed
    seed: int
    number: int
    levels: tuple[bool, ...]
    words: tuple[str, ...]
    digest: str  # of everything that makes it what it is

    @property
    def key(self) -> tuple[str, int, str]:
        return self.block, self.number, self.digest


def planned(args: argparse.Namespace, levers: Sequence[Lever], sets: Sequence[str]) -> Iterator[Planned]:
    """All runs, block after block; within one in a random order, so that no lever follows the time of day."""
    table = design(len(levers))
    for seed in range(args.seed, args.seed + args.seeds):
        for name in sets:
            for number in np.random.default_rng([seed, len(name)]).permutation(len(table)).tolist():
                levels = tuple(table[number].tolist())
                words = (*overrides(levers, levels), *(TINY if args.tiny else ()), *args.overrides)
                what = repr((args.preset, args.minutes, args.precision, args.tiny, seed, name, words))
                digest = hashlib.sha256(what.encode()).hexdigest()[:12]
                yield Planned(f"{name} seed {seed}", seed, number, levels, words, digest)


def train_one(run: Planned, data: Mapping[str, Any], args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One training, and its line."""
    shutil.rmtree(out, ignore_errors=True)  # of an interrupted call
    length = {"epochs": 1} if args.tiny else {"max_time": args.minutes * 60}
    began, processor = time.monotonic(), time.process_time()
    quiet = {"workers": 0, "tensorboard": False, "progress": False, "device": "cpu", "precision": args.precision}
    done = foveal.train(args.preset, overrides=run.words, seed=run.seed, out=out, **length, **quiet, **data)
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    results = done.results
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return {
        "block": run.block,
        "number": run.number,
        "digest": run.digest,
        "levels": list(run.levels),
        "overrides": list(run.words),
        "scores": {k: results["last"][k] for k in ("AP", "AP50", "AP75")},
        "iterations": results["steps"],
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
    }


def lines(out: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """The runs that are complete, by (block, number, digest); a line that a kill cut off is no run."""
    found = {}
    for path in sorted(out.glob("runs-*.jsonl")):
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            found[line["block"], line["number"], line["digest"]] = line
    return found


# ------------------------------------------------------------------------------------------------ the summary
def effects(blocks: Mapping[str, Mapping[tuple[bool, ...], float]]) -> np.ndarray[Any, Any]:
    """(blocks, levers): the mean score with each lever on less that with it off."""
    rows = []
    for scores in blocks.values():
        table, values = np.array(list(scores)), np.array(list(scores.values()))
        rows.append([values[on].mean() - values[~on].mean() for on in table.T])
    return np.array(rows)


def pooled(values: np.ndarray[Any, Any], sets: Sequence[str], seed: int = 0) -> tuple[float, float, float] | None:
    """The mean over sets of the means over their seeds, of ``values`` (blocks,), and its 95 % interval; None: no
    interval. ``sets`` (blocks,): the set of each block. With one set alone its seeds are resampled."""
    names, rng = sorted(set(sets)), np.random.default_rng(seed)
    groups = [np.array([v for v, s in zip(values, sets, strict=True) if s == name]) for name in names]
    value = float(np.mean([group.mean() for group in groups]))
    drawn = [
        np.mean([rng.choice(groups[g], len(groups[g])).mean() for g in rng.integers(0, len(groups), len(groups))])
        for _ in range(RESAMPLES)
    ]
    units = len(groups) if len(groups) > 1 else len(groups[0])
    bounds = bootstrap_bounds(value, np.array(drawn), units, fewest=2)
    return None if bounds is None else (value, bounds[0], bounds[1])


def summary(args: argparse.Namespace, levers: Sequence[Lever], sets: Sequence[str]) -> str:
    """The table of effects, from the blocks that are complete."""
    done = lines(args.out)
    runs: dict[str, list[Planned]] = {}
    for run in planned(args, levers, sets):
        runs.setdefault(run.block, []).append(run)
    complete = {block: own for block, own in runs.items() if all(run.key in done for run in own)}
    count = sum(run.key in done for own in runs.values() for run in own)
    text = [f"{count} of {sum(map(len, runs.values()))} runs, {len(complete)} of {len(runs)} blocks complete."]
    if not complete:
        return text[0]
    blocks = {b: {run.levels: done[run.key]["scores"][args.score] or 0.0 for run in own} for b, own in complete.items()}
    of = [block.rpartition(" seed ")[0] for block in blocks]
    table, names = effects(blocks), sorted(set(of))
    used = [done[run.key] for own in complete.values() for run in own]
    slow = sum(line["processor_seconds"] < BUSY * line["seconds"] for line in used)
    mean = np.mean([v for scores in blocks.values() for v in scores.values()])
    text += [
        f"{args.preset}, {args.minutes:g} minutes a run, {args.score} of the last weights, mean {mean:.4f}; "
        f"{slow} of {len(used)} runs had less than {BUSY:.0%} of a core.",
        "",
        f"| lever | effect | 95 % interval | verdict | {' | '.join(names)} |",
        f"|---|---|---|---|{'---|' * len(names)}",
    ]
    for k, lever in enumerate(levers):
        result, means = pooled(table[:, k], of), [table[[s == n for s in of], k].mean() for n in names]
        each = " | ".join(f"{m:+.4f}" for m in means)
        if result is None:
            text.append(f"| {lever.name} | {np.mean(means):+.4f} | needs two blocks | cannot tell | {each} |")
            continue
        value, low, high = result
        verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
        text.append(f"| {lever.name} | {value:+.4f} | {low:+.4f} to {high:+.4f} | {verdict} | {each} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="the folder of bccd and the other sets")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/recipes, with --tiny a temporary folder")
    parser.add_argument("--preset", default=None, help="default: retinanet_lite")
    parser.add_argument("--sets", default="", help="some of bccd,catdogcar,coco128,shapes; default: all of them")
    parser.add_argument("--levers", default="", help="some of the levers, by name: mosaic,color")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--score", default="AP50", choices=("AP", "AP50", "AP75"))
    parser.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"))
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="this process makes every N-th run")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    parser.add_argument("--tiny", action="store_true", help="two levers, one set of six images, one epoch")
    parser.add_argument("overrides", nargs="*", help="key=value for all runs")
    args = parser.parse_args()
    args.preset = args.preset or ("retinanet_mini" if args.tiny else "retinanet_lite")
    args.seeds = 1 if args.tiny else args.seeds
    chosen = args.levers.split(",") if args.levers else [lever.name for lever in (LEVERS[:2] if args.tiny else LEVERS)]
    unknown = set(chosen) - {lever.name for lever in LEVERS}
    if unknown:
        parser.error(f"--levers: {', '.join(sorted(unknown))}: not among {', '.join(lever.name for lever in LEVERS)}")
    levers = [lever for lever in LEVERS if lever.name in chosen]
    if args.data is None and not (args.summary or args.tiny or args.sets == "shapes"):
        parser.error("--data: give the folder of the sets, or --sets shapes")
    if args.seeds < 1 or args.minutes <= 0 or not re.fullmatch(r"[1-9]\d*/[1-9]\d*", args.shard):
        parser.error("--seeds is at least 1, --minutes more than 0, --shard I/N as in 1/2")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        args.out = args.out or Path(temporary if args.tiny else "runs/recipes")
        screen(parser, args, levers)


def screen(parser: argparse.ArgumentParser, args: argparse.Namespace, levers: Sequence[Lever]) -> None:
    """The runs that are missing, and the summary."""
    args.out.mkdir(parents=True, exist_ok=True)
    known = data_sets(args.data or (Path("DATA") if args.summary else None), args.out, args.tiny)
    names = args.sets.split(",") if args.sets else list(known)
    if set(names) - set(known):
        parser.error(f"--sets: {', '.join(sorted(set(names) - set(known)))}: not among {', '.join(known)}")
    share, shares = map(int, args.shard.split("/"))
    done = lines(args.out)
    for turn, run in enumerate(planned(args, levers, names)):
        if args.summary or turn % shares != share - 1 or run.key in done:
            continue
        name = run.block.rpartition(" seed ")[0]
        line = train_one(run, known[name], args, args.out / f"run-{run.digest}")
        with (args.out / f"runs-{share}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{run.block}, run {run.number}: {args.score} {line['scores'][args.score]}", flush=True)
    text = summary(args, levers, names)
    (args.out / "summary.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
