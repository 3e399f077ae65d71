"""Keypoints, polygons, rotated boxes and confidences: told apart by kpt_shape or by the numbers of the whole set."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from foveal.data.formats.yolo.shapes import LineKind, find_shapes
from foveal.data.open import check_trainable, open_dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import codes
from tests.helpers.data_sets import image

Rows = list[list[float]]


SCENES = {"mixed": (0.1, 0.5), "small": (0.02, 0.1), "large": (0.5, 0.9), "small and central": (0.02, 0.1)}


def boxes(count: int, seed: int, scene: str = "mixed") -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(*SCENES[scene], (count, 2))
    center = rng.uniform(size / 2, 1 - size / 2)
    if "central" in scene:
        center = rng.uniform(0.4, 0.6, (count, 2))
    return np.concatenate([center, size], 1)


def pose(count: int, points: int, values: int, seed: int = 0, hidden: float = 0.2, scene: str = "mixed") -> Rows:
    """Boxes with keypoints inside, some of them not marked (0, 0)."""
    rng = np.random.default_rng(seed)
    box = boxes(count, seed, scene)
    where = rng.uniform(-0.5, 0.5, (count, points, 2)) * box[:, None, 2:] + box[:, None, :2]
    seen = rng.integers(1, 3, (count, points, 1))
    off = rng.random((count, points, 1)) < hidden
    points_ = np.where(off, 0, np.concatenate([where, seen], 2)[..., :values])
    return np.concatenate([box, points_.reshape(count, -1)], 1).tolist()


def polygons(count: int, points: int, seed: int = 0, scene: str = "mixed") -> Rows:
    """Simple polygons around a center."""
    rng = np.random.default_rng(seed)
    box = boxes(count, seed, scene)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, points)), 1)
    radius = rng.uniform(0.3, 0.5, (count, points))
    around = np.stack([np.cos(angles) * radius, np.sin(angles) * radius], 2) * box[:, None, 2:] + box[:, None, :2]
    return around.reshape(count, -1).tolist()


def rotated(count: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    box = boxes(count, seed)
    turn = rng.uniform(0, np.pi, count)
    ux, uy = np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([-np.sin(turn), np.cos(turn)], 1)
    w, h = box[:, 2:3] / 2, box[:, 3:4] / 3
    corners = [box[:, :2] + a * w * ux + b * h * uy for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return np.concatenate(corners, 1).tolist()


CASES: dict[str, tuple[Rows, LineKind]] = {
    "17 x 2": (pose(12, 17, 2), "keypoints"),
    "17 x 3": (pose(12, 17, 3), "keypoints"),
    "4 x 3": (pose(12, 4, 3), "keypoints"),
    "5 x 2": (pose(12, 5, 2), "keypoints"),
    "1 x 2": (pose(30, 1, 2, hidden=0), "keypoints"),
    "1 x 3": (pose(12, 1, 3), "keypoints"),
    "2 x 2": (pose(60, 2, 2), "keypoints"),
    "one line of 17 x 3": (pose(1, 17, 3), "keypoints"),
    "one line of 17 x 2": (pose(1, 17, 2, hidden=0), "keypoints"),
    "triangles": (polygons(30, 3), "polygon"),
    "quadrilaterals": (polygons(30, 4), "polygon"),
    "polygons of 20": (polygons(12, 20), "polygon"),
    "one polygon of 7": (polygons(1, 7), "polygon"),
    "rotated boxes": (rotated(12), "rotated"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_lines_are(case: str) -> None:
    rows, kind = CASES[case]
    assert find_shapes(rows).of(len(rows[0])) == kind


@pytest.mark.parametrize("scene", SCENES)
def test_polygons_are_never_keypoints(scene: str) -> None:
    """Nor keypoints polygons, whatever their size and number; few lines may be left in doubt, which is told."""
    doubt = total = 0
    for seed, points, count in itertools.product(range(6), range(1, 10), (1, 2, 4, 8, 15, 60)):
        drawn = find_shapes(polygons(count, points + 2, seed, scene)).of(2 * points + 4)
        marked = find_shapes(pose(count, points, 2, seed, scene=scene)).of(2 * points + 4)
        assert drawn in ("polygon", "rotated", None) and marked in ("keypoints", None), (seed, points, count)
        assert find_shapes(pose(count, points, 3, seed, scene=scene)).of(4 + 3 * points) == "keypoints"
        doubt += (drawn is None) + (marked is None) if points > 2 and count > 10 else 0
        total += 2 if points > 2 and count > 10 else 0
    assert doubt <= 0.02 * total


def test_number_plates() -> None:
    """Four corners of small objects in the middle of the images lie in any box that one reads from them."""
    rng = np.random.default_rng(0)
    box = boxes(40, 0, "small and central")
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) + rng.normal(0, 0.08, (40, 4, 2))
    rows = (corners * box[:, None, 2:] + box[:, None, :2]).reshape(40, 8).tolist()
    assert find_shapes(rows).of(8) in ("polygon", "rotated")


def test_columns_that_are_no_points(tmp_path: Path) -> None:
    """A confidence and a track after the box; keypoints with a confidence behind them."""
    root = write(tmp_path, [f"0 0.5 0.5 0.{k}5 0.2 0.9 {k + 3}" for k in range(6)])
    found = open_dataset(root).findings
    assert [f.code for f in found] == ["line-columns"] and "column 7 goes from 3 to 8" in found[0].message


def test_polygons_in_pixels(tmp_path: Path) -> None:
    rows = [[100 * v for v in row] for row in (*polygons(3, 5), *polygons(4, 7, 1))]
    root = write(tmp_path, lines_of(rows))
    errors = [f for f in open_dataset(root).findings if f.severity == "error"]
    assert [f.code for f in errors] == ["box-convention"] and "the polygons look like" in errors[0].message
    read = open_dataset(root, convention="pixels")
    x = [v for k, v in enumerate(rows[0]) if k % 2 == 0]
    assert read.records[0].boxes[0, [0, 2]].tolist() == pytest.approx([min(x), max(x)], abs=1e-3)


def test_polygons_of_different_lengths_beside_boxes() -> None:
    shapes = find_shapes([*polygons(3, 5), *polygons(3, 8), *boxes(3, 1).tolist()])
    assert (shapes.of(10), shapes.of(16), shapes.of(4), shapes.of(6)) == ("polygon", "polygon", "box", None)


def test_kpt_shape_decides() -> None:
    triangle = polygons(1, 3)
    assert find_shapes(triangle, (1, 2)).of(6) == "keypoints"
    shapes = find_shapes([*pose(3, 4, 3), *polygons(2, 5)], (4, 3))
    assert shapes.of(16) == "keypoints" and shapes.of(10) is None and "expected 17" in shapes.problem(10)
    assert find_shapes(pose(3, 4, 2), (4, 3)).of(12) == "keypoints"  # visibilities were left out
    assert find_shapes(pose(12, 5, 2), task="segment").of(14) == "polygon"


def test_doubt_is_an_error_that_says_how_to_decide(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.4 0.4 0.45 0.45"  # a box with one point in it, or a small triangle
    root = write(tmp_path, [line])
    found = open_dataset(root).findings
    assert [f.code for f in found] == ["line-columns"] and "keypoint" in found[0].message
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "kpt_shape: [1, 2]\n")
    assert codes(open_dataset(root)) == ["note keypoints-ignored"]


def write(root: Path, lines: list[str], extra: str = "") -> Path:
    image(root / "images" / "a.jpg", width=100, height=100)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames: [cat, dog]\n{extra}")
    return root


def lines_of(rows: Rows) -> list[str]:
    return ["0 " + " ".join(f"{v:.6f}" for v in row) for row in rows]


def test_the_box_of_a_pose_is_used(tmp_path: Path) -> None:
    rows = pose(6, 17, 3)
    dataset = open_dataset(write(tmp_path, lines_of(rows)))
    want = np.array([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h, *_ in rows]) * 100
    assert np.allclose(dataset.records[0].boxes, want, atol=1e-3) and codes(dataset) == ["note keypoints-ignored"]
    assert "6 lines in 1 file hold 17 keypoints of 3 numbers" in dataset.findings[0].message
    assert "kpt_shape" in dataset.findings[0].message


def test_the_box_around_a_rotated_one(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, ["0 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5", "1 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2"]))
    assert dataset.records[0].boxes.tolist() == [pytest.approx([20, 20, 80, 80]), pytest.approx([10, 10, 30, 20])]
    assert codes(dataset) == ["note rotated-box"]


def test_the_whole_set_decides_for_a_split(tmp_path: Path) -> None:
    """One line of val could be a polygon; the lines of train have keypoints."""
    for split, count in (("train", 10), ("val", 1)):
        image(tmp_path / "images" / split / f"{split}.jpg")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{split}.txt").write_text(
            "\n".join(lines_of(pose(count, 1, 2, hidden=0))) + "\n"
        )
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    assert codes(open_dataset(tmp_path, split="val")) == ["note keypoints-ignored"]


@pytest.mark.parametrize("value", ["17", "[17]", "[17, 4]", "[a, b]", "[0, 2]", "[17, 3, 1]"])
def test_invalid_kpt_shape(tmp_path: Path, value: str) -> None:
    dataset = open_dataset(write(tmp_path, lines_of(pose(6, 17, 3)), f"kpt_shape: {value}\n"))
    assert sorted(codes(dataset)) == ["note keypoints-ignored", "warning kpt-shape-invalid"]


def test_columns_of_no_kind_are_one_error(tmp_path: Path) -> None:
    rows = [[*row, 0.9] for row in polygons(5, 6)]
    dataset = open_dataset(write(tmp_path, lines_of(rows)))
    assert codes(dataset) == ["error line-columns"] and "5 lines in 1 file" in dataset.findings[0].message
    with pytest.raises(FovealError, match="the last one may be a confidence"):
        check_trainable(dataset)
