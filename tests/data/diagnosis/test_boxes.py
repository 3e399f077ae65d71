"""The verdict on the boxes of a set: it names another convention, and says nothing of sets that are right."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from foveal.data.diagnosis.boxes import BoxVerdict, judge_boxes
from foveal.data.open import open_sources
from foveal.data.records.convention import Convention
from foveal.data.records.evidence import Evidence
from foveal.files.aliases import Floats

NATIVE = {
    "coco": Convention("top-left"),
    "voc": Convention("corners"),
    "yolo": Convention("centers", "fractions"),
    "createml": Convention("centers"),
}
WRITTEN = [
    *(Convention(layout, unit) for layout in ("corners", "top-left", "centers") for unit in ("pixels", "fractions")),
    *(Convention(layout, "percent") for layout in ("corners", "top-left", "centers")),
    *(Convention(layout, swapped=True) for layout in ("corners", "top-left", "centers")),
    *(Convention("ranges", unit) for unit in ("pixels", "fractions")),
    *(Convention(layout, frame=(1000, 1000)) for layout in ("corners", "top-left")),
]


def write(convention: Convention, boxes: Floats, sizes: Floats) -> Floats:
    """The numbers (N, 4) that a tool of this convention writes for xyxy ``boxes``; the inverse of what is tested."""
    scaled = boxes / np.tile(convention.scale(sizes), 2)
    low, high = scaled[:, :2], scaled[:, 2:]
    first = (low + high) / 2 if convention.layout == "centers" else low
    second = high if convention.layout in ("corners", "ranges") else high - low
    numbers = np.concatenate([first, second], 1)
    numbers = numbers[:, [0, 2, 1, 3]] if convention.layout == "ranges" else numbers
    return numbers[:, [1, 0, 3, 2]] if convention.swapped else numbers


def judge(read_as: Convention, numbers: Floats, sizes: Floats, areas: Floats | None = None) -> BoxVerdict | None:
    evidence = Evidence(read_as)
    for k, (four, size) in enumerate(zip(numbers.tolist(), sizes.astype(int).tolist(), strict=True)):
        evidence.add(tuple(four), tuple(size), None if areas is None else float(areas[k]), None)
    return judge_boxes([evidence])


def scenes(kind: str, count: int, seed: int) -> tuple[Floats, Floats]:
    """Boxes xyxy (count, 4) in images (count, 2), all inside."""
    rng = np.random.default_rng(seed)
    sizes = np.array([(640, 480), (480, 640), (1920, 1080), (500, 375), (256, 256)], float)[rng.integers(5, size=count)]
    if kind == "full":
        return np.concatenate([np.zeros_like(sizes), sizes], 1), sizes
    low, high = {"mixed": (0.03, 0.6), "crowd": (0.01, 0.05), "large": (0.5, 0.95), "nearly full": (0.9, 1.0)}.get(
        kind, (0.05, 0.3)
    )
    sides = rng.uniform(low, high, (count, 2)) * sizes
    corner = rng.uniform(0, 1, (count, 2)) * (sizes - sides)
    if kind == "left":
        corner[:, 0] *= 0.3
    if kind == "lower half":
        corner[:, 1] = sizes[:, 1] / 2 + corner[:, 1] / 2 * 0.9
        sides[:, 1] = np.minimum(sides[:, 1], sizes[:, 1] - corner[:, 1])
    if kind == "cut off":  # by every edge
        corner = np.clip(rng.uniform(-0.4, 1, (count, 2)) * sizes, 0, sizes - 9)
        sides = np.minimum(sides, sizes - corner)
    return np.concatenate([corner, corner + sides], 1), sizes


GOOD = ("mixed", "crowd", "large", "nearly full", "full", "left", "lower half", "cut off")


@pytest.mark.parametrize(("kind", "format"), list(itertools.product(GOOD, NATIVE)))
def test_good_sets_are_left_alone(kind: str, format: str) -> None:
    for count, seed in itertools.product((1, 2, 3, 5, 10, 30, 300), range(10)):
        boxes, sizes = scenes(kind, count, seed)
        assert judge(NATIVE[format], write(NATIVE[format], boxes, sizes), sizes) is None, (count, seed)


def test_boxes_over_the_edges_are_no_convention() -> None:
    """Boxes of whole objects that are cut off leave the image on all sides; some annotations are simply wrong."""
    for format, seed in itertools.product(NATIVE, range(20)):
        boxes, sizes = scenes("mixed", 60, seed)
        rng = np.random.default_rng(seed)
        amodal = boxes + np.tile(rng.uniform(-0.15, 0.15, (60, 2)) * sizes, 2)
        wrong = np.where(rng.random((60, 1)) < 0.1, boxes + rng.normal(0, 100, (60, 4)), boxes)
        for each in (amodal, wrong):
            verdict = judge(NATIVE[format], write(NATIVE[format], each, sizes), sizes)
            assert verdict is None or not verdict.sure


@pytest.mark.parametrize(
    ("format", "written"),
    [(f, w) for f in NATIVE for w in WRITTEN if w != NATIVE[f]],
    ids=lambda value: value if isinstance(value, str) else str(value),
)
def test_another_convention_is_named(format: str, written: Convention) -> None:
    for seed in range(10):
        boxes, sizes = scenes("mixed", 60, seed)
        verdict = judge(NATIVE[format], write(written, boxes, sizes), sizes)
        assert verdict is not None and verdict.sure and written in verdict.looks, verdict
        assert verdict.boxes == 60


def test_a_dozen_boxes_are_enough() -> None:
    """As the smallest sets that people try; the verdict never names a wrong one alone."""
    found = total = 0
    for format, written, seed in itertools.product(NATIVE, WRITTEN, range(5)):
        if written == NATIVE[format]:
            continue
        boxes, sizes = scenes("mixed", 12, seed)
        verdict = judge(NATIVE[format], write(written, boxes, sizes), sizes)
        total += 1
        found += verdict is not None and verdict.sure and written in verdict.looks
    assert found / total > 0.9


def test_coordinates_of_larger_and_of_smaller_images() -> None:
    boxes, sizes = scenes("mixed", 80, 1)
    verdict = judge(NATIVE["voc"], boxes * 3, sizes)
    assert verdict is not None and verdict.sure and not verdict.looks and "reach beyond" in verdict.evidence
    verdict = judge(NATIVE["coco"], write(NATIVE["coco"], boxes / 3, sizes), sizes)
    assert verdict is not None and not verdict.sure and not verdict.looks and "upper 33%" in verdict.evidence
    frame = Convention("corners", frame=(1000, 1000))
    again = judge(frame, boxes * 1000 / np.tile(sizes, 2), sizes)
    assert again is None


def test_fractions_among_pixels() -> None:
    boxes, sizes = scenes("mixed", 40, 3)
    numbers = write(NATIVE["coco"], boxes, sizes)
    numbers[::4] = write(Convention("top-left", "fractions"), boxes, sizes)[::4]
    verdict = judge(NATIVE["coco"], numbers, sizes)
    assert verdict is not None and verdict.sure and not verdict.looks
    assert "some boxes are in fractions" in verdict.claim and "10 of 40" in verdict.evidence


def test_boxes_of_other_images() -> None:
    """Where a third of the boxes leave their images and nothing explains it, that is said without a verdict."""
    boxes, sizes = scenes("mixed", 100, 4)
    moved = boxes + np.tile(np.random.default_rng(4).uniform(-0.5, 0.5, (100, 2)) * sizes, 2)
    verdict = judge(NATIVE["voc"], moved, sizes)
    assert verdict is not None and not verdict.sure and "no other reading" in verdict.claim


def test_stated_areas_and_polygons_decide() -> None:
    """Small boxes near the origin fit both readings; what the file states beside them tells which is meant."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(5, 60, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (20, 2))], 1)
    sizes = np.full((20, 2), 120.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    verdict = judge(NATIVE["coco"], boxes, sizes, areas)
    assert verdict is not None and verdict.sure and verdict.looks == (Convention("corners"),)
    assert judge(NATIVE["coco"], write(NATIVE["coco"], boxes, sizes), sizes, areas) is None
    evidence = Evidence(NATIVE["coco"])
    for (x1, y1, x2, y2), size in zip(boxes.tolist(), sizes.astype(int).tolist(), strict=True):
        polygon = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        evidence.add((y1, x1, y2 - y1, x2 - x1), tuple(size), None, polygon)  # a square image: no box leaves it
    verdict = judge_boxes([evidence])
    assert verdict is not None and verdict.sure and verdict.looks == (Convention("top-left", swapped=True),)
    assert "polygons" in verdict.evidence


@pytest.mark.parametrize("name", ["bccd", "voc2012-catdogcar", "coco128-train2017"])
def test_real_sets_and_parts_of_them(data: Path, name: str) -> None:
    """Read as they are; the same boxes written otherwise are recognized."""
    source = open_sources(data / name)[0]
    dataset = source.read(None)
    assert judge_boxes(dataset.evidence) is None
    boxes = np.concatenate([r.boxes for r in dataset.records])
    sizes = np.concatenate([np.tile([[r.width, r.height]], (len(r), 1)) for r in dataset.records]).astype(float)
    rng = np.random.default_rng(0)
    for format, count in itertools.product(NATIVE, (3, 10, 50)):
        chosen = rng.permutation(len(boxes))[:count]
        right = write(NATIVE[format], boxes[chosen], sizes[chosen])
        assert judge(NATIVE[format], right, sizes[chosen]) is None
    for format, written in itertools.product(NATIVE, WRITTEN):
        chosen = rng.permutation(len(boxes))[:100]
        if written != NATIVE[format]:
            verdict = judge(NATIVE[format], write(written, boxes[chosen], sizes[chosen]), sizes[chosen])
            assert verdict is not None and written in verdict.looks, (format, str(written))
