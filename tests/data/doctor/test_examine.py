"""``foveal doctor``: counts, duplicates, collapsed text, the HTML page and the exit status."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.data.doctor.examine import examine
from foveal.data.doctor.page import page as render_page
from foveal.errors import FovealError
from tests.helpers.data_sets import BOXES, coco, image, state, voc, xml, yolo


def test_valid_dataset(tmp_path: Path) -> None:
    source = voc(tmp_path)
    before = state(source)
    report = examine(source)
    assert report.status() == report.status(strict=True) == 0 and report.findings == ()
    assert (report.images, report.objects, report.classes) == (4, 5, ("cat", "dog"))
    train, val = report.splits
    assert (train.name, train.images, train.objects, train.empty) == ("train", 2, 3, 0)
    assert (val.name, val.images, val.objects, val.empty) == ("val", 2, 2, 1)
    assert [(c.name, c.images, c.objects) for c in train.classes] == [("cat", 1, 1), ("dog", 2, 2)]
    # By hand, areas 400, 900, 3072, 4, 540: three below 32 x 32 in all, sides 20, 30, 55.4, 2, 23.2
    assert train.sizes == (2, 1, 0) and val.sizes == (2, 0, 0)
    assert report.box_sides == (1, 0, 0, 3, 1, 0, 0, 0, 0, 0) and report.image_sizes == ((64, 48, 4),)
    assert state(source) == before


def test_progress_and_no_decoding(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(coco(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not examine(tmp_path, decode=False, progress=lambda *_: pytest.fail("decoded")).decoded


def test_damage_found_only_by_decoding(tmp_path: Path) -> None:
    source = voc(tmp_path)
    path = source / "JPEGImages" / "a.jpg"
    image(path, format="PNG")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(body)
    assert examine(source, decode=False).status() == 0
    report = examine(source)  # one of the two images of train
    assert report.status() == 1
    assert [(f.severity, f.code) for f in report.findings] == [
        ("error", "images-unreadable"),
        ("warning", "image-unreadable"),
    ]
    assert "1 of the 2 images of 'train'" in report.findings[0].message
    assert report.findings[1].path == str(path) and path.name in report.findings[0].message

    # Training skips up to 5 % and names them: one of 20 is a warning, one of 19 an error.
    train = source / "ImageSets" / "Main" / "train.txt"
    for k in range(18):
        image(source / "JPEGImages" / f"more{k}.jpg")
        (source / "Annotations" / f"more{k}.xml").write_text(xml(BOXES["a"], name=f"more{k}.jpg"))
    train.write_text("a\nb\n" + "".join(f"more{k}\n" for k in range(17)))
    assert examine(source).status() == 1
    train.write_text("a\nb\n" + "".join(f"more{k}\n" for k in range(18)))
    report = examine(source)
    assert [(f.severity, f.code) for f in report.findings] == [("warning", "image-unreadable")]
    assert report.status() == 0 and report.status(strict=True) == 1


def test_duplicates_by_pixels(tmp_path: Path) -> None:
    source = voc(tmp_path)
    shutil.copy(source / "JPEGImages" / "a.jpg", source / "JPEGImages" / "b.jpg")  # both in train
    shutil.copy(source / "JPEGImages" / "a.jpg", source / "JPEGImages" / "d.jpg")  # in val
    report = examine(source)
    assert [(f.severity, f.code) for f in report.findings] == [
        ("warning", "duplicate-across-splits"),
        ("note", "duplicate-image"),
    ]
    assert (report.status(), report.status(strict=True)) == (0, 1)
    (source / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\nc\nd\n")
    assert len(examine(source).findings) == 2  # trainval overlaps by design


def test_an_image_in_two_splits(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (source / "ImageSets" / "Main" / "val.txt").write_text("a\nc\nd\n")
    report = examine(source)
    assert [f.code for f in report.findings] == ["image-in-two-splits"] and report.findings[0].path.endswith("a.jpg")


def test_dataset_without_boxes_is_an_error(tmp_path: Path) -> None:
    source = voc(tmp_path)
    for path in (source / "Annotations").iterdir():
        path.write_text(xml([], name=f"{path.stem}.jpg"))
    report = examine(source)
    assert [f.code for f in report.findings] == ["no-box"] and report.status() == 1
    shutil.rmtree(source / "JPEGImages")
    (source / "JPEGImages").mkdir()
    assert [f.code for f in examine(source).findings].count("no-image") == 1


def test_text_collapses_repeats_and_truncates_nothing(tmp_path: Path) -> None:
    root = tmp_path / ("long" * 40)
    source = voc(root, splits=False)
    for k in range(12):
        image(source / "JPEGImages" / f"{k}.jpg", seed=k)
        (source / "Annotations" / f"{k}.xml").write_text(
            xml([("cat", 5, 5, 90, 40), ("cat", 6, 5, 90, 40)], name=f"{k}.jpg")
        )
    report = examine(source)
    text = report.text()
    folder = source / "Annotations"
    assert f"warning box-over-edge: 24 in 12 files, first: {folder / '0.xml'}: object 1 (cat): the box" in text
    assert "and 2 more" in text and "0 errors, 25 warnings, 0 notes" in text and "cat: 27 objects in 14 images" in text
    assert len(report.text(every=True).splitlines()) > 24
    assert len(report.to_list()) == 25  # and that most boxes of the set leave their images


def test_dict_is_json(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (source / "Annotations" / "a.xml").write_text("")
    report = examine(source)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["findings"] == json.loads(json.dumps(report.to_list())) and loaded["counts"]["error"] == 1
    assert set(loaded["findings"][0]) == {"code", "severity", "path", "where", "message", "fix"}


def test_file_names_that_are_not_utf_8_are_escaped(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source = voc(tmp_path / "a", splits=False)
    bad = source / "JPEGImages" / os.fsdecode(b"a\xff.jpg")
    bad.write_bytes(b"")
    (source / "Annotations" / bad.with_suffix(".xml").name).write_text(xml(BOXES["a"]))
    where = str(tmp_path / "found.json")
    assert cli.main(["doctor", str(source), "--json", where, "--html", str(tmp_path / "page.html")]) in (0, 1)
    assert any(f["path"].endswith("JPEGImages/a\\udcff.jpg") for f in json.loads(Path(where).read_text()))
    assert "a\\udcff.jpg" in (tmp_path / "page.html").read_text()
    assert cli.main(["doctor", str(source)]) in (0, 1)
    assert b"a\\udcff.jpg" in capfdbinary.readouterr().out


def test_page_is_complete_escaped_and_self_contained(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (source / "Annotations" / "a.xml").write_text(
        xml([("&lt;script&gt;alert(1)&lt;/script&gt;", 1, 1, 9, 9), ("dog", 9, 9, 3, 3)])
    )
    page = render_page(examine(source))
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "http" not in page and "src=" not in page and "href" not in page
    assert "<svg" in page and "box-inverted" in page

    class Balance(HTMLParser):
        stack: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "rect"):
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag != "rect":
                assert self.stack.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.stack == []


def test_several_paths_and_no_data(tmp_path: Path) -> None:
    report = examine([voc(tmp_path / "a"), yolo(tmp_path / "b")])
    assert report.images == 8 and report.splits[0].name == ""
    (tmp_path / "c").mkdir()
    with pytest.raises(FovealError, match="holds no dataset"):
        examine(tmp_path / "c")


def test_real_dataset(data: Path) -> None:
    report = examine(data / "bccd", decode=False)
    assert report.status() == 0 and report.counts == {"error": 0, "warning": 2, "note": 0}
    assert {s.name: s.objects for s in report.splits} == {"train": 2804, "val": 1137, "trainval": 3941, "test": 945}
