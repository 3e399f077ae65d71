"""Runs a detector that ``foveal export`` wrote: this file, NumPy, ONNX Runtime and Pillow are all that it needs.

    detector = OnnxDetector("model.onnx")
    for found in detector.predict_arrays([load_rgb("photo.jpg")]):
        print(found.to_list())

It may be copied into another project. ``python onnx_detector.py model.onnx photo.jpg`` prints what it finds.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1  # of the metadata
Reals = NDArray[np.float32]
RGBArray = NDArray[np.uint8]


class ModelError(ValueError):
    """A file that is no detector of foveal's."""


@dataclass(frozen=True)
class FoundBoxes:
    """The detections of one image: boxes in its pixels, clipped, by falling score."""

    boxes: Reals  # (N, 4) xyxy
    scores: Reals  # (N,)
    labels: NDArray[np.int64]  # (N,)
    names: tuple[str, ...] = ()  # class names, indexed by label
    mask_maps: Reals | None = None  # (N, S, S): the probability that a point of the box belongs to the object

    @property
    def masks(self) -> None:
        """None: masks are not pasted into the image here."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> FoundBoxes:
        maps = None if self.mask_maps is None else self.mask_maps[index]
        return FoundBoxes(self.boxes[index], self.scores[index], self.labels[index], self.names, maps)

    def above(self, score: float) -> FoundBoxes:
        """The detections with at least this score."""
        return self[self.scores >= score]

    def only(self, classes: Sequence[str]) -> FoundBoxes:
        """The detections of the named classes."""
        return self[np.isin(self.labels, [self.names.index(name) for name in classes])]

    def to_list(self) -> list[dict[str, Any]]:
        """``[{"label", "score", "box": [x1, y1, x2, y2]}]``."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [{"label": self.names[k], "score": s, "box": b} for b, s, k in rows]


# --------------------------------------------------------------------------------------------- the input rule
@dataclass(frozen=True)
class Placed:
    """The size and location of an image on the canvas, in pixels."""

    height: int
    width: int
    y: int = 0
    x: int = 0


