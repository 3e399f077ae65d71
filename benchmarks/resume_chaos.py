"""Kills training runs at random moments, resumes them, and compares the bits with an uninterrupted run.

    python benchmarks/resume_chaos.py --chains 50                        # small detectors of every family, in turn
    python benchmarks/resume_chaos.py --families detr,ema --chains 6
    python benchmarks/resume_chaos.py --preset retinanet_mini --data DATA --chains 10

Every chain is stopped one to four times, at moments drawn over the length of the uninterrupted run: by SIGKILL, which
nothing can prepare for, or by SIGTERM, which saves first; sent to the run's processes or to the first one alone. Then
it finishes. Weights, optimizer state and results must be bit-identical; what SIGKILL costs must be at most the time
between two checkpoints and one iteration, and SIGTERM nothing. Exit status 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the detectors of the tests
from forked import Process, load_everything  # noqa: E402

FILES = ("model.safetensors", "raw.safetensors", "optimizer.safetensors")
QUIET = ("--device", "cpu", "--no-tensorboard", "--no-report")
LONGEST = 300.0  # seconds of a run that is taken to hang
STEPS = 1 << 16  # of which the time is noted
SCRIPT = "from foveal.cli.main import run\nrun()\n"

# name of a stored run of the tests, what is changed, and options of ``foveal train``
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "one_stage": ("retinanet", ("fit.epochs=3", "fit.augment=(HorizontalFlip(),)"), ()),
    "yolo": ("yolo_v3", ("fit.epochs=3",), ("--workers", "2")),
    "two_stage": ("faster_rcnn", ("fit.epochs=3", "fit.solver=SGD()"), ()),
    "rcnn": ("rcnn", ("fit.batch=16", "fit.epochs=2"), ()),
    "spp_net": ("spp_net", ("fit.batch=16", "fit.epochs=2"), ()),
    "alternation": ("faster_rcnn_alternating", ("fit.epochs=1",), ()),
    "detr": ("detr", ("fit.epochs=3", "head.dropout=0.1"), ()),
    "accumulation": ("retinanet", ("fit.epochs=3", "fit.batch=4", "fit.accumulate=2"), ()),
    "two_processes": ("retinanet", ("fit.epochs=3",), ("--devices", "2")),
    "ema": ("fcos", ("fit.epochs=3", "fit.ema=0.9"), ()),
    "bf16": ("retinanet", ("fit.epochs=3",), ("--precision", "bf16")),
}


@dataclass(frozen=True)
class Case:
    """A training run to be stopped: what follows ``foveal train``."""

    name: str
    words: Sequence[str]


class Progress:
    """When each iteration ended, by :func:`time.monotonic`: noted by the training process, read by this one."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * STEPS)

    def watch(self) -> None:
        """Notes the iterations of every training run in this process and those forked from it."""
        from foveal.training.loop.loop import Loop

        original = Loop._update

        def update(loop: Loop, *parts: Any) -> None:
            original(loop, *parts)
            struct.pack_into("d", self._memory, 8 * loop.state.updates, time.monotonic())

        Loop._update = update  # type: ignore[method-assign]

    def clear(self) -> None:
        self._memory[:] = bytes(8 * STEPS)

    def times(self) -> dict[int, float]:
        """Step -> when it ended, since :meth:`clear`."""
        every = struct.unpack(f"{STEPS}d", self._memory)
        return {step: at for step, at in enumerate(every) if at}


@dataclass
class Lost:
    """What the stops of all chains cost."""

    kills: int = 0
    terms: int = 0
    iterations: int = 0  # the most that one stop cost
    wrong: list[str] = field(default_factory=list)

    def add(self, out: Path, times: Mapping[int, float], save_every: float, number: int) -> None:
        """Compares the newest checkpoint with the iterations before the stop."""
        from foveal.checkpoints.folder import steps

        saved = max(steps(out / "checkpoints"), default=0)
        after = {step: at for step, at in times.items() if step > saved}
        if number == signal.SIGTERM:
            self.terms += 1
            if after:
                self.wrong.append(f"SIGTERM cost {len(after)} iterations")
            return
        self.kills += 1
        self.iterations = max(self.iterations, len(after))
        if len(after) < 2:
            return
        # the first of these may have ended just after a checkpoint; a checkpoint follows the iteration (with its
        # validation) in which the time is up, and was being written when the process was killed
        ordered = sorted(times.values())
        longest = max(b - a for a, b in pairwise(ordered))
        cost = max(after.values()) - min(after.values())
        if cost > save_every + 2 * longest:
            self.wrong.append(f"SIGKILL cost {cost:.2f} s of training, a checkpoint is due every {save_every} s")


