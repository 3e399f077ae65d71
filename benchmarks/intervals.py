"""Intervals of scores: how often they hold the truth, how often equal detectors are told apart, and their speed.

    python benchmarks/intervals.py [--only coverage|equal|planted|speed] [--pairs 1000 --sizes 60 120 500 --hotcoco 250]

Runs and images are simulated (``tests/helpers/simulated_runs.py``): images are hard for all runs alike, the seeds of a
recipe differ in quality. The truth is the mean over all simulated sets. hotcoco's own intervals stand beside ours.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, setup

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation import make

from foveal.evaluation import DetectionTable, GroundTruth, compare_pairs, score_detections
from foveal.evaluation.statistics.intervals import intervals_of
from foveal.evaluation.statistics.resampling import leave_one_out
from tests.helpers.simulated_runs import make_objects, make_run

GAIN = 0.081  # in quality: .05 of AP
SEEDS = 0.015  # standard deviation of quality over seeds: about .010 of AP


# -------------------------------------------------------------------------------------------------- coverage
def coverage(args: argparse.Namespace) -> None:
    """One run a side, the candidate better by about .012 of AP; three classes."""
    for images in args.sizes:
        rows, theirs = [], []
        for n in range(args.pairs):
            rng = np.random.default_rng([1, images, n])
            objects = make_objects(rng, images)
            runs = [make_run(rng, objects, quality) for quality in (0.70, 0.72)]
            got = compare_pairs(objects.table, *runs, resamples=args.resamples)
            kinds = {name: got.numbers[name] for name in ("AP", "AP50", "AR100")}
            kinds["AP of a class"] = got.per_class["class 0"]["AP"]
            single = intervals_of(score_detections(objects.table, runs[0]).run, args.resamples)
            values = [(d.value, d.low, d.high, d.se_images) for d in kinds.values()]
            one = single.numbers["AP"]
            values.append((got.numbers["AP"].baseline, one.low, one.high, one.se))
            rows.append(values)
            if n < args.hotcoco and find_spec("hotcoco") is not None:
                theirs.append(hotcoco_bounds(objects.table, runs, args.resamples))
        table = np.array(rows, float)  # (pairs, numbers, 4)
        truth = np.nanmean(table[:, :, 0], 0)
        print(f"coverage of the 95 % interval, {args.pairs} pairs of {images} images, {args.resamples} resamples")
        names = [*(f"difference of {name}" for name in kinds), "AP of one run"]
        for k, name in enumerate(names):
            show(name, table[:, k], truth[k])
        if theirs:
            show(f"hotcoco, difference of AP ({len(theirs)} pairs)", np.array(theirs, float), truth[0])


def show(name: str, rows: Any, truth: float) -> None:
    """``rows`` (n, 4): value, low, high, standard error."""
    judged = ~np.isnan(rows[:, 1])
    rows = rows[judged]
    if len(rows) < 2:
        print(f"  {name:<40} {len(judged) - len(rows)} not judged", flush=True)
        return
    held = ((rows[:, 1] <= truth) & (truth <= rows[:, 2])).mean()
    left = f", {len(judged) - judged.sum()} not judged" if not judged.all() else ""
    print(
        f"  {name:<40} held {held:6.1%}  standard error {rows[:, 3].mean():.4f}, truth {rows[:, 0].std(ddof=1):.4f}"
        f"{left}",
        flush=True,
    )


def hotcoco_bounds(truth: GroundTruth, runs: list[DetectionTable], resamples: int) -> tuple[float, ...]:
    """hotcoco's difference of AP: value, low, high, standard error."""
    import hotcoco

    def rows(part: GroundTruth | DetectionTable) -> list[dict[str, Any]]:
        xywh = np.concatenate([part.box[:, :2], part.box[:, 2:] - part.box[:, :2]], 1).tolist()
        ids = enumerate(zip(part.image.tolist(), part.label.tolist(), xywh, part.pixels().tolist(), strict=True), 1)
        return [
            {"id": n, "image_id": i + 1, "category_id": k + 1, "bbox": b, "area": a, "iscrowd": 0}
            for n, (i, k, b, a) in ids
        ]

    head = {
        "images": [{"id": i + 1, "height": 400, "width": 400} for i in range(len(truth.images))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(truth.classes)],
    }
    objects = hotcoco.COCO(head | {"annotations": rows(truth)})
    scored = []
    for run in runs:
        found = [row | {"score": s} for row, s in zip(rows(run), run.score.tolist(), strict=True)]
        scorer = hotcoco.COCOeval(objects, objects.load_res(found), "bbox")
        scorer.evaluate()
        scored.append(scorer)
    got = hotcoco.compare(*scored, n_bootstrap=resamples)
    ci = got["ci"]["AP"]
    return got["deltas"]["AP"], ci["lower"], ci["upper"], ci["std_err"]


