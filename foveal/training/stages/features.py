"""Stored features: what the last two layers of R-CNN's head see of every window of the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ...assembly.detector import in_evaluation
from ...assembly.two_stage import TwoStage
from ...boxes import pairwise_iou
from ...data.loader.map_cache import Store, halves, key_of
from ...data.loader.shared_records import network_targets
from ...data.records.dataset import Dataset
from ...data.records.fingerprint import fingerprint, proposal_fingerprint
from ...external_proposals.cache import content_keys
from ...recipe import Recipe
from .feature_rows import ImageFeatures, overlaps_of

Tap = Literal["classes", "boxes"]
TAPS: tuple[Tap, Tap] = ("classes", "boxes")
IGNORED = 0.5  # a proposal that overlaps an ignored region by this much teaches nothing


@dataclass(frozen=True)
class FeatureStore(Store):
    """With the objects of each image, for detectors of ``classes`` classes."""

    classes: int

    def read(self, index: int, tap: Tap) -> ImageFeatures:
        """The windows of one image: all for the classes, those near an object for the boxes.

        Of the file only that is read: the boxes take a pass for every few classes, and what they see is the small part.
        """
        names = ("windows", "objects", "labels", "near", tap, f"{tap}.norms")
        with safe_open(self.path(index), "np") as file:
            windows, objects, labels, near, features, norms = (file.get_tensor(name) for name in names)
        own = np.full(len(windows), -1, np.int64)
        if len(labels):
            own[len(windows) - len(labels) :] = labels  # the objects come last
        overlaps, truth = overlaps_of(windows, objects, labels, self.classes)
        rows = ImageFeatures(features, windows, own, overlaps, truth, norms)
        return _some(rows, near) if tap == "boxes" else rows

    def rows(self, tap: Tap) -> Stored:
        return Stored(self, tap)


@dataclass(frozen=True)
class Stored:
    """Can be gone through again and again, in the order of the records, one image in memory at a time."""

    store: FeatureStore
    tap: Tap

    def __iter__(self) -> Iterator[ImageFeatures]:
        for index in range(self.store.images):
            yield self.store.read(index, self.tap)


@dataclass(frozen=True)
class Extraction:
    """How a store is filled. ``near``: windows that overlap an object by this much keep what the boxes see."""

    detector: TwoStage
    dataset: Dataset
    fit: Recipe
    near: float
    autocast: Callable[[], AbstractContextManager[object]]

    @property
    def key(self) -> str:
        """Of the weights below the last layers, the images, the windows and the objects."""
        weights = {k: v for k, v in self.detector.state_dict().items() if ".predictor." not in k}
        recipe = (self.near, self.fit.difficult, self.fit.crowd, self.detector.spec.input)
        given = fingerprint(self.dataset), proposal_fingerprint(self.dataset), content_keys(self.dataset.records)
        return key_of(weights, *recipe, *given)

    def __call__(self, store: FeatureStore, step: Callable[[int, int], None]) -> dict[int, str]:
        """See :meth:`Store.fill`. Raises :class:`FovealError` for features that are not finite in half precision, too.

        Images that cannot be read have no window.
        """
        with in_evaluation(self.detector):
            return store.fill(self.key, self.dataset.records, self._of, step)

    @torch.no_grad()
    def _of(self, index: int, image: NDArray[np.uint8] | None) -> dict[str, Tensor]:
        """What is stored of an image: its proposals, then its objects, in network pixels."""
        if image is None:
            return dict.fromkeys(("windows", "objects", *TAPS), torch.zeros(0, 4)) | _numbers(torch.zeros(0))
        record = self.dataset.records[index]
        images = self.detector.prepare([image], None if record.proposals is None else [record.proposals])
        targets = network_targets([record], images, self.fit)
        assert images.proposals is not None and images.proposals_valid is not None
        objects, ignored = targets.boxes[0][targets.valid[0]], targets.boxes[0][targets.ignore[0]]
        proposals = images.proposals[0][images.proposals_valid[0]]
        if len(ignored):
            proposals = proposals[pairwise_iou(proposals, ignored).amax(1) < IGNORED]
        windows = torch.cat([proposals, objects])
        near = torch.zeros(0, dtype=torch.int64)
        if len(objects) and len(proposals):  # a little more than will be asked for, where rounding might decide
            near = (pairwise_iou(proposals, objects).amax(1).cpu() > self.near - 1e-3).nonzero()[:, 0]
        with self.autocast():
            features = self.detector.outputs(images).features
        found: dict[Tap, list[Tensor]] = {"classes": [], "boxes": []}
        norms: dict[Tap, list[Tensor]] = {"classes": [], "boxes": []}
        start = 0
        pairs = self.detector.split_features(features, windows[None], images.sizes) if len(windows) else ()
        for pair in pairs:
            for tap, rows in zip(TAPS, pair, strict=True):
                rows = rows.float().cpu()
                norms[tap].append(rows.norm(dim=1))
                mine = near[(near >= start) & (near < start + len(rows))] - start
                found[tap].append(rows if tap == "classes" else rows[mine])
            start += len(pair[0])
        stored = halves({tap: torch.cat(parts) if parts else torch.zeros(0, 4) for tap, parts in found.items()}, record)
        lengths = {tap: torch.cat(parts) if parts else torch.zeros(0) for tap, parts in norms.items()}
        return {
            "windows": windows.cpu(),
            "objects": objects.cpu(),
            **stored,
            **_numbers(lengths["classes"], lengths["boxes"], targets.labels[0][targets.valid[0]].cpu(), near),
        }


def _numbers(
    classes: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None, near: Tensor | None = None
) -> dict[str, Tensor]:
    """The small entries of a file; those that are not given are empty."""
    none = torch.zeros(0, dtype=torch.int64)
    return {
        "classes.norms": classes,
        "boxes.norms": classes if boxes is None else boxes,
        "labels": none if labels is None else labels,
        "near": none if near is None else near,
    }


def _some(rows: ImageFeatures, index: NDArray[np.int64]) -> ImageFeatures:
    """The windows whose boxes' features are kept; ``features`` and ``norms`` are as they are."""
    return ImageFeatures(
        rows.features, rows.boxes[index], rows.labels[index], rows.overlaps[index], rows.truth[index], rows.norms
    )