def outcome(out: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    from foveal.checkpoints.folder import Run

    last, best = Run(out).last, Run(out).best
    found: dict[str, Any] = {name: (last / name).read_bytes() for name in FILES if (last / name).exists()}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found["lines"] = [{k: v for k, v in row.items() if "second" not in k} for row in lines]
    found["best"] = (best / "model.safetensors").read_bytes()
    return found | {"results": (out / "results.json").read_bytes()}


class Chains:
    """Chains of stops of one case."""

    def __init__(self, case: Case, root: Path, progress: Progress, lost: Lost, save_every: float) -> None:
        self.case, self.root, self.progress, self.lost, self.save_every = case, root, progress, lost, save_every
        root.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        whole = self._start(root / "whole")
        ended = whole.finish(LONGEST)
        if ended.status:
            raise SystemExit(f"{case.name}: the uninterrupted run fails: {ended.err}{ended.out}")
        self.seconds, self.expected = time.monotonic() - began, outcome(root / "whole")
        print(f"{case.name}: uninterrupted {self.seconds:.1f} s", flush=True)

    def run(self, number: int, rng: random.Random) -> bool:
        """One chain; whether it ends with the same bits."""
        out, stops = self.root / f"chain-{number}", []
        for _ in range(rng.randint(1, 4)):
            self.progress.clear()
            process, delay = self._start(out), rng.uniform(0.05, 0.95) * self.seconds
            kind = rng.choice((signal.SIGKILL, signal.SIGTERM))
            group = kind == signal.SIGKILL or rng.random() < 0.5
            if process.wait(delay):
                break
            process.kill(kind, group=group)
            ended = process.finish(LONGEST)
            stops.append(f"{kind.name} {delay:.2f} s")
            if ended.status not in (-kind, 128 + kind, 0) or "Traceback" in ended.err:
                self.lost.wrong.append(f"{self.case.name}: {kind.name}: status {ended.status}: {ended.err[-300:]}")
            self.lost.add(out, self.progress.times(), self.save_every, kind)
        ended = self._start(out).finish(LONGEST)
        if ended.status:
            print(f"{self.case.name} {number}: stopped by {', '.join(stops)}: cannot be resumed: {ended.err[-500:]}")
            return False
        found = outcome(out)
        different = [name for name, value in found.items() if value != self.expected.get(name)]
        text = f"{', '.join(different)} differ" if different else "bit-identical"
        print(f"{self.case.name} {number}: stopped by {', '.join(stops) or 'nothing'}: {text}", flush=True)
        if not different:
            shutil.rmtree(out)
        return not different

    def _start(self, out: Path) -> Process:
        root = self.root.parent
        words = ["train", *self.case.words, "--out", str(out), "--resume", *QUIET]

        def call() -> None:
            from foveal.cli.main import run

            sys.argv = [str(root / "training.py"), *words]  # which other processes of the run are started with, too
            run()

        return Process(call, root, self.root)


def cases(options: argparse.Namespace, root: Path) -> Iterator[Case]:
    """The runs that the command line names."""
    often = ["--save-every", str(max(options.save_every, 0.001))]  # 0: after every iteration
    if options.preset:
        words = [options.preset, "--data", options.data, "--limit", str(options.limit), "--batch", str(options.batch)]
        words += ["--epochs", str(options.epochs)] if options.epochs else []
        yield Case(options.preset, [*words, "--workers", str(options.workers), *often, *options.overrides])
        return
    from fault_scenarios import store

    from foveal.config.overrides import override
    from foveal.data.synthetic.shapes import CLASSES, make_shapes
    from tests.golden.make import spec_of

    make_shapes(root / "shapes", splits={"train": 8, "val": 2}, size=(96, 72), seed=1, masks=False)
    os.environ["FOVEAL_CACHE"] = str(root / "cache")
    for name in options.families.split(",") if options.families else FAMILIES:
        stored, overrides, more = FAMILIES[name]
        store(str(root / name / "model"), override(spec_of(stored), list(overrides)), CLASSES)
        words = [str(root / name / "model"), "--data", str(root / "shapes"), "--workers", "0", "--precision", "32"]
        yield Case(name, [*words, *more, *often])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", help=f"of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--preset", help="a preset of its own size on --data, instead of small families on shapes")
    parser.add_argument("--data")
    parser.add_argument("--chains", type=int, default=10, help="of all families together")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument(
        "--epochs", type=int, default=2, help="0: the preset's default, for recipes with several kinds of stages"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.data and not options.preset:
        options.preset = "retinanet_mini"
    if options.data:
        options.data = str(Path(options.data).resolve())
    root = options.out.resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "training.py").write_text(SCRIPT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    load_everything()
    progress, lost, rng = Progress(), Lost(), random.Random(options.seed)
    progress.watch()
    prepared = list(cases(options, root))
    equal = done = 0
    for index, case in enumerate(prepared):
        share = range(index, options.chains, len(prepared))
        if share:
            chains = Chains(case, root / case.name, progress, lost, options.save_every)
            for number in share:
                equal, done = equal + chains.run(number, rng), done + 1
    print(f"{equal} of {done} bit-identical; {lost.kills} SIGKILL, {lost.terms} SIGTERM; ", end="")
    print(f"a SIGKILL cost {lost.iterations} iterations at most, a SIGTERM none" if not lost.wrong else "but:")
    print("".join(f"  {line}\n" for line in lost.wrong), end="")
    return 0 if equal == done and not lost.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
