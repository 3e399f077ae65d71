"""Reading a dataset, headers of the images and annotations, in every format that foveal writes: seconds.

    python benchmarks/reading.py [--images 10000] [--objects 5] [--only coco] [--folder FOLDER]

The images are JPEG files of 640 x 480, about 30 KB each. In "other names" the annotations name the images in other
capitals, with another extension and percent-encoded, so that each is found by a normal form of its name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import simplejpeg

from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset, Record
from foveal.data.synthetic.scenes import draw_scene
from foveal.data.writing.plan import ExportPlan
from foveal.data.writing.writers import WRITERS

WIDTH, HEIGHT, CLASSES, DIFFERENT = 640, 480, 20, 50


def images(folder: Path, count: int) -> list[Path]:
    """JPEG files, of which every fiftieth has the same content."""
    bodies = []
    for k in range(min(count, DIFFERENT)):
        scene = draw_scene(WIDTH, HEIGHT, np.random.default_rng(k)).image
        bodies.append(simplejpeg.encode_jpeg(np.ascontiguousarray(scene), quality=95))
    folder.mkdir()
    paths = [folder / f"IMG {k:06d}.jpg" for k in range(count)]
    for k, path in enumerate(paths):
        path.write_bytes(bodies[k % len(bodies)])
    return paths


def dataset(paths: list[Path], objects: int) -> Dataset:
    """Random boxes on every image."""
    rng = np.random.default_rng(0)
    none = np.zeros(objects, np.bool_)
    records = []
    for k, path in enumerate(paths):
        corners = rng.integers(0, [WIDTH - 60, HEIGHT - 60], (objects, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, 60, (objects, 2))], 1).astype(np.float64)
        labels = rng.integers(0, CLASSES, objects)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        records.append(Record(k + 1, path, WIDTH, HEIGHT, boxes, labels, none, none, none, area))
    return Dataset(tuple(f"class {k}" for k in range(CLASSES)), records)


def otherwise(root: Path) -> None:
    """Spells the names of a COCO file differently."""
    file = next((root / "annotations").glob("*.json"))
    doc = json.loads(file.read_text())
    for image in doc["images"]:
        image["file_name"] = quote(image["file_name"].lower().replace(".jpg", ".png"))
    file.write_text(json.dumps(doc))


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--images", type=int, default=10_000)
    p.add_argument("--objects", type=int, default=5, help="on each image")
    p.add_argument("--only", default="", help="run the formats whose name contains this text")
    p.add_argument("--folder", type=Path, help="where the temporary files are written")
    args = p.parse_args()
    print(
        f"# python {platform.python_version()}, {os.cpu_count()} cores; {args.images} images of {args.objects} objects"
    )
    print(f"{'format':18} {'wall s':>7} {'cpu s':>7} {'objects':>9}  findings")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source = dataset(images(Path(folder, "images"), args.images), args.objects)
        for name in (*WRITERS, "coco, other names"):
            if args.only not in name:
                continue
            format = name.split(",")[0]
            root = Path(folder, name.replace(", ", "-").replace(" ", "-"))
            root.mkdir()
            WRITERS[format](ExportPlan.of({"": source}, format != "voc"), root, True)
            if "other" in name:
                otherwise(root)
            wall, cpu = time.perf_counter(), time.process_time()
            read = open_dataset(root)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            count = sum(map(len, read.records))
            codes = ", ".join(sorted({f.code for f in read.findings})) or "none"
            print(f"{name:18} {wall:7.2f} {cpu:7.2f} {count:9}  {codes}", flush=True)
            assert len(read) == args.images and abs(count - args.images * args.objects) <= args.images // 100


if __name__ == "__main__":
    main()
