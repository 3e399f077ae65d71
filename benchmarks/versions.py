"""This checkout against another one of foveal: the same benchmark in two processes, their rounds interleaved.

    git worktree add ../before <commit>
    python benchmarks/versions.py --before ../before --script training.py [--rounds 9] [options of training.py]

Each process imports the benchmark and the package of its own checkout. Contenders are compared by position, so the
two versions of the benchmark need the same contenders in the same order.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve()


# ------------------------------------------------------------------------------------------------- a worker
def serve(replies: TextIO, title: str, contenders: Mapping[str, Callable[[], object]], min_time: float) -> None:
    """Announces a race, then times the contender whose index each line of the standard input names, until "end"."""
    calls = list(contenders.values())
    send(replies, {"title": title, "labels": list(contenders)})
    loops: dict[int, int] = {}
    while (command := sys.stdin.readline().strip()) not in ("", "end"):
        index = int(command)
        if index not in loops:
            calls[index]()  # the first call pays for lazy set-up
            start = time.perf_counter()
            calls[index]()
            loops[index] = max(1, round(min_time / (time.perf_counter() - start)))
        gc.collect()
        start = time.perf_counter()
        for _ in range(loops[index]):
            calls[index]()
        send(replies, {"seconds": (time.perf_counter() - start) / loops[index]})


def send(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def work(checkout: Path, script: str, arguments: list[str]) -> None:
    """Runs the benchmark of a checkout with races that are timed from outside."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the benchmark prints is not a reply
    sys.path[:0] = [str(checkout), str(checkout / "benchmarks")]
    import common  # of that checkout

    def race(
        title: str, contenders: Mapping[str, Any], rounds: int = 5, min_time: float = 0.0, *_: Any, **__: Any
    ) -> dict[str, float]:
        serve(replies, title, contenders, min_time)
        return dict.fromkeys(contenders, 1.0)

    common.race = race
    sys.argv = [script, *arguments]
    runpy.run_path(str(checkout / "benchmarks" / script), run_name="__main__")
    send(replies, {})


# ------------------------------------------------------------------------------------------------ the driver
class Worker:
    """A process that runs the benchmark of one checkout."""

    def __init__(self, checkout: Path, script: str, arguments: list[str]) -> None:
        # -O: a benchmark's own assertions are not the subject here
        command = [sys.executable, "-O", str(HERE), "--worker", str(checkout), script, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        log = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        self.checkout = checkout

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.checkout}: the benchmark ended with status {self.process.wait()}")
        return dict(json.loads(line))

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.communicate()

    def seconds(self, index: int) -> float:
        self.tell(str(index))
        return float(self.receive()["seconds"])


def compare(now: Worker, before: Worker, rounds: int) -> None:
    """Prints, for each contender of foveal's, the medians of both versions and the median of the rounds' ratios."""
    while (race := now.receive()) and (other := before.receive()):
        assert len(race["labels"]) == len(other["labels"]), f"{race['labels']} against {other['labels']}"
        print(f"\n{race['title']}\n{'':44s} {'before ms':>10s} {'now ms':>10s} {'now / before':>13s}", flush=True)
        for index, label in enumerate(race["labels"]):
            if "foveal" not in label.lower():
                continue
            pairs = []
            for k in range(rounds):
                first, second = (now, before) if k % 2 else (before, now)
                times = {first: first.seconds(index), second: second.seconds(index)}
                pairs.append((times[before], times[now]))
            old, new = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"{label:44s} {old:10.1f} {new:10.1f} {ratio:12.3f}x", flush=True)
        for worker in (now, before):
            worker.tell("end")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return work(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--before", type=Path, required=True, help="another checkout of foveal")
    p.add_argument("--script", required=True, help="a benchmark that both have: training.py")
    p.add_argument("--rounds", type=int, default=9)
    args, rest = p.parse_known_args()
    now, before = (Worker(path.resolve(), args.script, rest) for path in (HERE.parents[1], args.before))
    compare(now, before, args.rounds)
    for worker in (now, before):
        worker.close()


if __name__ == "__main__":
    main()