@dataclass(frozen=True)
class InputRule:
    """How images are resized, padded and normalized, as the metadata says it."""

    rule: str  # Resize, Stretch, Letterbox or Original
    mean: tuple[float, ...]  # RGB on the scale 0..1
    std: tuple[float, ...]
    padding: tuple[float, ...]  # what surrounds an image
    short: int = 0  # Resize: the short side, unless the long one would pass ``long``
    long: int = 0
    multiple: int = 1  # of which the sides of the canvas are multiples
    nearest: bool = False  # sides are rounded to the nearest pixel, not down
    height: int = 0  # of the canvas of Stretch and Letterbox
    width: int = 0

    def placement(self, height: int, width: int) -> Placed:
        if self.rule == "Resize":
            scale, half = min(self.short / min(height, width), self.long / max(height, width)), self.nearest / 2
            return Placed(max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half)))
        if self.rule == "Original":
            return Placed(height, width)
        h, w = self.height, self.width
        if self.rule == "Stretch":
            return Placed(h, w)
        if w * height < h * width:
            new_h, new_w = max(1, height * w // width), w
        else:
            new_h, new_w = h, max(1, width * h // height)
        return Placed(new_h, new_w, (h - new_h) // 2, (w - new_w) // 2)

    def canvas(self, placement: Placed) -> tuple[int, int]:
        if self.height:
            return self.height, self.width
        m = self.multiple
        return -(-placement.height // m) * m, -(-placement.width // m) * m

    def pixels(self, image: RGBArray, placement: Placed) -> Reals:
        """Upright RGB (H, W, 3) uint8 -> the canvas (3, h, w), normalized."""
        mean, std = _floats(self.mean), _floats(self.std)
        canvas = np.empty((*self.canvas(placement), 3), np.float32)
        canvas[:] = (_floats(self.padding) - mean) / std
        p = placement
        part = canvas[p.y : p.y + p.height, p.x : p.x + p.width]
        part[:] = (resized(image, p.height, p.width) / np.float32(255) - mean) / std
        return canvas.transpose(2, 0, 1)


def _floats(values: Any) -> Reals:
    return np.asarray(values, np.float32)


def resized(image: RGBArray, height: int, width: int) -> Reals:
    """Bilinear without antialias, pixel centers aligned: (H, W, 3) -> (height, width, 3)."""
    for axis, size in ((0, height), (1, width)):
        if image.shape[axis] != size:
            low, high, weight = _neighbors(image.shape[axis], size)
            weight = weight[:, None, None] if axis == 0 else weight[:, None]
            first, second = image.take(low, axis).astype(np.float32), image.take(high, axis).astype(np.float32)
            second -= first
            second *= weight
            image = np.add(first, second, out=first)
    return image.astype(np.float32)


def _neighbors(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Reals]:
    """For each of ``new`` samples along an axis of ``old`` pixels: both neighbors, and the weight of the second."""
    scale = float(np.float32(old) / np.float32(new))
    at = (scale * (np.arange(new) + 0.5) - 0.5).astype(np.float32)  # rounded once, as torch's fused product and sum
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.int64), old - 1)
    return low, np.minimum(low + 1, old - 1), at - low.astype(np.float32)


def load_rgb(path: str | os.PathLike[str]) -> RGBArray:
    """An image file as upright RGB (H, W, 3)."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


# --------------------------------------------------------------------------------------------------- the detector
class OnnxDetector:
    """A detector in an ONNX file of ``foveal export``."""

    source = None  # of external proposals: whoever calls gives them

    def __init__(self, model: str | os.PathLike[str] | bytes, threads: int = 0) -> None:
        """``model``: a file or its content. ``threads``: 0: as many as ONNX Runtime likes.

        Raises :class:`ModelError` for a file that is no such detector.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            content = model if isinstance(model, bytes) else Path(model).read_bytes()
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError:
            raise
        except Exception as error:  # its exceptions are of many types
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"is damaged, or no ONNX model that this ONNX Runtime reads ({reason})") from error
        text = self.session.get_modelmeta().custom_metadata_map.get("foveal")
        if text is None:
            raise ModelError("has no metadata of foveal: it was not written by foveal export")
        try:
            meta: dict[str, Any] = json.loads(text)
            if meta["schema"] > SCHEMA:
                raise ModelError(f"was written by a newer foveal (schema {meta['schema']}, this one reads {SCHEMA})")
            self.classes, self.rule = tuple(meta["classes"]), InputRule(**meta["input"])
            self.threshold = float(meta["score"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"has metadata that cannot be read ({error})") from error
        self.meta, inputs = meta, {value.name: value.shape for value in self.session.get_inputs()}
        self.batch = inputs["pixels"][0] if isinstance(inputs["pixels"][0], int) else None
        self.external = "proposals" in inputs  # whether it needs proposals

    def predict_arrays(
        self, arrays: Sequence[RGBArray], batch: int | None = None, proposals: Sequence[Any] | None = None
    ) -> list[FoundBoxes]:
        """Detections of upright RGB images (H, W, 3) uint8. ``batch``: most images at a time, of one canvas.

        ``proposals`` (P, 4) of each image, in its own pixels, for a detector that needs them.
        """
        placed = [self.rule.placement(*array.shape[:2]) for array in arrays]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, placement in enumerate(placed):
            groups.setdefault(self.rule.canvas(placement), []).append(i)
        found: dict[int, FoundBoxes] = {}
        size = self.batch or batch or 1
        for group in groups.values():
            for start in range(0, len(group), size):
                part = group[start : start + size]
                given = None if proposals is None else [proposals[i] for i in part]
                found |= zip(part, self._run([arrays[i] for i in part], [placed[i] for i in part], given), strict=True)
        return [found[i] for i in range(len(arrays))]

    def _run(self, arrays: list[RGBArray], placed: list[Placed], proposals: list[Any] | None) -> list[FoundBoxes]:
        number = len(arrays)
        rows = [*range(number), *[0] * ((self.batch or number) - number)]  # a fixed batch is filled up
        pixels = [self.rule.pixels(a, p) for a, p in zip(arrays, placed, strict=True)]
        whole = self.rule.rule == "Letterbox"  # the network sees the border too
        sizes = [self.rule.canvas(p) if whole else (p.height, p.width) for p in placed]
        feed: dict[str, Any] = {
            "pixels": np.stack([pixels[i] for i in rows]),
            "sizes": np.array([sizes[i] for i in rows], np.int64),
        }
        frames = [_frame(a, p) for a, p in zip(arrays, placed, strict=True)]
        if self.external:
            if proposals is None:
                raise ModelError("needs proposals, and none are given")
            feed |= _padded([_floats(b).reshape(-1, 4) * f[0] + f[1] for b, f in zip(proposals, frames, strict=True)])
        kept = {value.name for value in self.session.get_inputs()}  # an input that nothing uses is left out of a graph
        names = [value.name for value in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(None, {k: v for k, v in feed.items() if k in kept}), strict=True))
        found = []
        for i, (array, (scale, offset)) in enumerate(zip(arrays, frames, strict=True)):
            valid, (height, width) = out["valid"][i], array.shape[:2]
            boxes = (out["boxes"][i][valid] - offset) / scale
            boxes = np.clip(boxes, 0, _floats([width, height, width, height]))
            masks = out["masks"][i][valid] if "masks" in out else None
            found.append(FoundBoxes(boxes, out["scores"][i][valid], out["labels"][i][valid], self.classes, masks))
        return found


def _frame(array: RGBArray, placement: Placed) -> tuple[Reals, Reals]:
    """Scale and offset (4,) of boxes: network x = original x * scale + offset."""
    height, width = array.shape[:2]
    scale, offset = (placement.width / width, placement.height / height), (placement.x, placement.y)
    return _floats(scale * 2), _floats(offset * 2)


def _padded(boxes: list[Reals]) -> dict[str, Any]:
    """Boxes (P, 4) of each image as one array with zeros behind them, and which are real."""
    longest = max(2, max(map(len, boxes)))
    out, valid = np.zeros((len(boxes), longest, 4), np.float32), np.zeros((len(boxes), longest), bool)
    for i, each in enumerate(boxes):
        out[i, : len(each)], valid[i, : len(each)] = each, True
    return {"proposals": out, "proposals_valid": valid}


if __name__ == "__main__":
    runner = OnnxDetector(sys.argv[1])
    for name in sys.argv[2:]:
        print(json.dumps({"image": name, "detections": runner.predict_arrays([load_rgb(name)])[0].to_list()}))  # noqa: T201
