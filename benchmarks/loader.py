"""Decoding and augmentation, images per second of one core: foveal's loader against torchvision's reference transforms.

    python benchmarks/loader.py [--rounds 5] [--data FOLDER_OF_JPEGS] [--only "Faster R-CNN"]

The reference is that of torchvision's training scripts: PIL decoding, ``transforms.v2``, and for Faster R-CNN the
transform of its detection model, which normalizes, resizes and pads. foveal makes whole batches through ``Loader``
(no workers), uint8 pixels out; the last row adds the normalization, which training does on the device. Same files, same
process.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from common import parser, race, setup
from PIL import Image
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from foveal.data.augment.combine import MixUp, Mosaic
from foveal.data.augment.geometry import Sample, resize
from foveal.data.augment.transforms import (
    Expand,
    FlipScaleColor,
    HorizontalFlip,
    IoUCrop,
    PhotometricDistortion,
    ScaleJitter,
)
from foveal.data.images.load import image_size, load_image
from foveal.data.loader.loader import Loader
from foveal.data.records.dataset import Dataset, Record
from foveal.data.synthetic.scenes import draw_scene
from foveal.parts.resizing import Input, Resize, Stretch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OBJECTS = 8
BATCH = 4


# ----------------------------------------------------------------------------------------------------- data
def jpegs(folder: Path, count: int) -> list[Path]:
    """640 x 480 images with the entropy of photographs: shapes under sensor noise, about 110 KB each."""
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = draw_scene(640, 480, rng).image.astype(np.float64)
        noisy = (image + rng.normal(0, 6, image.shape[:2])[..., None]).clip(0, 255).astype(np.uint8)
        path = folder / f"{i:03d}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(noisy, quality=90, colorsubsampling="420"))
        paths.append(path)
    return paths


def dataset(paths: list[Path]) -> Dataset:
    """Eight random boxes per image."""
    rng, records = np.random.default_rng(0), []
    none = np.zeros(OBJECTS, dtype=np.bool_)
    for i, path in enumerate(paths):
        width, height = image_size(path)
        corner = rng.uniform(0, 0.7, (OBJECTS, 2))
        side = rng.uniform(0.05, 0.3, (OBJECTS, 2))
        boxes = np.concatenate([corner, corner + side], 1) * np.array([width, height, width, height])
        labels = rng.integers(0, 20, OBJECTS)
        records.append(Record(i, path, width, height, boxes, labels, none, none, none, np.ones(OBJECTS)))
    return Dataset(tuple(f"class {k}" for k in range(20)), records)


# ------------------------------------------------------------------------------------------------ contenders
def peer(records: list[Record], augment: Any, finish: Callable[[list[Any]], object]) -> Callable[[], None]:
    """torchvision's references, ``BATCH`` images per call; ``finish`` makes a batch of the samples."""
    turn = itertools.cycle(records)

    def call() -> None:
        samples = []
        for record in itertools.islice(turn, BATCH):
            with Image.open(record.path) as file:
                image = file.convert("RGB")
            size = (image.height, image.width)
            boxes = tv_tensors.BoundingBoxes(record.boxes, format="XYXY", canvas_size=size, dtype=torch.float32)
            samples.append(augment({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.labels)}))
        finish(samples)

    return call


def ours(loader: Loader, finish: Callable[[Any], Any] | None = None) -> Callable[[], None]:
    """One batch per call."""

    def endless() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from loader.epoch(epoch)

    batches = endless()

    def call() -> None:
        batch = next(batches)
        if finish is not None:
            finish(batch.images)

    return call


def faster_rcnn(data: Dataset) -> tuple[dict[str, Callable[[], None]], str]:
    augment = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    model = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD))

    def into_model(samples: list[dict[str, Any]]) -> object:
        return model([s["image"] for s in samples], [{"boxes": s["boxes"]} for s in samples])

    rule: Input = Resize(800, 1333)
    make = lambda: Loader(data, rule, (HorizontalFlip(),), BATCH, 0)  # noqa: E731
    name = "torchvision references (PIL, v2, model's transform)"
    return {
        name: peer(data.records, augment, into_model),
        "foveal, uint8 to the model": ours(make()),
        "foveal, and normalized (fp32)": ours(make(), rule.normalize),
    }, name


