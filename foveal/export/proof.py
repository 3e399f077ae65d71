"""The proof of an exported file: torch and ONNX Runtime on the same images, their boxes, scores, times and AP."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from ..assembly.detector import Detector
from ..data.records.dataset import Dataset
from ..evaluation.scoring import score_detector
from ..evaluation.statistics.comparing import compare_runs
from ..files.aliases import ImageArray, OnProgress
from ..runner.onnx_detector import ModelError, OnnxDetector
from ..types import Detections
from .compare import Differences, as_flat
from .hard_images import hard_images

AP_LIMIT = 1e-4
_INPUT = 1e-4  # largest difference of normalized pixels


@dataclass
class Proof:
    """What was compared. ``failures``: what differs, in sentences; empty: the file is proved."""

    images: int = 0
    boxes: int = 0
    matched: int = 0
    worst_pixels: float = 0.0
    worst_pixels_large: float = 0.0
    worst_score: float = 0.0
    batches: tuple[int, ...] = ()
    torch_ms: dict[str, float] = field(default_factory=dict)  # p50 and p95 of an image
    onnx_ms: dict[str, float] = field(default_factory=dict)
    load_seconds: float = 0.0
    megabytes: float = 0.0
    process_megabytes: float = 0.0  # the peak of this process, which holds torch too
    scores: dict[str, Any] = field(default_factory=dict)  # AP of both sides, and their difference with its interval
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"proved": not self.failures, **asdict(self)}

    def text(self) -> str:
        """For the terminal."""
        px = f"{self.worst_pixels:.2g} px ({self.worst_pixels_large:.2g} above 1,000 px)"
        lines = [
            f"{self.images} images, {self.boxes} boxes: {self.matched} matched, at most {px} apart and "
            f"{self.worst_score:.1g} of score",
            f"batches of {', '.join(map(str, self.batches))}: equal",
            f"ms an image, p50 / p95: torch {_ms(self.torch_ms)}, onnxruntime {_ms(self.onnx_ms)}",
            f"{self.megabytes:.1f} MB, loaded in {self.load_seconds:.2f} s",
        ]
        if self.scores:
            lines.append(
                f"AP of torch {self.scores['torch']}, of the file {self.scores['onnx']}: {self.scores['text']}"
            )
        return "\n".join(lines)


class _Side:
    """A detector whose predictions are timed and recorded."""

    def __init__(self, detector: Detector, run: Any) -> None:
        self.classes, self.threshold, self.device = detector.classes, detector.threshold, torch.device("cpu")
        self.class_agnostic, self.has_masks = detector.class_agnostic, False
        self.run, self.found, self.ms, self.sides = run, list[Any](), list[float](), list[int]()

    def predict_arrays(
        self, arrays: Sequence[ImageArray], batch: int | None = None, proposals: Any = None
    ) -> list[Detections]:
        started = time.perf_counter()
        found = self.run.predict_arrays(arrays, batch, proposals)
        self.ms += [1e3 * (time.perf_counter() - started) / len(arrays)] * len(arrays)
        self.found += found
        self.sides += [max(a.shape[:2]) for a in arrays]
        names = tuple(self.classes)
        return [_as_tensors(d, names) for d in found]

    def times(self) -> dict[str, float]:
        return {"p50": float(np.percentile(self.ms, 50)), "p95": float(np.percentile(self.ms, 95))}


def prove(
    detector: Detector,
    content: bytes,
    dataset: Dataset | None = None,
    *,
    batch: int | None = None,
    progress: OnProgress | None = None,
) -> Proof:
    """Compares ``detector`` (fp32, on a CPU) with the file's ``content``.

    On the images of ``dataset``, where there is one, and always on those of :func:`hard_images`. ``batch``: the fixed
    batch of the file.
    """
    proof = Proof(megabytes=len(content) / 1e6)
    started = time.perf_counter()
    try:
        runner = OnnxDetector(content, threads=torch.get_num_threads())
    except ModelError as error:
        proof.failures.append(f"the file {error}")
        return proof
    proof.load_seconds = time.perf_counter() - started
    proof.failures += _settings(detector, runner, batch)
    images = list(hard_images())
    proof.failures += _inputs(detector, runner, images)
    if proof.failures:
        return proof
    sides = _Side(detector, detector), _Side(detector, runner)
    for number, (_, array) in enumerate(images):
        boxes = None if detector.source is None else [detector.source(array).boxes[: detector.source.top]]
        for side in sides:
            side.predict_arrays([array], 1, boxes)
        if progress is not None:
            progress(number + 1, len(images))
    if detector.source is None:
        proof.batches, failures = _batches(runner, images[0][1], batch)
        proof.failures += failures
    if dataset is not None:
        _score(proof, sides, detector, dataset, progress)
    _compare(proof, sides, detector)
    proof.process_megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return proof


def _settings(detector: Detector, runner: OnnxDetector, batch: int | None) -> list[str]:
    """What the metadata and the axes say otherwise than the detector."""
    found = []
    if runner.classes != detector.classes:
        found.append(
            f"the classes of the file are {', '.join(runner.classes)}, the detector's {', '.join(detector.classes)}"
        )
    if runner.batch != batch:
        asked = "any number of images" if batch is None else f"{batch} images"
        found.append(f"the batch of the file is fixed to {runner.batch}, and was to take {asked}")
    if runner.threshold != detector.threshold:
        found.append(f"the score threshold of the file is {runner.threshold:g}, the detector's {detector.threshold:g}")
    return found


def _inputs(detector: Detector, runner: OnnxDetector, images: Sequence[tuple[str, ImageArray]]) -> list[str]:
    """In what the pixels of both differ before any network sees them."""
    for name, array in images[:12]:
        ours = detector.spec.input.batch([array])
        placement = runner.rule.placement(*array.shape[:2])
        theirs = runner.rule.pixels(array, placement)
        if tuple(ours.pixels.shape[1:]) != theirs.shape:
            made = f"{theirs.shape[1:]}, and {tuple(ours.pixels.shape[2:])} in torch"
            return [f"the resize rule differs: {name} becomes {made}"]
        off = np.abs(ours.pixels[0].numpy() - theirs)
        if off.max() > _INPUT * max(1.0, float(np.abs(theirs).max())):
            shift = off.reshape(3, -1).mean(1)
            even = np.abs(ours.pixels[0].numpy() - theirs).reshape(3, -1).std(1).max() < 0.2 * shift.max()
            what = "the mean or std of the pixels differs" if even else "the resize rule differs"
            return [f"{what}: the network's input of {name} is off by up to {off.max():.3g}"]
    return []


def _batches(runner: OnnxDetector, array: ImageArray, batch: int | None) -> tuple[tuple[int, ...], list[str]]:
    """Whether batches of 1, 2 and 5 images give the same boxes."""
    sizes = (1, 2, 5) if batch is None else (batch,)
    alone = runner.predict_arrays([array], 1)[0]
    for size in sizes:
        try:
            found = runner.predict_arrays([array] * size, size)
        except Exception as error:  # of onnxruntime, of many types
            return sizes, [f"a batch of {size} fails: {' '.join(str(error).split())[:150]}"]
        differences = Differences()
        for each in found:
            first, second = as_flat([alone, each], [1, 1])
            differences.add(first, second, runner.threshold)
        if not differences.equal:
            return sizes, [f"a batch of {size} gives other boxes: {'; '.join(differences.causes(runner.threshold))}"]
    return sizes, []


def _score(
    proof: Proof, sides: tuple[_Side, _Side], detector: Detector, dataset: Dataset, progress: OnProgress | None
) -> None:
    """AP of both sides on a data set, with the paired interval of the difference."""
    ours, theirs = (score_detector(side, dataset, progress=progress).results for side in sides)  # type: ignore[arg-type]
    difference = compare_runs([ours.run], [theirs.run]).numbers["AP"]
    proof.scores = {
        "data": dataset.path.name,
        "split": dataset.split,
        "torch": ours.headline,
        "onnx": theirs.headline,
        "difference": difference.to_dict(),
        "text": str(difference),
    }
    if None not in (ours.headline, theirs.headline) and abs(ours.headline - theirs.headline) > AP_LIMIT:  # type: ignore[operator]
        proof.failures.append(f"AP differs: {ours.headline:.5f} in torch, {theirs.headline:.5f} of the file")


def _compare(proof: Proof, sides: tuple[_Side, _Side], detector: Detector) -> None:
    first, second = (as_flat(side.found, side.sides) for side in sides)
    differences = Differences()
    for ours, theirs in zip(first, second, strict=True):
        differences.add(ours, theirs, detector.threshold)
    proof.images, proof.boxes, proof.matched = differences.images, differences.boxes, differences.matched
    proof.worst_pixels, proof.worst_pixels_large = differences.pixels, differences.far_pixels
    proof.worst_score = differences.score
    proof.torch_ms, proof.onnx_ms = (side.times() for side in sides)
    if not differences.equal:
        proof.failures += differences.causes(detector.threshold)


def _as_tensors(found: Any, names: tuple[str, ...]) -> Detections:
    boxes, scores, labels = (torch.as_tensor(np.asarray(v)) for v in (found.boxes, found.scores, found.labels))
    return Detections(boxes, scores, labels, names)


def _ms(times: dict[str, float]) -> str:
    return " / ".join(f"{times[key]:.1f}" for key in ("p50", "p95"))
