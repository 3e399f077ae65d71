"""Generates the synthetic ``shapes`` dataset, as a VOC devkit folder or as COCO JSON.

Six classes of which the last is rare, small and overlapping objects, textured backgrounds with distractors, images
without objects, exact masks. Image *i* of a split depends on (seed, size, split, i) alone, so a larger dataset begins
with the images of a smaller one.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image

from ...errors import FovealError, UsageError
from ...files.aliases import OnProgress
from ...files.atomic import atomic_folder
from ...masks.rle import Masks
from .scenes import CLASSES, Scene, draw_scene

ShapesFormat = Literal["voc", "coco"]


@dataclass(frozen=True)
class ShapesDataset:
    """The result of :func:`make_shapes`."""

    path: Path
    images: dict[str, int]  # by split
    objects: dict[str, int]  # by class


def make_shapes(
    out: str | Path,
    *,
    images: int = 750,
    splits: Mapping[str, int] | None = None,
    seed: int = 0,
    format: ShapesFormat = "voc",
    size: tuple[int, int] = (256, 256),
    masks: bool = True,
    quality: int = 92,
    progress: OnProgress | None = None,
) -> ShapesDataset:
    """Writes the dataset into a folder that is new or empty.

    ``images`` are divided 4 : 1 into ``train`` and ``val``, at least one each, unless ``splits`` (name -> number) is
    given. ``size`` is (width, height) in pixels; the objects scale with it. ``masks``: COCO run lengths, or VOC's
    ``SegmentationObject`` and ``SegmentationClass``. ``progress`` is called with (images done, total). The same
    arguments give the same bytes. The folder appears when it is complete. Raises :class:`UsageError`, and
    :class:`FovealError` if the folder is not empty.
    """
    out = Path(out)
    held_out = max(images // 5, min(images - 1, 1))  # of two images one
    counts = dict(splits) if splits is not None else {"train": images - held_out, "val": held_out}
    _check(out, counts, seed, format, size)
    with atomic_folder(out) as partial:
        writer: _Voc | _Coco = _Voc(partial, masks) if format == "voc" else _Coco(partial, masks)
        objects = np.zeros(len(CLASSES), dtype=np.int64)
        jobs = [(split, i) for split, count in counts.items() for i in range(count)]

        def draw(job: tuple[str, int]) -> tuple[Scene, bytes]:
            scene = draw_scene(*size, _generator(seed, *job))
            return scene, simplejpeg.encode_jpeg(scene.image, quality=quality, colorsubsampling="444")

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(jobs), 64):  # in pieces: an image waits in memory until it is written
                piece = jobs[start : start + 64]
                for number, (scene, jpeg) in enumerate(pool.map(draw, piece), start + 1):
                    objects += np.bincount(scene.labels, minlength=len(CLASSES))
                    writer.add(jobs[number - 1][0], number, jpeg, scene)
                    if progress is not None:
                        progress(number, len(jobs))
        writer.finish(counts)
    return ShapesDataset(out, counts, dict(zip(CLASSES, objects.tolist(), strict=True)))


def _check(out: Path, splits: Mapping[str, int], seed: int, format: str, size: tuple[int, int]) -> None:
    if format not in ("voc", "coco"):
        raise UsageError(f"the format {format!r} is unknown", fix="Use voc or coco")
    if min(size) < 64:
        raise UsageError(f"size {size[0]} x {size[1]} is too small, expected at least 64 x 64")
    if seed < 0:
        raise UsageError(f"seed is {seed}, expected 0 or more")
    for name, count in splits.items():
        if count < 0 or not name or not name.replace("_", "").replace("-", "").isalnum():
            raise UsageError(f"the split {name!r} with {count} images is invalid")
    if sum(splits.values()) < 1:
        raise UsageError("there is no image to make, expected at least one")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FovealError("the folder is not empty", path=out, fix="Choose another folder or remove it")


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode()), index]))


# ------------------------------------------------------------------------------------------------------ voc
class _Voc:
    """``JPEGImages``, ``Annotations``, ``ImageSets``, as in a VOCdevkit year folder, with ``classes.txt``."""

    def __init__(self, root: Path, masks: bool) -> None:
        self.root, self.masks = root, masks
        self.names: dict[str, list[str]] = {}
        folders = ["JPEGImages", "Annotations", "ImageSets/Main"]
        folders += ["SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"] if masks else []
        for folder in folders:
            (root / folder).mkdir(parents=True)

    def add(self, split: str, number: int, jpeg: bytes, scene: Scene) -> None:
        name = f"{number:06d}"
        self.names.setdefault(split, []).append(name)
        (self.root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
        (self.root / "Annotations" / f"{name}.xml").write_text(_xml(name, scene, self.masks), encoding="utf-8")
        if self.masks:
            classes = np.concatenate([scene.labels + 1, [0]])[scene.owner]  # -1 is the last: background
            for folder, values in (("SegmentationObject", scene.owner + 1), ("SegmentationClass", classes)):
                image = Image.fromarray(values.astype(np.uint8)).convert("P")
                image.putpalette(_palette())
                data = io.BytesIO()  # Pillow's own writing hides the cause of an error
                image.save(data, "PNG", compress_level=1)
                (self.root / folder / f"{name}.png").write_bytes(data.getvalue())

    def finish(self, splits: Mapping[str, int]) -> None:
        lists = {split: self.names.get(split, []) for split in splits}
        if {"train", "val"} <= set(splits) and "trainval" not in splits:
            lists["trainval"] = sorted(lists["train"] + lists["val"])
        for folder in ("Main", "Segmentation") if self.masks else ("Main",):
            for split, names in lists.items():
                text = "".join(f"{name}\n" for name in names)
                (self.root / "ImageSets" / folder / f"{split}.txt").write_text(text, encoding="utf-8")
        (self.root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")


def _xml(name: str, scene: Scene, masks: bool) -> str:
    """VOC's annotation of one image; its boxes are 1-based and inclusive."""
    height, width = scene.image.shape[:2]
    names = list(CLASSES)
    lines = [
        "<annotation>",
        "\t<folder>shapes</folder>",
        f"\t<filename>{name}.jpg</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        f"\t<segmented>{int(masks)}</segmented>",
    ]
    flags = zip(scene.labels, scene.boxes, scene.truncated, scene.occluded, strict=True)
    for label, (x1, y1, x2, y2), truncated, occluded in flags:
        lines += [
            "\t<object>",
            f"\t\t<name>{names[label]}</name>",
            f"\t\t<truncated>{int(truncated)}</truncated>",
            f"\t\t<occluded>{int(occluded)}</occluded>",
            "\t\t<difficult>0</difficult>",
            f"\t\t<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _palette() -> list[int]:
    """The devkit's color map: the bits of an index go to red, green and blue in turn, lowest to highest bit."""
    colors = np.zeros((256, 3), dtype=np.int64)
    index = np.arange(256)
    for k in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> channel) & 1) << (7 - k)
        index = index >> 3
    return [int(v) for v in colors.reshape(-1)]


