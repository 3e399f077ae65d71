"""Keypoints, polygons, rotated boxes and confidences: told apart by kpt_shape or by the numbers of the whole set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveal.data.formats.yolo.shapes import LineKind, find_shapes
from foveal.data.open import check_trainable, open_dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import codes
from tests.helpers.data_sets import image

Rows = list[list[float]]


def boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.5, (count, 2))
    return np.concatenate([rng.uniform(size / 2, 1 - size / 2), size], 1)


def pose(count: int, points: int, values: int, seed: int = 0, hidden: float = 0.2) -> Rows:
    """Boxes with keypoints inside, some of them not marked (0, 0)."""
    rng = np.random.default_rng(seed)
    box = boxes(count, seed)
    where = rng.uniform(-0.5, 0.5, (count, points, 2)) * box[:, None, 2:] + box[:, None, :2]
    seen = rng.integers(1, 3, (count, points, 1))
    off = rng.random((count, points, 1)) < hidden
    points_ = np.where(off, 0, np.concatenate([where, seen], 2)[..., :values])
    return np.concatenate([box, points_.reshape(count, -1)], 1).tolist()


def polygons(count: int, points: int, seed: int = 0) -> Rows:
    """Simple polygons around a center."""
    rng = np.random.default_rng(seed)
    box = boxes(count, seed)
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
    "2 x 2": (pose(12, 2, 2), "keypoints"),
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


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_never_keypoints(seed: int) -> None:
    """Nor keypoints polygons, whatever their number; a polygon may be left in doubt, which is told."""
    for points in range(3, 12):
        assert find_shapes(polygons(15, points, seed)).of(2 * points) in ("polygon", "rotated")
        assert find_shapes(pose(15, points, 2, seed)).of(4 + 2 * points) == "keypoints"
        assert find_shapes(pose(15, points, 3, seed)).of(4 + 3 * points) == "keypoints"


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
