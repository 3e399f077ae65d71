"""The pages, in a real Chromium: no requests, no errors, and the NMS of the page keeps what the detector keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.assembly.trace import tracing
from foveal.errors import UsageError
from foveal.inspection.funnel import miss_funnel
from foveal.inspection.funnel_page import write_funnel
from foveal.inspection.page import inspection_page, page_data, page_paths, write_inspection
from foveal.inspection.payload import levels_of
from foveal.inspection.traced import TracedImage, TracedStage, trace_image
from foveal.inspection.verdicts import ObjectVerdict
from tests.inspection.browser import chromium, opened
from tests.inspection.test_reasons import HEIGHT, MINIS, WIDTH, record, small, traced
from tests.inspection.test_verdicts import dataset, oracle, tasked

ARRAY = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DETECTORS = ("retinanet_mini", "fcos_mini", "ssd_mini", "yolo_v3_mini", "faster_rcnn_mini", "detr_mini")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


def settings(stage: TracedStage, floor: float, rng: np.random.Generator) -> dict[str, Any]:
    """Random positions of the sliders."""
    select, suppress = stage.task.select, stage.task.suppress
    scores = stage.fates.score[np.isfinite(stage.fates.score)]
    return {
        "score": float(max(floor, rng.choice(scores) if rng.random() < 0.5 else rng.random() * scores.max())),
        "level": None if select.per_level is None else int(rng.integers(1, select.per_level + 1)),
        "class": None if select.per_class is None else int(rng.integers(1, select.per_class + 1)),
        "top": int(rng.integers(1, suppress.top + 1)),
        "iou": round(float(rng.random()), 2),
    }


def kept_by_detector(stage: TracedStage, chosen: dict[str, Any]) -> tuple[list[list[float]], list[float]]:
    """Class and box, and score, of what the detector keeps with these settings, computed by its own parts."""
    select = replace(stage.task.select, score=chosen["score"], per_level=chosen["level"], per_class=chosen["class"])
    suppress: Any = replace(stage.task.suppress, top=chosen["top"])
    suppress = replace(suppress, iou=chosen["iou"]) if hasattr(suppress, "iou") else suppress
    task = replace(stage.task, select=select, suppress=suppress)
    with tracing() as trace:
        task.detect(stage.selection.predictions, stage.selection.priors, stage.selection.images)
    kept = trace.selections[0].kept
    assert kept.rows is not None
    boxes = trace.selections[0].boxes[0][kept.rows[0][kept.valid[0]]]  # as they entered NMS
    labels, scores = kept.labels[0][kept.valid[0]].tolist(), kept.scores[0][kept.valid[0]].tolist()
    return [[k, *b] for k, b in zip(labels, boxes.tolist(), strict=True)], scores


KEPT = """([stage, all]) => all.map(chosen => {
  const s = inspection.stages[stage], now = Object.assign({}, s.settings, chosen);
  if (s.settings.iou === null) now.iou = null;
  const {kept} = inspection.decide(s.c, now);
  return kept.map(i => [s.c.score[i], s.c.label[i], ...s.c.box.slice(4 * i, 4 * i + 4)]);
})"""


@pytest.mark.parametrize("name", DETECTORS)
def test_the_page_keeps_what_the_detector_keeps(name: str, browser: Any, tmp_path: Path) -> None:
    """At the run's settings and at 20 random ones, bit by bit, for each stage."""
    one = traced(name, seed=5)
    path = write_inspection(one, ARRAY, tmp_path / "page.html", "one.png", "a run")
    assert path.stat().st_size < 2e6
    rng = np.random.default_rng(1)
    data = page_data(one, ARRAY, "one.png", "a run")
    with opened(browser, path) as page:
        for number, stage in enumerate(one.stages):
            own = page.evaluate("n => inspection.stages[n].result.kept", number)
            assert own == data["stages"][number]["candidates"]["kept"], (name, stage.name)
            floor = data["stages"][number]["candidates"]["floor"]
            chosen = [settings(stage, floor, rng) for _ in range(20)]
            for position, kept in zip(chosen, page.evaluate(KEPT, [number, chosen]), strict=True):
                expected, scores = kept_by_detector(stage, position)
                assert [row[1:] for row in kept] == expected, (name, stage.name, position)
                # a sigmoid of the same logit may differ in the last bit with its position in the tensor
                assert [row[0] for row in kept] == pytest.approx(scores, abs=1e-7)