# ----------------------------------------------------------------------------------------------------- coco
class _Coco:
    """``annotations/instances_SPLIT.json`` beside a folder of images for each split."""

    def __init__(self, root: Path, masks: bool) -> None:
        self.root, self.masks = root, masks
        self.images: dict[str, list[dict[str, Any]]] = {}
        self.annotations: dict[str, list[dict[str, Any]]] = {}
        self.next_id = 1
        (root / "annotations").mkdir()

    def add(self, split: str, number: int, jpeg: bytes, scene: Scene) -> None:
        folder = self.root / split
        folder.mkdir(exist_ok=True)
        name = f"{number:012d}.jpg"
        (folder / name).write_bytes(jpeg)
        height, width = scene.image.shape[:2]
        image = {"id": number, "file_name": name, "width": width, "height": height}
        self.images.setdefault(split, []).append(image)
        rows = self.annotations.setdefault(split, [])
        masks = Masks.of_dense(scene.owner == np.arange(len(scene.labels))[:, None, None])
        areas, lengths = masks.area().tolist(), masks.counts()
        for k, (label, (x1, y1, x2, y2)) in enumerate(zip(scene.labels, scene.boxes.tolist(), strict=True)):
            row: dict[str, Any] = {
                "id": self.next_id,
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": areas[k] if self.masks else (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            if self.masks:
                row["segmentation"] = {"size": [height, width], "counts": lengths[k].tolist()}
            rows.append(row)
            self.next_id += 1

    def finish(self, splits: Mapping[str, int]) -> None:
        categories = [{"id": k, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES, 1)]
        for split in splits:
            content = {
                "info": {"description": "generated shapes"},
                "images": self.images.get(split, []),
                "annotations": self.annotations.get(split, []),
                "categories": categories,
            }
            path = self.root / "annotations" / f"instances_{split}.json"
            path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
