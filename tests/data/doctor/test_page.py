"""The page of ``foveal doctor`` in a real Chromium: pictures of findings, and sets that have nothing to show."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal import presets
from foveal.checks.object_fit import object_fit
from foveal.cli import main as cli
from foveal.data.doctor.detector_fit import DetectorFit
from foveal.data.doctor.examine import examine_parts, for_training
from foveal.data.doctor.page import page as render_page
from tests.helpers.data_sets import BOXES, image, voc, xml
from tests.inspection.browser import chromium, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


def write(source: Path, out: Path, preset: str | None = None) -> Path:
    report, parts = examine_parts(source)
    fit: DetectorFit | None = None
    if preset is not None:
        fit = object_fit(presets.get(preset), for_training(parts), preset)
    out.write_text(render_page(report, parts, fit))
    return out


def test_findings_have_pictures_and_the_table_its_numbers(browser: Any, tmp_path: Path) -> None:
    source = voc(tmp_path / "set")
    (source / "Annotations" / "a.xml").write_text(
        xml([("cat", 5, 5, 90, 40), ("dog", 9, 9, 3, 3), ("cat", 2, 2, 9, 9)])
    )
    shutil.copy(source / "JPEGImages" / "a.jpg", source / "JPEGImages" / "d.jpg")  # in val
    path = write(source, tmp_path / "page.html", "faster_rcnn_mini")
    for width, scheme in ((360, "dark"), (1280, "light"), (1920, "light")):
        with opened(browser, path, width=width, scheme=scheme) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            assert page.evaluate(broken) == 0 and page.locator("img").count() >= 8
    with opened(browser, path) as page:
        text = page.locator("body").inner_text()
        for words in ("box-over-edge", "box-inverted", "duplicate-across-splits", "Anchors", "Best possible recall"):
            assert words in text
        cells = [row.split("\t") for row in page.locator("table").nth(3).inner_text().split("\n")]
        assert cells[0] == ["class", "train images", "train objects", "val images", "val objects"]
        report, _ = examine_parts(source)
        train, val = report.splits
        for row, a, b in zip(cells[1:], train.classes, val.classes, strict=False):
            assert row == [a.name, *map(str, (a.images, a.objects, b.images, b.objects))]
        assert cells[-1] == ["all", *map(str, (train.images, train.objects, val.images, val.objects))]
    assert all(src.startswith("data:image/jpeg") for src in re.findall(r'src="([^"]*)"', path.read_text()))


def test_a_box_is_drawn_where_it_is(tmp_path: Path) -> None:
    """The picture of a box over the edge holds the red of its frame."""
    from foveal.data.doctor.pictures import RED, boxed

    part = boxed((10, 20, 60, 50), RED)(np.zeros((100, 100, 3), np.uint8))
    x1, y1, x2, y2 = (round(v) for v in part.box((10, 20, 60, 50)))
    red = np.asarray(part.image)[..., 0] > 200
    assert red[y1 - 1 : y1 + 2, x1:x2].any() and red[y1:y2, x1 - 1 : x1 + 2].any()
    assert not red[(y1 + y2) // 2, (x1 + x2) // 2]
    point = boxed((30, 30, 30, 30), RED)(np.zeros((100, 100, 3), np.uint8))
    assert (np.asarray(point.image)[..., 0] > 200).sum() > 50  # a ring: the box itself would not be seen


def test_names_that_are_markup_one_class_and_a_photo_of_61_megapixels(browser: Any, tmp_path: Path) -> None:
    source = voc(tmp_path / "set", splits=False)
    name = "</script><script>fail()</script> \"q\" 'r' <b>"
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for file in (source / "Annotations").iterdir():
        file.write_text(xml([(escaped, 3, 3, 30, 30)], name=f"{file.stem}.jpg"))
    Image.new("RGB", (9600, 6400), (90, 120, 90)).save(source / "JPEGImages" / "large.jpg")
    (source / "Annotations" / "large.xml").write_text(xml([(escaped, 100, 100, 9000, 6300)], name="large.jpg", size=""))
    path = write(source, tmp_path / "page.html", "yolo_v3_mini")
    with opened(browser, path) as page:
        text = page.locator("body").inner_text()
        assert name in text and "a single class" in text and "9600 x 6400 pixels (61 megapixels)" in text
        assert "reduced copies" in text
    assert path.stat().st_size < 500_000


def test_images_without_objects_and_images_that_cannot_be_read(browser: Any, tmp_path: Path) -> None:
    source = voc(tmp_path / "set")
    for file in (source / "Annotations").iterdir():
        file.write_text(xml([], name=f"{file.stem}.jpg"))
    with opened(browser, write(source, tmp_path / "a.html", "retinanet_mini")) as page:
        text = page.locator("body").inner_text()
        assert "No image has an object" in text and "No class has an object" in text and "nothing can be judged" in text
    (source / "Annotations" / "a.xml").write_text(xml(BOXES["a"]))
    image(source / "JPEGImages" / "a.jpg", format="PNG")
    body = bytearray((source / "JPEGImages" / "a.jpg").read_bytes())
    body[len(body) // 2] ^= 0xFF
    (source / "JPEGImages" / "a.jpg").write_bytes(body)
    with opened(browser, write(source, tmp_path / "b.html", "fcos_mini")) as page:
        assert "the image cannot be read" in page.locator("body").inner_text()
        assert "has no anchors" in page.locator("body").inner_text()


def test_the_command_with_a_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = voc(tmp_path / "set"), tmp_path / "page.html"
    words = ["doctor", str(source), "--for", "retinanet_mini", "input.short=64", "--html", str(out)]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "for retinanet_mini: 3 objects of split train" in told and "best possible recall" in told
    assert "At the input of retinanet_mini" in out.read_text()
    assert cli.main(["doctor", str(source), "--for", "retinanet_min"]) == 2
    assert "retinanet_mini" in capsys.readouterr().err
    assert cli.main(["doctor", str(source), "--for", "retinanet_mini", "input.shrt=64"]) == 2
    assert "short" in capsys.readouterr().err
