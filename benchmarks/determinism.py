"""Trains small presets several times with one seed and compares the weights, bit for bit.

    python benchmarks/determinism.py                          # every *_mini preset: about a minute each
    python benchmarks/determinism.py --presets fcos_mini,detr_mini --precision bf16

For each preset: three times without loading processes, once with 1 and once with 4, twice as two processes. All runs
of one process must agree, and both runs of two processes (whose batches are divided, so that sums have another order).
Exit status 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from foveal import presets
from foveal.data.synthetic.shapes import make_shapes
from foveal.parts.resizing import Resize

ONE = (("0 workers", 0, 1), ("again", 0, 1), ("a third time", 0, 1), ("1 worker", 1, 1), ("4 workers", 4, 1))
TWO = (("2 processes", 0, 2), ("2 again", 0, 2))


def trained(preset: str, data: Path, out: Path, workers: int, devices: int, args: argparse.Namespace) -> str:
    """The hash of the weights of one run; "failed" where it failed, "one only" where two processes are refused."""
    spec = presets.get(preset)
    sides = ("short", "long") if isinstance(spec.input, Resize) else ("height", "width")
    size = [f"input.{name}={args.side}" for name in sides if hasattr(spec.input, name)]
    command = [sys.executable, "-m", "foveal", "train", preset, "--data", str(data), "--out", str(out), "--seed", "7"]
    command += [f"fit.epochs={args.epochs}", "--batch", "4", "--workers", str(workers), "--devices", str(devices)]
    command += ["--device", "cpu", "--precision", args.precision, "--no-report", "fit.val_every=1000", *size]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if devices > 1 and "run in one process" in done.stderr:
        return "one only"
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return "failed"
    return hashlib.sha256((out / "checkpoints" / "last" / "model.safetensors").read_bytes()).hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    minis = [name for name in presets.names() if "_mini" in name]
    parser.add_argument("--presets", default=",".join(minis))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=96, help="of the network's input, pixels")
    parser.add_argument("--precision", default="32")
    args = parser.parse_args()
    print("| preset | " + " | ".join(name for name, _, _ in (*ONE, *TWO)) + " | equal | s |")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_shapes(data, splits={"train": args.images, "val": 4}, size=(128, 128))
        for preset in args.presets.split(","):
            begun = time.monotonic()
            hashes = [
                [trained(preset, data, Path(folder) / f"{preset}-{name}", w, d, args) for name, w, d in group]
                for group in (ONE, TWO)
            ]
            equal = all(len(set(group)) == 1 and "failed" not in group for group in hashes)
            wrong += not equal
            cells = [h for group in hashes for h in group]
            print(f"| {preset} | {' | '.join(cells)} | {equal} | {time.monotonic() - begun:.0f} |", flush=True)
    print(f"{wrong} of {len(args.presets.split(','))} differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
