"""Mask AP against pycocotools 2.0.11 (``iouType="segm"``), and detections with masks in files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foveal.errors import FovealError
from foveal.evaluation import DetectionTable, GroundTruth, read_detections, save_detections, score_detections
from foveal.evaluation import masks as masks_module
from foveal.evaluation.coco import NUMBERS
from foveal.evaluation.masks import MaskIntersection, MaskRuns
from foveal.masks.rle import Masks

CLASSES = ("a", "b", "c", "never")


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Two discs less a third; small, medium and large ones; some empty."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, bool)
    scale = rng.choice([0.06, 0.2, 0.6])
    cy, cx = rng.random(2) * size
    for sign in (True, True, False):
        r = scale * (0.3 + 0.7 * rng.random()) * min(size)
        dy, dx = (rng.random(2) - 0.5) * scale * min(size)
        mask[np.hypot(y - cy - dy, x - cx - dx) < r] = sign
    return mask & (rng.random() > 0.05)


def random_set(
    seed: int, images: int = 25
) -> tuple[GroundTruth, DetectionTable, list[list[np.ndarray[Any, Any]]], list[Any]]:
    """Crowds, ties, images without objects or detections, empty masks."""
    rng = np.random.default_rng(seed)
    sizes = [(int(h), int(w)) for h, w in rng.integers(40, 260, (images, 2))]
    objects: list[list[np.ndarray[Any, Any]]] = []
    rows: list[tuple[int, int, bool, float]] = []
    found: list[tuple[int, int, float]] = []
    drawn: list[list[np.ndarray[Any, Any]]] = []
    for i, size in enumerate(sizes):
        own = [blob(rng, size) for _ in range(rng.integers(0, 6))]
        labels = rng.integers(0, 3, len(own)).tolist()
        crowd = (rng.random(len(own)) < 0.2).tolist()
        areas = [float(m.sum()) if rng.random() < 0.8 else float(rng.integers(0, 20000)) for m in own]
        rows += [(i, k, c, a) for k, c, a in zip(labels, crowd, areas, strict=True)]
        objects.append(own)
        seen: list[np.ndarray[Any, Any]] = []
        for mask, label in zip(own, labels, strict=True):
            for _ in range(rng.integers(0, 4)):  # the object moved, cut or as it is, sometimes of another class
                moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1)) if rng.random() < 0.7 else mask.copy()
                if rng.random() < 0.3:
                    moved[: size[0] // 2] = False
                seen.append(moved)
                found.append((i, label if rng.random() < 0.8 else 1, float(rng.integers(0, 12)) / 12))
        for _ in range(rng.integers(0, 4)):
            seen.append(blob(rng, size))
            found.append((i, int(rng.integers(0, 3)), float(rng.random())))
        drawn.append(seen)
    box = np.tile([1.0, 2.0, 30.0, 40.0], (len(rows), 1))
    truth = GroundTruth.build(
        range(1, images + 1), CLASSES, [r[0] for r in rows], [r[1] for r in rows], box,
        crowd=[r[2] for r in rows], area=[r[3] for r in rows], sizes=sizes, category_ids=(3, 5, 8, 9),
        masks=runs(objects, sizes),
    )  # fmt: skip
    boxes = np.tile([1.0, 2.0, 30.0, 40.0], (len(found), 1))
    detections = DetectionTable.build(
        [f[0] for f in found], [f[1] for f in found], boxes, [f[2] for f in found], masks=runs(drawn, sizes)
    )
    return truth, detections, objects, drawn


def runs(masks: list[list[np.ndarray[Any, Any]]], sizes: list[tuple[int, int]]) -> MaskRuns:
    rows = zip(masks, sizes, strict=True)
    return MaskRuns.of([Masks.of_dense(np.array(m)) if m else Masks.empty(size) for m, size in rows])


def peer(truth: GroundTruth, found: DetectionTable, objects: Any, drawn: Any) -> tuple[list[float], Any]:
    sizes = truth.sizes
    assert sizes is not None and truth.category_ids is not None
    flat = [m for own in objects for m in own]
    coded = [Masks.of_dense(m[None]).to_coco()[0] for m in flat]
    rows = zip(
        truth.image.tolist(), truth.label.tolist(), truth.area.tolist(), truth.crowd.tolist(), coded, strict=True
    )
    annotations = [
        {"id": n, "image_id": truth.images[i], "category_id": truth.category_ids[k], "bbox": [0, 0, 1, 1], "area": a,
         "iscrowd": int(c), "segmentation": m}
        for n, (i, k, a, c, m) in enumerate(rows, 1)
    ]  # fmt: skip
    seen = [Masks.of_dense(m[None]).to_coco()[0] for own in drawn for m in own]
    cells = zip(found.image.tolist(), found.label.tolist(), found.score.tolist(), seen, strict=True)
    # no "bbox": with one pycocotools takes the box's area for that of the mask
    results = [
        {"image_id": truth.images[i], "category_id": truth.category_ids[k], "score": s, "segmentation": m}
        for i, k, s, m in cells
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": i, "height": int(h), "width": int(w)} for i, (h, w) in zip(truth.images, sizes, strict=True)
            ],
            "annotations": annotations,
            "categories": [{"id": c, "name": n} for c, n in zip(truth.category_ids, truth.classes, strict=True)],
        }
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(results), "segm")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored.stats.tolist(), scored.eval["precision"]


@pytest.mark.parametrize("seed", range(5))
def test_mask_metrics_match_pycocotools(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found, objects, drawn = random_set(seed)
    if seed == 4:  # in many small pieces
        monkeypatch.setattr("foveal.evaluation.matching.RUNS", 50)
        monkeypatch.setattr("foveal.evaluation.matching.CHUNK", 7)
    results = score_detections(truth, found, "coco")
    expected, precision = peer(truth, found, objects, drawn)
    assert results.masks is not None
    for name, value in zip(NUMBERS, expected, strict=True):
        ours = results.masks[name]
        assert (ours is None and value == -1) or ours == pytest.approx(value, abs=1e-12), name
    for k, name in enumerate(CLASSES):
        p = precision[:, :, k, 0, 2]
        value = results.masks["per_class"][name]["AP"]
        assert value is None if (p == -1).all() else value == pytest.approx(p[p > -1].mean(), abs=1e-12)
    assert list(results.to_dict()["masks"]) == [*NUMBERS, "per_class"]
    assert results.masks["AP"] != results.numbers["AP"]


def test_mask_intersections() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.array([blob(rng, (50, 40)) for _ in range(9)]) for _ in range(2))
    a[0], a[1], b[2] = False, True, True
    found, objects = MaskRuns.of([Masks.of_dense(a)]), MaskRuns.of([Masks.of_dense(b)])
    d, g = (x.reshape(-1) for x in np.meshgrid(np.arange(9), np.arange(9)))
    shared = MaskIntersection(objects)(found, d, g)
    np.testing.assert_array_equal(shared, (a[d] & b[g]).sum((1, 2)))
    np.testing.assert_array_equal(found.area(), a.sum((1, 2)))
    assert masks_module.RUNS > 0 and len(MaskIntersection(objects)(found, d[:0], g[:0])) == 0


def test_objects_without_a_mask_are_excluded() -> None:
    """One of three objects has none: of the other two, one is found, so recall is a half."""
    square = np.zeros((1, 20, 20), bool)
    square[0, 5:15, 5:15] = True
    own = Masks.join(
        [Masks.of_dense(square), Masks.of_dense(square.transpose(0, 2, 1)), Masks.empty((20, 20), 1)], (20, 20)
    )
    sizes = [(20, 20)] * 2
    truth = GroundTruth.build(
        (1, 2), ("a",), [0, 1, 1], [0, 0, 0], [[5, 5, 15, 15]] * 3, sizes=sizes, masks=MaskRuns.of([own]),
        drawn=[True, True, False],
    )  # fmt: skip
    found = DetectionTable.build([0], [0], [[5, 5, 15, 15]], [0.9], masks=MaskRuns.of([Masks.of_dense(square)]))
    results = score_detections(truth, found)
    assert (
        results.masks is not None and results.masks["AR100"] == 0.5 and results.numbers["AR100"] == pytest.approx(1 / 3)
    )
    assert any("1 objects have no mask" in note for note in results.notes)
    assert "masks" in results.text() and "mAP50" in results.text()
    bare = GroundTruth.build((1, 2), ("a",), [0], [0], [[5, 5, 15, 15]], sizes=sizes)
    plain = score_detections(bare, found)
    assert plain.masks is None and "masks" not in plain.to_dict()
    assert any("no masks" in note for note in plain.notes)


# --------------------------------------------------------------------------------------------------- files
def test_masks_round_trip_through_files(tmp_path: Path) -> None:
    truth, found, *_ = random_set(1)
    save_detections(found, truth, tmp_path / "d.json")
    again = read_detections(tmp_path / "d.json", truth)
    assert again.masks is not None and found.masks is not None
    np.testing.assert_array_equal(again.masks.area(), found.masks.area())
    assert score_detections(truth, again).to_dict() == score_detections(truth, found).to_dict()
    text = json.loads((tmp_path / "d.json").read_text())[0]["segmentation"]
    assert set(text) == {"size", "counts"} and isinstance(text["counts"], str)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, size: None, "missing"),
        (lambda s, size: {**s, "size": [size[0] + 1, size[1]]}, "the image"),
        (lambda s, size: {**s, "counts": [size[0] * size[1] - 1]}, "sum to"),
        (lambda s, size: {**s, "counts": [-1, size[0] * size[1] + 1]}, "sum to"),
        (lambda s, size: {**s, "counts": "\x01"}, "cannot be read"),
        (lambda s, size: {**s, "counts": None}, "cannot be read"),
        (lambda s, size: [[1, 2, 3, 4]], "three corners"),
        (lambda s, size: "no mask", "expected a list of polygons"),
    ],
)
def test_invalid_mask_is_reported(change: Any, words: str, tmp_path: Path) -> None:
    truth, found, *_ = random_set(2)
    save_detections(found, truth, tmp_path / "d.json")
    records = json.loads((tmp_path / "d.json").read_text())
    assert truth.sizes is not None
    records[3]["segmentation"] = change(records[3]["segmentation"], truth.sizes[found.image[3]].tolist())
    (tmp_path / "d.json").write_text(json.dumps(records))
    with pytest.raises(FovealError, match=rf"d\.json.*record 3.*{words}"):
        read_detections(tmp_path / "d.json", truth)
