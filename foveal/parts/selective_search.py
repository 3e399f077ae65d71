"""Proposal sources: selective search and sliding windows, which need no network. NumPy and OpenCV, no torch.

``source(image (H, W, 3) uint8 RGB) -> Proposed``: boxes and scores, best first, in pixels of that image. A source is
deterministic, so that its proposals can be cached (:mod:`foveal.external_proposals.cache`).
"""

from __future__ import annotations

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..files.aliases import Floats32, ImageArray


class Proposed(NamedTuple):
    """The proposals of one image, best first."""

    boxes: Floats32  # (P, 4) xyxy pixels of the image
    scores: Floats32  # (P,) falling


class ProposalSource(ABC):
    """The role of a proposal source. Subclasses are frozen dataclasses with a field ``top``."""

    top: int  # how many of the best proposals of each image a detector uses

    @abstractmethod
    def __call__(self, image: ImageArray) -> Proposed:
        """All proposals of an image (H, W, 3) uint8 RGB, whatever ``top`` is."""

    @property
    def setting(self) -> str:
        """The text that determines what :meth:`__call__` returns; part of the key under which proposals are cached."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "top"}  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in values.items())})"

    def session(self) -> AbstractContextManager[None]:
        """A context to enter once around many calls, which may then come from several threads."""
        return nullcontext()


# ----------------------------------------------------------------------------------------- selective search
_COLORS = {"fast": ("hsv", "lab"), "quality": ("hsv", "lab", "rgi", "hue", "intensity")}
_SCALES = {"fast": (50, 100), "quality": (50, 100, 150, 300)}
# color, texture, size, fill: which of them make two regions alike
_SIMILARITIES = {"fast": ("ctsf", "tsf"), "quality": ("ctsf", "tsf", "f", "s")}
_FUSION = 60  # the constant of reciprocal rank fusion (Cormack et al., 2009): larger values weigh ranks more evenly


@dataclass(frozen=True)
class SelectiveSearch(ProposalSource):
    """Regions of a graph segmentation, merged step by step with the most similar neighbor (Uijlings et al., IJCV 2013),
    with R-CNN's settings (``selective_search_boxes.m``): the image resized to a width of 500, HSV and Lab, k = 50 and
    100 with regions of k pixels at least, similarity by color + texture + size + fill and by texture + size + fill,
    boxes narrower than 20 px (at that width) dropped, duplicates merged. ``quality``: five color spaces, four k, four
    similarities, which is ten times the work. Needs OpenCV's contrib modules (``pip install 'foveal[rcnn]'``).

    Differences: OpenCV ranks regions by random numbers, which change from call to call; here each of the
    groupings (color x k x similarity) is run separately and ranked by size, as regions nearer the top of the hierarchy
    are larger, and the score of a box is the sum of 1 / (60 + rank) over the groupings that contain it. The *set* of
    boxes is OpenCV's, the order is reproducible and has a higher recall in the first hundreds. An image more than twice
    as high as wide is resized to a height of 1000 instead of a width of 500.

    Raises :class:`UsageError` where OpenCV's contrib modules are missing.
    """

    mode: Literal["fast", "quality"] = "fast"
    top: int = 2000  # how many of the best proposals of each image a detector uses
    width: int = 500  # pixels that an image is resized to
    min_side: float = 20.0  # boxes with a shorter side are dropped, pixels of the resized image
    sigma: float = 0.8  # of the smoothing before the segmentation

    def __post_init__(self) -> None:
        if self.mode not in _COLORS:
            raise UsageError(f"SelectiveSearch: mode is {self.mode!r}, not one of fast, quality")
        if min(self.top, self.width) < 1 or self.min_side < 0 or self.sigma <= 0:
            raise UsageError(f"expected top and width of at least 1, min_side of at least 0, sigma above 0, got {self}")

    def __call__(self, image: ImageArray) -> Proposed:
        cv2 = _opencv()
        resized = self._resized(cv2, image)
        scores: dict[tuple[int, ...], float] = {}
        for grouping in self._groupings(cv2, resized):
            for rank, box in enumerate(self._ranked(grouping), 1):
                scores[box] = scores.get(box, 0.0) + 1.0 / (_FUSION + rank)
        order = sorted(scores, key=lambda box: (-scores[box], box))
        rectangles = np.array(order, np.float64).reshape(-1, 4)
        scale = np.array([image.shape[1] / resized.shape[1], image.shape[0] / resized.shape[0]] * 2)
        boxes = np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], 1) * scale
        return Proposed(boxes.astype(np.float32), np.array([scores[box] for box in order], np.float32))

    @contextmanager
    def session(self) -> Iterator[None]:
        """One thread a call: the calls themselves run in parallel, since OpenCV releases Python's lock."""
        cv2 = _opencv()
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(before)

    def _resized(self, cv2: Any, image: ImageArray) -> ImageArray:
        """The image with a width of ``width``."""
        height, width = image.shape[:2]
        scale = min(self.width / width, 2 * self.width / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        out: ImageArray = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        return out

    def _groupings(self, cv2: Any, image: ImageArray) -> Iterator[NDArray[np.int32]]:
        """The rectangles (R, 4) x, y, width, height of each color space, k and similarity."""
        segmentation, blue_first = cv2.ximgproc.segmentation, np.ascontiguousarray(image[..., ::-1])
        colors = [_color(cv2, image, name) for name in _COLORS[self.mode]]
        for color, k, terms in itertools.product(colors, _SCALES[self.mode], _SIMILARITIES[self.mode]):
            search = segmentation.createSelectiveSearchSegmentation()
            search.setBaseImage(blue_first)
            search.addImage(color)
            search.addGraphSegmentation(segmentation.createGraphSegmentation(self.sigma, float(k), k))
            search.addStrategy(_similarity(segmentation, terms))
            yield np.asarray(search.process(), np.int32).reshape(-1, 4)

    def _ranked(self, rectangles: NDArray[np.int32]) -> list[tuple[int, ...]]:
        """Those wide and high enough, without duplicates, the largest first; of equals the upper, then the left one."""
        wide = rectangles[(rectangles[:, 2:] >= self.min_side).all(1)]
        x, y, w, h = np.unique(wide, axis=0).T
        return [tuple(row) for row in np.stack([x, y, w, h], 1)[np.lexsort((w, x, y, -w * h))].tolist()]


def _color(cv2: Any, image: ImageArray, name: str) -> ImageArray:
    """An image (H, W, 3) RGB in another color space: (H, W, 3) or (H, W), 0 to 255."""
    if name == "rgi":  # red and green as shares of the light, and the light
        light = image.astype(np.float32).sum(2, keepdims=True)
        shares = 255 * image[..., :2] / np.maximum(light, 1)
        return np.concatenate([shares, light / 3], 2).round().astype(np.uint8)
    if name == "intensity":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    if name == "lab":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab))
    turned = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    return turned if name == "hsv" else np.ascontiguousarray(turned[..., 0])


