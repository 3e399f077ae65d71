"""Selective search on real images: seconds per image and core, and a second call that reads the cache.

python benchmarks/proposals.py --data VOC2012 --split val --limit 20 [--quality]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from common import parser, setup

from foveal.data.images.load import load_image
from foveal.data.open import open_dataset
from foveal.external_proposals.cache import ensure_cached, from_source
from foveal.parts.selective_search import SelectiveSearch


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--split")
    p.add_argument("--limit", type=int, default=20, help="images, spread evenly over the set")
    p.add_argument("--quality", action="store_true", help="ten times the groupings")
    args = setup(p)
    records = open_dataset(args.data, split=args.split).records
    records = records[:: max(1, len(records) // args.limit)][: args.limit]
    source = SelectiveSearch("quality" if args.quality else "fast")

    spent, counts = [], []
    with source.session():
        for record in records:
            image = load_image(record.path)
            start = time.perf_counter()
            counts.append(len(source(image).boxes))
            spent.append(time.perf_counter() - start)
    print(
        f"one core: {statistics.mean(spent):.2f} s an image (median {statistics.median(spent):.2f}, "
        f"{min(spent):.2f} to {max(spent):.2f}), {statistics.mean(counts):.0f} boxes an image, {len(records)} images"
    )

    with tempfile.TemporaryDirectory() as folder:
        os.environ["FOVEAL_CACHE"] = folder
        for what in ("computed", "from the cache"):
            start = time.perf_counter()
            done = ensure_cached(records, source.setting, from_source(source))
            seconds = time.perf_counter() - start
            print(f"{what}: {seconds:.2f} s, {seconds / len(records):.4f} s an image, {done.made} computed")


if __name__ == "__main__":
    main()