def ssd(data: Dataset) -> tuple[dict[str, Callable[[], None]], str]:
    def compose(to_tensor_first: bool) -> Any:
        return v2.Compose(
            [
                *([v2.PILToTensor()] if to_tensor_first else []),
                v2.RandomPhotometricDistort(),
                v2.RandomZoomOut(fill=(123, 117, 104)),
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.Resize((300, 300), antialias=True),
                *([] if to_tensor_first else [v2.PILToTensor()]),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def stack(samples: list[dict[str, Any]]) -> object:
        return torch.stack([s["image"] for s in samples])

    rule: Input = Stretch(300, 300)
    recipe = (PhotometricDistortion(), Expand(), IoUCrop(), HorizontalFlip())
    make = lambda: Loader(data, rule, recipe, BATCH, 0)  # noqa: E731
    name = "torchvision references (PIL, v2 on PIL)"
    return {
        name: peer(data.records, compose(False), stack),
        "torchvision, v2 on uint8 tensors": peer(data.records, compose(True), stack),
        "foveal, uint8 to the model": ours(make()),
        "foveal, and normalized (fp32)": ours(make(), rule.normalize),
    }, name


def recipes(data: Dataset) -> tuple[dict[str, Callable[[], None]], str]:
    """The loader alone at 320 px, with a flip as the presets have it and with each part of a recipe."""
    flip, rule = HorizontalFlip(), Resize(320, 533)
    contenders = {
        "flip": (flip,),
        "large-scale jitter": (flip, ScaleJitter(0.1, 2.0)),
        "flip, zoom and color": (FlipScaleColor(1.0),),
        "mix-up, every second image": (flip, MixUp(p=0.5)),
        "mosaic": (flip, Mosaic()),
        "mosaic, zoom and color": (Mosaic(), FlipScaleColor(1.0)),
    }
    return {name: ours(Loader(data, rule, augment, BATCH, 0)) for name, augment in contenders.items()}, "flip"


def steps(data: Dataset) -> dict[str, Callable[[], object]]:
    """Single steps, to see where the time goes."""
    paths = itertools.cycle([r.path for r in data.records])
    image = load_image(data.records[0].path)
    tensor = torch.from_numpy(image).permute(2, 0, 1).float()[None]
    distort, rng = PhotometricDistortion(), np.random.default_rng(0)
    small = np.asarray(resize(image, 300, 300).numpy())
    nothing = Sample(small, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    peer_distort = v2.RandomPhotometricDistort()
    pil = Image.fromarray(small)
    return {
        "decode: PIL": lambda: np.asarray(Image.open(next(paths)).convert("RGB")),
        "decode: load_image": lambda: load_image(next(paths)),
        "resize to 800: float interpolate": lambda: torch.nn.functional.interpolate(
            tensor, size=(800, 1066), mode="bilinear", align_corners=False
        ),
        "resize to 800: ours, uint8": lambda: resize(image, 800, 1066),
        "distort 300 x 300: v2 on PIL": lambda: peer_distort(pil),
        "distort 300 x 300: ours": lambda: distort(nothing, rng),
    }


def main(args: argparse.Namespace) -> None:
    random.seed(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(args.data.rglob("*.jpg"))[:64] if args.data else jpegs(Path(folder), 16)
        data = dataset(paths)
        size = np.mean([p.stat().st_size for p in paths]) / 1024
        print(f"# {len(paths)} JPEG files, {size:.0f} KB on average; batches of {BATCH}")
        titles = ("Faster R-CNN recipe, 800 px", "SSD300 recipe", "parts of a recipe, 320 px")
        for title, make in zip(titles, (faster_rcnn, ssd, recipes), strict=True):
            if args.only in title:
                contenders, baseline = make(data)
                medians = race(title, contenders, args.rounds, min_time=0.5, baseline=baseline)
                print("images per second: " + ", ".join(f"{k}: {BATCH / v:.0f}" for k, v in medians.items()))
        if args.only in "steps":
            race("steps", steps(data), args.rounds, min_time=0.1)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=None, help="a folder of JPEG files instead of generated ones")
    main(setup(options))
