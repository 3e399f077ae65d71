"""Copies across splits: exact, at another size or quality, mirrored; and what only looks alike."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.data.doctor.duplicates import Seen, report_copies, seen, similar
from foveal.data.images.load import find_images, load_image
from foveal.data.records.findings import Findings


def scene(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))


def reported(known: dict[str, Seen], splits: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    findings = Findings()
    report_copies(known, splits, findings)
    return [(f.severity, f.code, f.path) for f in findings]


def test_changed_copies_are_found_across_splits_alone(tmp_path: Path) -> None:
    first = scene(1)
    Image.fromarray(first).save(tmp_path / "q.jpg", quality=20)
    copies = {
        "exact": first,
        "half": np.asarray(Image.fromarray(first).resize((80, 60))),
        "jpeg": load_image(tmp_path / "q.jpg"),
        "bright": np.clip(first * 1.2, 0, 255).astype(np.uint8),
        "mirror": np.ascontiguousarray(first[:, ::-1]),
        "crop": np.ascontiguousarray(first[2:, 3:]),
    }
    known = {"first": seen(first)} | {name: seen(pixels) for name, pixels in copies.items()}
    known |= {f"other {k}": seen(scene(k)) for k in range(2, 40)}
    splits = {name: ["train"] if name == "first" or name.startswith("other") else ["val"] for name in known}
    found = reported(known, splits)
    near = "near-duplicate-across-splits"
    assert found[0] == ("warning", "duplicate-across-splits", "exact")
    assert {row[2] for row in found[1:]} == set(copies) - {"exact"} and {row[1] for row in found[1:]} == {near}
    assert [row[1] for row in reported(known, {name: ["train"] for name in known})] == ["duplicate-image"]
    assert {row[:2] for row in reported(known, {name: [""] for name in known})[1:]} == {("note", "near-duplicate")}
    assert reported({"a": known["first"], "b": known["half"]}, {"a": ["trainval"], "b": ["val"]}) == []


def test_flat_images_are_compared_by_their_pixels_alone() -> None:
    gray = {str(v): seen(np.full((20, 20, 3), v, np.uint8)) for v in (10, 20, 30)}
    assert reported(gray, {"10": ["train"], "20": ["val"], "30": ["val"]}) == []


@pytest.mark.parametrize("folder", ["bccd/BCCD/JPEGImages", "coco128-train2017/images/train2017"])
def test_images_of_one_microscope_and_of_one_set_are_no_copies(folder: str, data: Path) -> None:
    """60 of each; the one near-duplicate of BCCD, 37 and 38, was looked at: the same cells, moved by some pixels."""
    paths = find_images(data / folder)[:60]
    gray = np.stack([seen(load_image(path)).thumbnail for path in paths])
    pairs = {
        (paths[a].stem, paths[b].stem) for i, j, _ in similar(gray, gray) for a, b in zip(i, j, strict=True) if a < b
    }
    assert pairs == ({("BloodImage_00037", "BloodImage_00038")} if "bccd" in folder else set())


def test_ten_thousand_images_are_compared_in_seconds() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (10_000, 32, 32), dtype=np.uint8)
    gray[-1] = gray[0]
    start = time.process_time()
    pairs = [(a, b) for i, j, _ in similar(gray, gray) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b]
    assert pairs == [(0, 9999)]
    assert time.process_time() - start < 20  # 2 s on one idle core