# ---------------------------------------------------------------------------------------------- equal, planted
def verdicts(title: str, args: argparse.Namespace, pairs: int, images: int, seeds: int, gain: float) -> None:
    """Pairs of recipes that differ by ``gain`` in quality, with ``seeds`` runs a side."""
    counts: dict[str, int] = {"better": 0, "worse": 0, "cannot tell": 0}
    values, spreads, unexplained = [], [], 0
    for n in range(pairs):
        rng = np.random.default_rng([2, images, seeds, n, int(1000 * gain)])
        objects = make_objects(rng, images)
        sides = [
            [make_run(rng, objects, quality) for quality in rng.normal(0.70 + extra, SEEDS, seeds)]
            for extra in (0.0, gain)
        ]
        d = compare_pairs(objects.table, *sides, resamples=args.resamples).numbers["AP"]
        counts[d.verdict] += 1
        unexplained += d.verdict == "cannot tell" and not d.reason
        values.append(d.value or 0.0)
        spreads.append(np.hypot(d.se_images or 0.0, d.se_seeds or 0.0))
    shares = ", ".join(f"{name} {count / pairs:.1%}" for name, count in counts.items())
    print(f"{title}, {pairs} pairs, {images} images, {seeds} run(s) a side: {shares}")
    print(
        f"  mean difference of AP {np.mean(values):+.4f}, its standard deviation {np.std(values, ddof=1):.4f} "
        f"(estimated {np.mean(spreads):.4f}); cannot tell without a reason: {unexplained}",
        flush=True,
    )


def equal(args: argparse.Namespace) -> None:
    for images in args.sizes:
        verdicts("equal", args, args.equal, images, 3, 0.0)


def planted(args: argparse.Namespace) -> None:
    for seeds in (1, 3):
        verdicts("+.05 of AP", args, args.equal, 500, seeds, GAIN)


# -------------------------------------------------------------------------------------------------------- speed
def speed(args: argparse.Namespace) -> None:
    sizes = {
        "200 images x 3 classes": (200, 600, 3, 10),
        f"{args.images} images x 80 classes": (args.images, 36_000 * args.images // 5000, 80, 50),
    }
    for title, size in sizes.items():
        truth, first = make(*size, seed=0)
        second = first[np.arange(len(first)) % 50 > 0]
        start = time.perf_counter(), time.process_time()
        got = compare_pairs(truth, first, second, resamples=1000)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(
            f"{title}, {len(first)} detections: pair with 1,000 resamples of all numbers {wall:.2f} s (CPU {cpu:.2f} s)"
        )
        run = score_detections(truth, first)
        start = time.perf_counter(), time.process_time()
        shown = intervals_of(run.run)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"  intervals of one run, as eval has them ({shown.resamples} resamples) {wall:.2f} s (CPU {cpu:.2f} s)")
        start = time.perf_counter(), time.process_time()
        leave_one_out(run.run.ranked)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"  every image left out {wall:.2f} s (CPU {cpu:.2f} s)")
        start = time.perf_counter(), time.process_time()
        counts = run.errors.false_detections()
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"  kinds of errors {wall:.3f} s (CPU {cpu:.3f} s), {sum(counts.values())} false detections")
        assert got.numbers["AP"].low is not None


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--pairs", type=int, default=1000, help="pairs of runs of each size for the coverage")
    p.add_argument("--equal", type=int, default=200, help="pairs of recipes")
    p.add_argument("--sizes", type=int, nargs="+", default=[60, 120, 500], help="images of a set")
    p.add_argument("--resamples", type=int, default=1000)
    p.add_argument("--hotcoco", type=int, default=250, help="of the pairs, those that hotcoco compares too")
    p.add_argument("--images", type=int, default=5000, help="images of the large set whose speed is measured")
    args = setup(p)
    for name, part in (("coverage", coverage), ("equal", equal), ("planted", planted), ("speed", speed)):
        if args.only in name:
            part(args)


if __name__ == "__main__":
    main()
