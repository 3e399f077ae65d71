"""Kills training runs at random moments, resumes them, and compares the bits with an uninterrupted run.

    python benchmarks/resume_chaos.py --preset retinanet_mini --data DATA --chains 10

Every chain is killed (SIGKILL) one to four times, at moments drawn over the length of the uninterrupted run, then
finishes. Weights, optimizer state and results must be bit-identical. Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import json, sys
from foveal.training.run import train
train(**json.loads(sys.argv[1]))
"""
FILES = ("model.safetensors", "raw.safetensors", "optimizer.safetensors")


def start(out: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    call = {
        "spec": options.preset,
        "data": options.data,
        "out": str(out),
        "limit": options.limit,
        "epochs": options.epochs or None,
        "batch": options.batch,
        "workers": options.workers,
        "overrides": options.overrides,
        "resume": True,
        "save_every": options.save_every,
        "progress": False,
        "tensorboard": False,
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(call)]
    return subprocess.Popen(command, start_new_session=True)  # so that its workers are killed with it


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end, and kills the process if the wait is interrupted."""
    try:
        return process.wait()
    except BaseException:
        kill(process)
        raise


def outcome(out: Path) -> dict[str, bytes]:
    last = out / "checkpoints" / "last"
    found = {name: (last / name).read_bytes() for name in FILES if (last / name).exists()}
    return found | {"results": (out / "results.json").read_bytes()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="retinanet_mini")
    parser.add_argument("--data", required=True)
    parser.add_argument("--chains", type=int, default=10)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument(
        "--epochs", type=int, default=2, help="0: the preset's default, for recipes with several kinds of stages"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    rng = random.Random(options.seed)

    began = time.monotonic()
    if finish(start(options.out / "whole", options)):
        return 1
    seconds = time.monotonic() - began
    expected = outcome(options.out / "whole")
    print(f"uninterrupted: {seconds:.1f} s")

    equal = 0
    for chain in range(options.chains):
        out = options.out / f"chain-{chain}"
        kills = []
        for _ in range(1 + chain % 4):
            process, delay = start(out, options), rng.uniform(0.1, 0.9) * seconds
            try:
                process.wait(delay)
            except KeyboardInterrupt:
                kill(process)
                raise
            except subprocess.TimeoutExpired:
                kill(process)
                kills.append(round(delay, 1))
        finish(start(out, options))
        different = [name for name, value in outcome(out).items() if value != expected.get(name)]
        equal += not different
        outcome_text = f"{', '.join(different)} differ" if different else "bit-identical"
        print(f"chain {chain}: killed after {kills} s: {outcome_text}")
    print(f"{equal} of {options.chains} bit-identical")
    return 0 if equal == options.chains else 1


if __name__ == "__main__":
    sys.exit(main())
