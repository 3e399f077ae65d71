"""``eval --detections`` on the files of other tools, against pycocotools on the same files."""

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

from foveal.cli import main as cli
from foveal.evaluation.coco import NUMBERS
from foveal.masks.rle import Masks
from tests.evaluation.test_masks import blob, random_set

SIZE = 100


def scores(place: Path, document: Any, results: Any, *options: str) -> tuple[dict[str, Any], Path]:
    """``results.json`` of the command on both files."""
    place.mkdir(exist_ok=True)
    truth, found, out = place / "truth.json", place / "found.json", place / "out.json"
    truth.write_text(json.dumps(document))
    found.write_text(json.dumps(results))
    words = ["eval", "--detections", str(found), "--data", str(truth), "--json", str(out), "--no-intervals", *options]
    assert cli.main(words) == 0
    return json.loads(out.read_text()), out


def peer(document: Any, results: Any, kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(document))
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored.stats.tolist()


def same(ours: dict[str, Any], theirs: list[float]) -> None:
    for name, value in zip(NUMBERS, theirs, strict=True):
        assert (ours[name] is None and value == -1) or ours[name] == pytest.approx(value, abs=1e-12), name


def set_of_masks(seed: int, *, bare: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO document, and results as COCO's format of segmentation results has them: without ``bbox``."""
    truth, found, objects, drawn = random_set(seed)
    assert truth.sizes is not None and truth.category_ids is not None
    annotations: list[dict[str, Any]] = []
    flat = [mask for own in objects for mask in own]
    for n, (i, k, area, crowd) in enumerate(zip(truth.image, truth.label, truth.area, truth.crowd, strict=True)):
        mask = Masks.of_dense(flat[n][None])
        x1, y1, x2, y2 = mask.extents()[0].tolist()
        if x1 == x2:
            continue  # the reader drops it: see test_objects_that_the_reader_drops
        entry = {"id": n + 1, "image_id": truth.images[i], "category_id": truth.category_ids[k], "iscrowd": int(crowd)}
        annotations.append(
            {**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "segmentation": mask.to_coco()[0]}
        )
    names = {} if bare else {"file_name": "{}.jpg"}
    images = [
        {"id": i, **{key: text.format(i) for key, text in names.items()}, "height": int(h), "width": int(w)}
        for i, (h, w) in zip(truth.images, truth.sizes, strict=True)
    ]
    categories = [{"id": c, "name": n} for c, n in zip(truth.category_ids, truth.classes, strict=True)]
    rows = zip(found.image.tolist(), found.label.tolist(), found.score.tolist(), strict=True)
    seen = [Masks.of_dense(mask[None]).to_coco()[0] for own in drawn for mask in own]
    results = [
        {"image_id": truth.images[i], "category_id": truth.category_ids[k], "score": s, "segmentation": mask}
        for (i, k, s), mask in zip(rows, seen, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("seed", [0, 3])
def test_segmentation_results_without_boxes(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks and the boxes around them, whose size is that of the mask: as pycocotools' ``loadRes``."""
    document, results = set_of_masks(seed, bare=True)  # without file_name too: no image is opened
    ours, _ = scores(tmp_path, document, results)
    same(ours["masks"], peer(document, results, "segm"))
    same(ours, peer(document, results, "bbox"))
    assert (
        f"{len(results)} of {len(results)} detections have no bbox: the box around the mask" in capsys.readouterr().err
    )
    some = [{**r, "bbox": []} if n % 2 else r for n, r in enumerate(results)]
    assert scores(tmp_path, document, some)[0]["masks"] == ours["masks"]


def test_a_record_with_neither_box_nor_mask_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, results = set_of_masks(0)
    (tmp_path / "truth.json").write_text(json.dumps(document))
    for change in ({"segmentation": None}, {"segmentation": []}, {"segmentation": None, "bbox": None}):
        (tmp_path / "found.json").write_text(json.dumps([results[0], {**results[1], **change}]))
        words = ["eval", "--detections", str(tmp_path / "found.json"), "--data", str(tmp_path / "truth.json")]
        assert cli.main(words) == 1
        error = capsys.readouterr().err
        assert "found.json: record 1: " in error and "bbox" in error


def objects_of_one_class(boxes: list[list[float]], images: int = 1, **entry: Any) -> dict[str, Any]:
    annotations = [
        {"id": n, "image_id": 1 + n % images, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, b in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": 1 + i, "width": SIZE, "height": SIZE, **entry} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }


def detected(boxes: list[list[float]], images: int = 1) -> list[dict[str, Any]]:
    return [
        {"image_id": 1 + n % images, "category_id": 1, "bbox": b, "score": 1 - n / 1e4} for n, b in enumerate(boxes, 1)
    ]


ODD = [[10, 10, 0, 5], [20, 20, 5, 0], [300, 300, 10, 10], [-50, 5, 10, 10], [30, 30, -4, 8]]


def test_objects_that_the_reader_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without area, outside, inverted, stated twice: left out and told, or counted like pycocotools."""
    good = [[float(5 + 10 * k), 5.0, 8.0, 8.0] for k in range(5)]
    document = objects_of_one_class([*good, *ODD, good[0]])
    document["annotations"].append(dict(document["annotations"][1]))  # the same annotation again
    results = detected([*good, [300, 300, 10, 10]])
    left, _ = scores(tmp_path, document, results)
    assert left["AP"] == pytest.approx(1) and left["dropped_objects"] == {"count": 7, "scored": False}
    assert "7 objects of the data without area, outside the image or repeated are left out" in capsys.readouterr().out
    ours, _ = scores(tmp_path, document, results, "--count-dropped")
    expected = peer(document, results, "bbox")
    same(ours, expected)
    assert expected[0] < 0.6 and ours["dropped_objects"] == {"count": 7, "scored": True}
    assert "count too, as in pycocotools" in capsys.readouterr().out


def test_dropped_objects_keep_their_masks_and_classes(tmp_path: Path) -> None:
    document, results = set_of_masks(1)
    for n, annotation in enumerate(document["annotations"]):
        if n % 3 == 0:
            annotation["bbox"] = [5, 5, 0, 3]
    ours, _ = scores(tmp_path, document, results, "--count-dropped")
    same(ours["masks"], peer(document, results, "segm"))
    same(ours, peer(document, results, "bbox"))
    one, _ = scores(tmp_path, document, results, "--count-dropped", "--classes", "b")
    assert one["AP"] == pytest.approx(ours["per_class"]["b"]["AP"], abs=1e-12)


def test_truth_without_file_names_or_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [[float(7 * k), float(5 * k), 12.0, 9.0] for k in range(12)]
    document = objects_of_one_class(boxes, images=3)
    results = detected([[x + 1, y, w, h] for x, y, w, h in boxes], images=3)
    same(scores(tmp_path, document, results)[0], peer(document, results, "bbox"))
    for image in document["images"]:
        del image["width"], image["height"]
    same(scores(tmp_path, document, results)[0], peer(document, results, "bbox"))
    assert "3 images without file_name, width and height" in capsys.readouterr().err


def test_the_limit_of_detections_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cocoapi#584: 300 perfect boxes of an image give AP .337, for only 100 of a class count."""
    boxes = [[float(5 * (k % 20)), float(6 * (k // 20)), 4.0, 5.0] for k in range(300)]
    document, results = objects_of_one_class(boxes), detected(boxes)
    ours, _ = scores(tmp_path, document, results)
    same(ours, peer(document, results, "bbox"))
    assert ours["AP"] == pytest.approx(0.337, abs=1e-3)
    out = capsys.readouterr().out
    assert "Only the 100 best detections of a class count" in out and "300 of 'cell' in 1" in out
    assert "33.3% of all objects" in out and "--max-dets 300" in out and "threshold" not in out
    raised, _ = scores(tmp_path, document, results, "--max-dets", "300")
    assert raised["AP"] == pytest.approx(1)
    assert cli.main(["eval", "--detections", "x", "--data", "y", "--protocol", "voc07", "--max-dets", "300"]) == 2
    assert "voc07 counts all detections" in capsys.readouterr().err


def test_an_empty_mask_is_a_box_without_area(tmp_path: Path) -> None:
    mask = Masks.of_dense(np.array([blob(np.random.default_rng(3), (SIZE, SIZE)), np.zeros((SIZE, SIZE), bool)]))
    x1, y1, x2, y2 = mask.extents()[0].tolist()
    document = objects_of_one_class([[x1, y1, x2 - x1, y2 - y1]], file_name="a.jpg")
    document["annotations"][0]["segmentation"] = mask.to_coco()[0]
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9 - k / 10, "segmentation": coded}
        for k, coded in enumerate(mask.to_coco())
    ]
    ours, _ = scores(tmp_path, document, results)
    same(ours["masks"], peer(document, results, "segm"))
    same(ours, peer(document, results, "bbox"))


SQUARES = [[10.0, 10.0, 20.0, 20.0], [50.0, 50.0, 30.0, 30.0]]
MASK = {"image_id": 1, "category_id": 1, "score": 0.9}
ONE, TWO = detected(SQUARES)
ODD_RESULTS: dict[str, tuple[Any, int, str]] = {  # results, status, what is said
    "no detection": ([], 0, "There are no detections at all"),
    "a polygon without bbox": ([{**MASK, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}], 0, "have no bbox"),
    "lengths as numbers": ([{**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": [9990, 10]}}], 0, "have no bbox"),
    "a mask of another size": ([{**MASK, "segmentation": {"size": [9, 9], "counts": [80, 1]}}], 1, "its mask is 9 x 9"),
    "lengths that are too short": (
        [{**MASK, "segmentation": {"size": [SIZE, SIZE], "counts": [8, 2]}}],
        1,
        "its run lengths sum to 10, expected",
    ),
    "a mask that is a word": ([{**MASK, "bbox": None, "segmentation": "abc"}], 1, "its segmentation is 'abc'"),
    "sides below zero": ([{**ONE, "bbox": [30, 30, -20, -20]}, TWO], 0, "AP "),
    "coordinates of 1e20": ([{**ONE, "bbox": [1e20, 1e20, 1e20, 1e20]}, TWO], 0, "AP "),
    "coordinates of 1e308": ([{**ONE, "bbox": [0, 0, 1e308, 1e308]}, TWO], 1, "record 0: bbox is [0.0, 0.0, 1e+308"),
    "scores of 1e300": ([{**ONE, "score": 1e300}, {**TWO, "score": -1e300}], 0, "AP "),
    "a class that is null": ([{**ONE, "category_id": None}], 1, "record 0: category_id is None"),
    "an image that is a list": ([{**ONE, "image_id": [1]}], 1, "record 0: image_id is [1]"),
    "nothing": ("", 1, "line 1, column 1: not JSON"),
    "a cut file": (json.dumps([ONE, TWO])[:60], 1, "line 1, column 61: not JSON"),
}
ODD_TRUTH: dict[str, tuple[dict[str, Any], str]] = {  # what is changed of the document, what is said
    "no annotation": ({"annotations": []}, "has no object at all"),
    "a box at 1e20": ({"bbox": [1e20, 1e20, 5, 5]}, "1 object of the data without area"),
    "a box without width": ({"bbox": [10, 10, 0, 5]}, "1 object of the data without area"),
    "an area of NaN": ({"area": float("nan")}, "its area nan is invalid"),
    "a size in words": ({"images": [{"id": 1, "width": "wide", "height": 80}]}, "its size 'wide' x 80 is invalid"),
    "ids alone": ({"images": [{"id": 1}, {"id": 2}]}, "2 images without file_name, width and height"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ODD_RESULTS)
def test_odd_results(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scored, or one line with file, place and value."""
    results, status, words = ODD_RESULTS[case]
    (tmp_path / "truth.json").write_text(json.dumps(objects_of_one_class(SQUARES)))
    (tmp_path / "found.json").write_text(results if isinstance(results, str) else json.dumps(results))
    arguments = ["eval", "--detections", str(tmp_path / "found.json"), "--data", str(tmp_path / "truth.json")]
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert words in out + err
    assert status == 0 or (err.startswith(f"foveal: {tmp_path / 'found.json'}: ") and err.count("\n") == 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ODD_TRUTH)
def test_odd_truth(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scored, and what was made of it is said."""
    change, words = ODD_TRUTH[case]
    document = objects_of_one_class(SQUARES)
    whole = {key: value for key, value in change.items() if key in document}
    document["annotations"][0].update({key: value for key, value in change.items() if key not in document})
    scores(tmp_path, {**document, **whole}, [ONE, TWO])
    captured = capsys.readouterr()
    assert words in captured.out + captured.err
