"""Trains the small presets from random weights on one generated dataset, a few minutes each, and prints a table.

    python benchmarks/minis.py --out minis --devices 2     # all of them, 9 minutes each, on two cores
    python benchmarks/minis.py --presets ssd_mini,yolo_v3_mini --minutes 5
    python benchmarks/minis.py --presets detr_mini --images 17820 --minutes 29 --devices 2 --out minis-detr

Every preset is trained on the same images at the same size. YOLO's anchors come from k-means, as in `foveal anchors`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from foveal import presets
from foveal.assembly.detector import Spec
from foveal.data.anchor_clusters import cluster
from foveal.data.open import open_dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.detectors.detr import DETR
from foveal.detectors.mask_rcnn import MaskRCNN
from foveal.detectors.yolo import YOLO
from foveal.parts.matching.cells import Responsible
from foveal.parts.resizing import Resize

# The presets' learning rate, 5e-4 at batches of 4, is for a few hundred images and a pretrained backbone.
SOLVER = ("fit.batch=8", "fit.lr=0.0025")
# As in `foveal demo`: many images have to be seen, so a narrower neck, and fewer and smaller RoIs.
MASKS = (
    "neck.channels=64",
    "pool.size=5",
    "roi.sampler=Balanced(64, 0.5)",
    "train_proposals=Counts(200, 200)",
    "mask.rows=16",
)


def _learns_here(name: str) -> bool:
    """The small detectors, without those that need proposals of thousands of images first."""
    return name.endswith("_mini") and name != "rpn_mini" and presets.get(name).source is None


def settings(spec: Spec, data: Path, side: int) -> list[str]:
    """The overrides for square images of this side and training from random weights."""
    found = ["fit.val_every=3"] if isinstance(spec, DETR) else [*SOLVER, "fit.val_every=3"]  # has a recipe of its own
    if isinstance(spec.input, Resize):
        found += [f"input.short={side}", f"input.long={side}"]
    else:
        found += [f"input.width={side}", f"input.height={side}"]
    if isinstance(spec, MaskRCNN):
        found += MASKS
    if not isinstance(spec, YOLO) or isinstance(spec.task.matcher, Responsible):  # version 1 has no anchors
        return found
    sides = np.concatenate([r.boxes[:, 2:] - r.boxes[:, :2] for r in open_dataset(data, split="train").records])
    sizes = spec.cells.per_location
    unit = 2.0 ** spec.levels[-1] if spec.cells.unit == "cells" else 1.0
    shapes = iter((cluster(sides, sum(sizes)).shapes / unit).round(3).tolist())
    levels = tuple(tuple(tuple(next(shapes)) for _ in range(size)) for size in sizes)
    return [*found, f"cells.shapes={levels}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(filter(_learns_here, presets.names())))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--images", type=int, default=5940, help="training images; 220 more for validation")
    parser.add_argument("--side", type=int, default=160, help="of the images, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--devices", type=int, default=1, help="processes; two with one thread each are faster than one with two"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/minis"))
    parser.add_argument("overrides", nargs="*", help="key=value for all of them")
    args = parser.parse_args()
    names = args.presets.split(",")
    masks = any(isinstance(presets.get(name), MaskRCNN) for name in names)
    data = args.out / ("data-masks" if masks else "data")  # the same images
    if not data.exists():
        splits = {"train": args.images, "val": 220}
        make_shapes(data, splits=splits, size=(args.side, args.side), seed=args.seed, masks=masks)
    rows = [
        "| preset | minutes | AP50 | AP | rare class (star) AP50 | masks AP50 | masks AP |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        began = time.monotonic()
        out = args.out / name
        words = [sys.executable, "-m", "foveal", "train", name, "--data", str(data), "--out", str(out)]
        words += ["--max-time", f"{args.minutes}m", "--seed", str(args.seed), "--workers", str(args.workers)]
        words += ["--devices", str(args.devices), *settings(presets.get(name), data, args.side), *args.overrides]
        threads = max(1, torch.get_num_threads() // args.devices)
        subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        scores = json.loads((out / "results.json").read_text())
        minutes = (time.monotonic() - began) / 60
        rare = scores["per_class"]["star"]["AP50"]
        drawn = " | ".join(f"{scores['masks'][k]:.3f}" if "masks" in scores else "-" for k in ("AP50", "AP"))
        rows.append(f"| `{name}` | {minutes:.1f} | {scores['AP50']:.3f} | {scores['AP']:.3f} | {rare:.3f} | {drawn} |")
        print(rows[-1], flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
