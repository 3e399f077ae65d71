"""What it costs to notice damage: the digests of a checkpoint, and the hashes of the images that trained a model.

    python benchmarks/checkpoint_cost.py --preset retinanet_r50_fpn --data DATA/bccd

Prints seconds, and their share of the training time: of the 300 s between two checkpoints for what each one costs, of
an hour for what a run costs once.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

INTERVAL, HOUR = 300.0, 3600.0  # seconds


def seconds(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="retinanet_mini")
    parser.add_argument("--data", help="dataset whose images are hashed")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from foveal import presets
    from foveal.checkpoints import folder
    from foveal.checkpoints.content import Content
    from foveal.data.open import open_dataset
    from foveal.data.records.inventory import Inventory
    from foveal.data.records.trained_on import image_hashes

    spec = presets.get(options.preset)
    weights = spec.build(("a", "b", "c")).state_dict()
    moments = {f"{k}/{m}": torch.zeros_like(v) for k, v in weights.items() for m in ("exp_avg", "exp_avg_sq")}
    content = Content(weights, {}, moments, {"step": 0, "best": None}, {"spec": "", "classes": []})
    data = [each for _, each in content.files()]
    rows = [("digests of a checkpoint", seconds(lambda: [hashlib.sha256(d).hexdigest() for d in data], options.rounds))]
    with tempfile.TemporaryDirectory() as place:
        save = seconds(lambda: folder.save(Path(place), 1, content), options.rounds)
        rows.append(("a whole checkpoint, synced", save))
        rows.append(("reading it back, verified", seconds(lambda: folder.read(Path(place) / "step-1"), 1)))
    print(f"{options.preset}: {sum(map(len, data)) / 1e6:.0f} MB a checkpoint")
    for name, spent in rows:
        print(f"  {name}: {spent:.3f} s, {spent / INTERVAL:.3%} of {INTERVAL:.0f} s")
    if options.data:
        dataset = open_dataset(options.data)
        both = seconds(lambda: (image_hashes(dataset.records), Inventory.of(dataset)), options.rounds)
        each = both / max(1, len(dataset))
        print(
            f"  hashes of {len(dataset)} images: {both:.3f} s, {each * 1e6:.0f} us an image, {both / HOUR:.4%} an hour"
        )


if __name__ == "__main__":
    main()