@pytest.mark.parametrize("name", MINIS)
def test_every_view_of_every_small_preset(name: str, browser: Any, tmp_path: Path) -> None:
    one = traced(name, seed=2)
    path = write_inspection(one, ARRAY, tmp_path / "page.html", "one.png", "a run")
    assert path.stat().st_size < 2e6
    with opened(browser, path, width=360, scheme="dark") as page:
        for step in range(page.evaluate("inspection.views.length")):
            page.evaluate("n => inspection.show(n)", step)
            page.keyboard.press("ArrowDown")
            page.locator("#canvas").click(position={"x": 60, "y": 50})
            page.keyboard.press("f")
            assert "null" not in page.locator("#panel").inner_text().split("\n")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_sliders_keys_and_the_result(browser: Any, tmp_path: Path) -> None:
    data = dataset(tmp_path)
    detector, first = oracle(data), data.records[0]
    array = np.asarray(Image.open(first.path))
    one = trace_image(detector, array, first)
    path = write_inspection(one, array, tmp_path / "page.html", "one.png", "a run")
    with opened(browser, path) as page:
        assert page.locator("h2").inner_text() == "Image"
        page.keyboard.press("ArrowRight")
        assert page.locator("h2").inner_text() == "Priors"
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        assert page.locator("h2").inner_text() == "Result"
        assert "3 of 3 objects found" in page.locator("#panel").inner_text()
        page.keyboard.press("ArrowLeft")
        page.get_by_label("limit in all").fill("1")
        assert "Changed" in page.locator("#panel").inner_text()
        page.keyboard.press("Escape")
        page.evaluate("inspection.show(inspection.views.length - 1)")
        assert "1 of 3 objects found" in page.locator("#panel").inner_text()
        page.keyboard.press("ArrowDown")
        assert "disc" not in page.locator("#caption").inner_text() and "1 " in page.locator("#caption").inner_text()


def test_names_that_are_markup_and_images_without_anything(browser: Any, tmp_path: Path) -> None:
    classes = ["</script><script>fail()</script>", "\"quoted\" & 'so'", "<b>\u2028</b>"]
    spec = small(tasked())
    torch.manual_seed(0)
    detector = spec.build(classes).eval()
    none = record(np.random.default_rng(0), 0)
    quiet = replace(spec, task=replace(spec.task, select=replace(spec.task.select, score=0.9999)))
    cases = {
        "objects": trace_image(detector, ARRAY, record(np.random.default_rng(0), 3)),
        "no object": trace_image(detector, ARRAY, none),
        "not known": trace_image(detector, ARRAY),
        "no detections": trace_image(quiet.build(classes).eval(), ARRAY, none),
        "single class": trace_image(spec.build(classes[:1]).eval(), ARRAY, none),
    }
    for case, one in cases.items():
        path = write_inspection(one, ARRAY, tmp_path / f"{case}.html", "</title><b>.png", 'a "run" /*data*/')
        with opened(browser, path) as page:
            assert case in page.locator("#panel").inner_text()
            for step in range(page.evaluate("inspection.views.length")):
                page.evaluate("n => inspection.show(n)", step)
            assert page.title().startswith("</title><b>.png")
            assert page.evaluate("inspection.data.classes[0]") == classes[0]


def test_a_photo_of_61_megapixels_is_reduced() -> None:
    one = traced("ssd_mini")
    large = np.zeros((6400, 9600, 3), np.uint8)
    data = page_data(one, large, "large.jpg", "a run")
    assert data["original"]["w"] == 9600
    assert any("a copy of 1600" in note for note in data["notes"])
    assert len(data["original"]["src"]) < 1e6


def test_the_page_needs_no_browser_to_be_valid() -> None:
    """Its data is JSON without a ``<``; nothing in it refers to an address."""
    text = inspection_page(traced("faster_rcnn_mini"), ARRAY, "one.png", "a run")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    assert found is not None and json.loads(found[1])["detector"] == "FasterRCNN"
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import""", text)


@pytest.mark.parametrize("name", [n for n in MINIS if "rcnn" not in n and n not in ("detr_mini", "spp_net_mini")])
def test_priors_as_grids(name: str) -> None:
    """The grid of a level gives its boxes back."""
    priors = traced(name).stages[0].selection.priors
    for level in levels_of(priors):
        at = np.arange(level["count"])
        cell, k = np.divmod(at, level["per"])
        center = np.stack(
            [level["x"] + cell % level["w"] * level["dx"], level["y"] + cell // level["w"] * level["dy"]], 1
        )
        boxes = np.tile(center, 2) + np.array(level["cell"])[k]
        given = priors.boxes[level["start"] : level["start"] + level["count"]].numpy()
        assert np.abs(boxes - given).max() < 0.05
    assert sum(level["count"] for level in levels_of(priors)) == len(priors.boxes)


def test_the_funnel_page(browser: Any, tmp_path: Path) -> None:
    data = dataset(tmp_path)
    funnel = miss_funnel(oracle(data, tasked(select=replace(tasked().task.select, score=0.999999))), data)
    path = write_funnel(funnel, tmp_path / "funnel.html", "<run>")
    with opened(browser, path, width=360) as page:
        assert "score too low" in page.locator("body").inner_text()
        assert page.locator("figure").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert funnel.count(ObjectVerdict.SCORE) == funnel.objects


def test_names_of_pages(tmp_path: Path) -> None:
    assert [p.name for p in page_paths(["a/x.jpg", "b/X.png", "c/y.jpg"], tmp_path)] == ["x.html", "X-2.html", "y.html"]
    assert page_paths(["a.jpg"], tmp_path / "one.html") == [tmp_path / "one.html"]
    with pytest.raises(UsageError, match="is one page, for 2 images"):
        page_paths(["a.jpg", "b.jpg"], tmp_path / "one.html")


def test_attention_is_the_mean_of_the_heads() -> None:
    one: TracedImage = traced("detr_mini")
    assert one.attention is not None
    assert one.attention.sum((1, 2)) == pytest.approx(np.ones(len(one.attention)), abs=1e-4)
    data = page_data(one, ARRAY, "one.png", "a run")
    assert data["attention"]["queries"] and data["attention"]["src"].startswith("data:image/png")