def _similarity(segmentation: Any, terms: str) -> Any:
    """OpenCV's strategy for some of c(olor), t(exture), s(ize) and f(ill), equally weighted."""
    makers = {
        "c": segmentation.createSelectiveSearchSegmentationStrategyColor,
        "t": segmentation.createSelectiveSearchSegmentationStrategyTexture,
        "s": segmentation.createSelectiveSearchSegmentationStrategySize,
        "f": segmentation.createSelectiveSearchSegmentationStrategyFill,
    }
    multiple = segmentation.createSelectiveSearchSegmentationStrategyMultiple()
    for term in terms:
        multiple.addStrategy(makers[term](), 1.0 / len(terms))
    return multiple


def _opencv() -> Any:
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        cv2 = None
    if not hasattr(cv2, "ximgproc"):
        reason = "OpenCV is not installed" if cv2 is None else f"OpenCV {cv2.__version__} has no contrib modules"
        fix = "Run pip install 'foveal[rcnn]'" + ("" if cv2 is None else ", after pip uninstall of the other OpenCV")
        raise UsageError(f"selective search needs OpenCV's contrib modules, but {reason}", fix=fix)
    return cv2


# ------------------------------------------------------------------------------------------- sliding windows
@dataclass(frozen=True)
class SlidingWindows(ProposalSource):
    """Windows of several sizes and aspect ratios on a regular grid, the largest first: the baseline that a proposal
    source has to beat (Hosang et al., PAMI 2016). It depends on the image's size alone and costs nothing.
    """

    top: int = 2000  # how many of the best proposals of each image a detector uses
    sizes: tuple[float, ...] = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)  # sqrt(w h) as a fraction of the image's sqrt(W H)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    stride: float = 0.3  # as a fraction of the window's sides

    def __post_init__(self) -> None:
        if self.top < 1 or not self.sizes or not self.ratios or min(*self.sizes, *self.ratios, self.stride) <= 0:
            raise UsageError(f"expected top of at least 1 and everything else above 0, got {self}")

    def __call__(self, image: ImageArray) -> Proposed:
        height, width = image.shape[:2]
        boxes = [np.zeros((0, 4))]
        for size, ratio in itertools.product(sorted(self.sizes, reverse=True), self.ratios):
            side = size * (width * height) ** 0.5
            w, h = min(width, side / ratio**0.5), min(height, side * ratio**0.5)
            x, y = np.meshgrid(self._starts(width, w), self._starts(height, h))
            boxes.append(np.stack([x, y, x + w, y + h], -1).reshape(-1, 4))
        windows = np.concatenate(boxes).astype(np.float32)
        return Proposed(windows, np.linspace(1, 0, len(windows) + 1, dtype=np.float32)[:-1])

    def _starts(self, whole: float, part: float) -> NDArray[np.float64]:
        """Where windows of length ``part`` begin on an axis of length ``whole``, both ends included."""
        return np.linspace(0, whole - part, 1 + int(np.ceil((whole - part) / (self.stride * part))))
