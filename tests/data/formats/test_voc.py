"""The VOC reader: what it accepts, repairs or drops, and the findings it reports."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from foveal.data.formats.voc.elements import read_file
from foveal.data.open import check_trainable, open_dataset
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError
from foveal.files.reading import Unreadable
from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH, image, voc, xml, xml_object
from tests.helpers.fuzz_files import silent_changes


def spoil(root: Path, text: str | bytes, name: str = "a") -> Dataset:
    voc(root)
    path = root / "Annotations" / f"{name}.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_dataset(root)


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


def boxes_of(dataset: Dataset, id: str) -> list[list[float]]:
    return next(r for r in dataset.records if r.id == id).boxes.tolist()


def test_valid_dataset(tmp_path: Path) -> None:
    dataset = open_dataset(voc(tmp_path / "set"))
    assert dataset.classes == ("cat", "dog") and dataset.splits == ("train", "val") and not dataset.findings
    assert [r.id for r in dataset.records] == list("abcd")
    for record in dataset.records:
        assert record.boxes.tolist() == [list(b[1:]) for b in BOXES[str(record.id)]]
        assert record.boxes.dtype == np.float64 and (record.width, record.height) == (WIDTH, HEIGHT)
        assert [dataset.classes[k] for k in record.labels] == [b[0] for b in BOXES[str(record.id)]]
    assert [r.id for r in open_dataset(tmp_path / "set", split="val").records] == ["c", "d"]
    assert [r.id for r in open_dataset(tmp_path / "set", split="valid").records] == ["c", "d"]


@pytest.mark.parametrize("path", ["set", "set/Annotations", "."])
def test_dataset_is_found_from_parent_and_subfolder(tmp_path: Path, path: str) -> None:
    voc(tmp_path / "set")
    assert len(open_dataset(tmp_path / path)) == 4


def test_box_values_match_the_devkit(tmp_path: Path) -> None:
    """VOC2012 devkit: pixel 1,1 to 10,20 inclusive is 10 wide and 20 high, from 0,0."""
    text = xml([("cat", 0, 0, 10, 20)])
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax>" in text
    assert boxes_of(spoil(tmp_path, text), "a") == [[0, 0, 10, 20]]


BAD_BOXES = {
    "box-inverted": ["<xmin>30</xmin><ymin>5</ymin><xmax>20</xmax><ymax>9</ymax>",
                     "<xmin>3</xmin><ymin>9</ymin><xmax>20</xmax><ymax>5</ymax>",
                     "<xmin>5</xmin><ymin>5</ymin><xmax>4</xmax><ymax>9</ymax>"],
    "box-empty": ["<xmin>3</xmin><ymin>5</ymin><xmax>3</xmax><ymax>5</ymax>",
                  "<xmin>3</xmin><ymin>5</ymin><xmax>3</xmax><ymax>9</ymax>"],
    "box-not-finite": ["<xmin>nan</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>",
                       "<xmin>1</xmin><ymin>5</ymin><xmax>inf</xmax><ymax>9</ymax>",
                       f"<xmin>1</xmin><ymin>5</ymin><xmax>{'9' * 400}</xmax><ymax>9</ymax>"],
    "box-not-number": ["<xmin>one</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>",
                       "<ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>",
                       "<xmin/><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>",
                       "<xmin>1_0</xmin><ymin>5</ymin><xmax>19</xmax><ymax>9</ymax>",
                       "<xmin>1,234</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>"],
    "box-outside": ["<xmin>70</xmin><ymin>5</ymin><xmax>90</xmax><ymax>9</ymax>",
                    "<xmin>-20</xmin><ymin>5</ymin><xmax>0</xmax><ymax>9</ymax>"],
}  # fmt: skip


@pytest.mark.parametrize(("code", "corners"), [(c, b) for c, many in BAD_BOXES.items() for b in many])
def test_invalid_box_drops_only_itself(tmp_path: Path, code: str, corners: str) -> None:
    bad = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    text = xml([]).replace("</annotation>", bad + xml_object(("dog", 1, 2, 30, 40)) + "</annotation>")
    dataset = spoil(tmp_path, text)
    assert boxes_of(dataset, "a") == [[1, 2, 30, 40]]
    assert codes(dataset) == [f"warning {code}"]
    finding = dataset.findings[0]
    assert finding.path == str(tmp_path / "Annotations" / "a.xml") and finding.where == "object 1 (cat)" and finding.fix
    check_trainable(dataset)


def test_boxes_over_the_edge(tmp_path: Path) -> None:
    quiet = spoil(tmp_path / "1", xml([("cat", -1, -1, 20, 20), ("dog", 5, 5, WIDTH + 1, HEIGHT + 1)]))
    assert codes(quiet) == ["note numbers-from-zero"] and "1 box from" in quiet.findings[0].message
    twice = spoil(tmp_path / "0", xml([("cat", -1, -1, 20, 20), ("dog", -1, 5, 9, 9)]))
    assert codes(twice) == ["note numbers-from-zero"] and "2 boxes from" in twice.findings[0].message
    assert codes(quiet) == ["note numbers-from-zero"] and boxes_of(quiet, "a") == [
        [0, 0, 20, 20],
        [5, 5, WIDTH, HEIGHT],
    ]
    loud = spoil(tmp_path / "2", xml([("cat", -3, 4, 20, 20), ("dog", 5, 5, WIDTH + 9, HEIGHT)]))
    assert codes(loud) == ["warning box-over-edge"] * 2
    assert boxes_of(loud, "a") == [[0, 4, 20, 20], [5, 5, WIDTH, HEIGHT]]
    assert "9 px over the edge" in loud.findings[1].message


def test_fractional_coordinates(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml([("cat", 3.25, 4.5, 20.75, 21.125)]))
    assert boxes_of(dataset, "a") == [[3.25, 4.5, 20.75, 21.125]] and not dataset.findings


def test_difficult_parts_and_missing_optional_tags(tmp_path: Path) -> None:
    objects = (
        xml_object(("cat", 1, 1, 9, 9), "<difficult>1</difficult>")
        + xml_object(("cat", 2, 2, 9, 9), "<difficult>0</difficult>")
        + xml_object(("cat", 3, 3, 9, 9))
        + xml_object(("cat", 4, 4, 9, 9), "<difficult>Unspecified</difficult>")
        + xml_object(("cat", 5, 5, 9, 9), "<difficult>maybe</difficult>")
        + xml_object(("dog", 6, 6, 40, 40), f"<part>{xml_object(('head', 7, 7, 9, 9))}</part>")
    )
    dataset = spoil(tmp_path, f"<annotation>{objects}</annotation>")
    record = dataset.records[0]
    assert record.difficult.tolist() == [True, False, False, False, False, False]
    assert dataset.classes == ("cat", "dog") and len(record) == 6
    assert codes(dataset) == ["warning flag-invalid"] and "maybe" in dataset.findings[0].message


@pytest.mark.parametrize(
    ("size", "findings"),
    [
        ("", []),
        ("<size><width>0</width><height>0</height></size>", []),
        ("<size><width>64</width></size>", []),
        ("<size/>", []),
        ("<size><width>wide</width><height>48</height></size>", ["warning size-invalid"]),
        ("<size><width>-64</width><height>48</height></size>", ["warning size-invalid"]),
        ("<size><width>64.0</width><height>48</height></size>", []),
    ],
)
def test_missing_or_wrong_sizes_are_read_from_the_image(tmp_path: Path, size: str, findings: list[str]) -> None:
    dataset = spoil(tmp_path, xml([("cat", 1, 1, 9, 9)], size))
    assert codes(dataset) == findings and len(dataset) == 4


def test_image_with_contradictory_size_is_excluded(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml([("cat", 1, 1, 9, 9)], "<size><width>100</width><height>48</height></size>"))
    assert [r.id for r in dataset.records] == ["b", "c", "d"] and codes(dataset) == ["warning image-size-mismatch"]
    assert "100 x 48" in dataset.findings[0].message and "64 x 48" in dataset.findings[0].message


def test_boxes_annotated_before_exif_rotation_are_explained(tmp_path: Path) -> None:
    from PIL import Image

    voc(tmp_path)
    tags = Image.Exif()
    tags[0x0112] = 6
    image(tmp_path / "JPEGImages" / "a.jpg", exif=tags.tobytes())
    dataset = open_dataset(tmp_path)
    assert (
        codes(dataset) == ["warning image-size-mismatch"]
        and "ignores the EXIF orientation" in dataset.findings[0].message
    )


UNREADABLE = {
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "empty": b"",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\n",
    "zero bytes": bytes(500),
    "not valid XML": b"<annotation><object>",
    "root element is <svg>": b"<svg/>",
    "document type": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    "document type ": b"<!DOCTYPE annotation SYSTEM 'file:///etc/passwd'><annotation/>",
    "document type  ": b'<!DOCTYPE a [<!ENTITY x "1"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>',
    "document type   ": '<!DOCTYPE a [<!ENTITY x SYSTEM "/etc/passwd">]><annotation>&x;</annotation>'.encode("utf-16"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_annotations_are_errors_that_name_the_file(tmp_path: Path, what: str) -> None:
    dataset = spoil(tmp_path, UNREADABLE[what])
    assert codes(dataset) == ["error annotation-unreadable"] and what.strip() in dataset.findings[0].message
    assert [r.id for r in dataset.records] == ["b", "c", "d"]
    with pytest.raises(FovealError) as caught:
        check_trainable(dataset)
    assert str(tmp_path / "Annotations" / "a.xml") in str(caught.value)


def test_deep_nesting_and_huge_files_are_rejected(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    assert len(dataset) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "gb18030"])
def test_declared_encodings(tmp_path: Path, encoding: str) -> None:
    name = "café" if encoding != "gb18030" else "猫"
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?>' + xml([(name, 1, 1, 9, 9)])
    dataset = spoil(tmp_path, text.encode(encoding))
    assert name in dataset.classes and codes(dataset) == []


def test_undeclared_encoding_is_guessed_and_reported(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml([("café", 1, 1, 9, 9)]).encode("latin-1"))
    assert "café" in dataset.classes and codes(dataset) == ["warning encoding-guessed"]


def test_objects_without_name_or_box(tmp_path: Path) -> None:
    text = "<annotation><object><name>cat</name></object><object><bndbox/></object><object/></annotation>"
    dataset = spoil(tmp_path, text)
    assert codes(dataset) == ["warning box-missing", "warning class-missing", "warning class-missing"]


def test_duplicate_objects_are_dropped_and_reported(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml([("cat", 1, 1, 9, 9)] * 3 + [("dog", 1, 1, 9, 9)]))
    assert codes(dataset) == ["warning object-repeated"] * 2 and len(dataset.records[0]) == 2


def test_classes_txt_takes_precedence(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird\n", encoding="utf-8-sig")
    assert open_dataset(tmp_path).classes == ("dog", "cat", "bird")
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("dog",)
    assert codes(dataset) == ["warning class-repeated"] + ["warning class-unknown"] * 3


def test_split_files_take_precedence(tmp_path: Path) -> None:
    voc(tmp_path)
    sets = tmp_path / "ImageSets" / "Main"
    (sets / "train.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\nJPEGImages/b.jpg\r\n\r\na\r\n../../etc/passwd\r\n")
    (sets / "val.txt").write_text("d\n")
    train = open_dataset(tmp_path, split="train")
    assert [r.id for r in train.records] == ["a", "b"]
    assert codes(train) == ["note annotation-unlisted", "warning id-repeated", "warning image-missing"]  # c
    assert [r.id for r in open_dataset(tmp_path).records] == ["a", "b", "d"]
    assert "note annotation-unlisted" in codes(open_dataset(tmp_path))


def test_devkit_class_files(tmp_path: Path) -> None:
    voc(tmp_path)
    sets = tmp_path / "ImageSets" / "Main"
    (sets / "cat_train.txt").write_text("a  1\nb -1\nc  0\n")
    assert open_dataset(tmp_path).splits == ("train", "val")
    assert [r.id for r in open_dataset(tmp_path, split="cat_train").records] == ["a", "c"]
    (sets / "train.txt").unlink()
    assert [r.id for r in open_dataset(tmp_path, split="train").records] == ["a", "b", "c"]


def test_missing_pieces(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    dataset = open_dataset(tmp_path, split="train")
    assert codes(dataset) == ["warning annotation-missing", "warning image-missing"] and not dataset.records
    assert [f.path for f in dataset.findings] == [str(tmp_path / "JPEGImages" / n) for n in ("a.jpg", "b.jpg")]
    with pytest.raises(FovealError, match="no usable image"):
        check_trainable(dataset)


def test_without_split_files_an_image_without_xml_is_unknown(tmp_path: Path) -> None:
    voc(tmp_path, splits=False)
    (tmp_path / "Annotations" / "a.xml").unlink()
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["warning annotation-missing"] and len(dataset) == 3 and dataset.splits == ()


def test_images_and_xml_anywhere(tmp_path: Path) -> None:
    """In one folder, in two of any name, nested, with upper-case extensions, as PNG."""
    for n, (images, labels) in enumerate([("x", "x"), ("pics", "boxes"), ("deep/down/p", "deep/other/q")]):
        root = tmp_path / str(n)
        for name, suffix in (("a", ".JPG"), ("b", ".png")):
            image(root / images / f"{name}{suffix}", format="PNG")
            (root / labels).mkdir(parents=True, exist_ok=True)
            (root / labels / f"{name}.xml").write_text(xml(BOXES[name], name="elsewhere.jpg"))
        dataset = open_dataset(root)
        assert (len(dataset), sum(map(len, dataset.records)), dataset.findings) == (2, 3, [])


def test_images_elsewhere(tmp_path: Path) -> None:
    voc(tmp_path / "set")
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "pictures")
    assert len(open_dataset(tmp_path / "set", images=tmp_path / "pictures")) == 4
    assert len(open_dataset(tmp_path / "set" / "Annotations", images=tmp_path / "pictures")) == 4
    assert codes(open_dataset(tmp_path / "set")) == ["warning image-missing"] * 4


def test_roboflow_voc_has_its_splits_in_folders(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b"), ("test", "d")):
        image(tmp_path / split / f"{name}_jpg.rf.0123.jpg")
        (tmp_path / split / f"{name}_jpg.rf.0123.xml").write_text(xml(BOXES[name]))
    dataset = open_dataset(tmp_path)
    assert set(dataset.splits) == {"train", "val", "test"} and not dataset.findings and len(dataset) == 3
    assert [r.id for r in open_dataset(tmp_path, split="valid").records] == ["b_jpg.rf.0123"]
    assert open_dataset(tmp_path, split="val").classes == ("cat", "dog")  # of the whole set


def test_images_of_the_same_name(tmp_path: Path) -> None:
    voc(tmp_path)
    image(tmp_path / "JPEGImages" / "a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.records[0].path.name == "a.jpg" and not dataset.findings  # its XML names a.jpg
    (tmp_path / "Annotations" / "a.xml").write_text(xml(BOXES["a"], name="other.jpg"))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["error image-ambiguous"] and [r.id for r in dataset.records] == ["b", "c", "d"]
    assert "a.jpg" in dataset.findings[0].message and "a.png" in dataset.findings[0].message


def test_damaged_images_are_excluded(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"")
    body = (tmp_path / "JPEGImages" / "b.jpg").read_bytes()
    (tmp_path / "JPEGImages" / "b.jpg").write_bytes(body[: len(body) // 2])
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["warning image-unreadable"] * 2 and [r.id for r in dataset.records] == ["c", "d"]


def test_unusual_names_and_symlink_loops(tmp_path: Path) -> None:
    for name in ("with space", "naïve 猫", "new\nline", "-1", "a.b.c"):
        image(tmp_path / f"{name}.jpg", seed=len(name))
        (tmp_path / f"{name}.xml").write_text(xml(BOXES["a"]))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "nowhere")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 5 and not dataset.findings
    assert {r.id for r in dataset.records} == {"with space", "naïve 猫", "new\nline", "-1", "a.b.c"}


def test_real_datasets(data: Path) -> None:
    """Counts of data/README.md; the two boxes without area are named there."""
    bccd = open_dataset(data / "bccd")
    assert len(bccd) == 364 and bccd.splits == ("test", "train", "trainval", "val")
    counts = np.bincount(np.concatenate([r.labels for r in bccd.records])).tolist()
    assert dict(zip(bccd.classes, counts, strict=True)) == {"Platelets": 361, "RBC": 4153, "WBC": 372}
    assert sorted(f.path.rpartition("_")[2] for f in bccd.findings) == ["00338.xml", "00343.xml"]
    assert codes(bccd) == ["warning box-empty"] * 2
    sizes = {s: len(open_dataset(data / "bccd", split=s)) for s in bccd.splits}
    assert sizes == {"train": 205, "val": 87, "trainval": 292, "test": 72}


def test_real_catdogcar(data: Path) -> None:
    dataset = open_dataset(data / "voc2012-catdogcar")
    assert len(dataset) == 300 and not dataset.findings and len(dataset.classes) == 15
    labels = np.concatenate([r.labels for r in dataset.records])
    difficult = np.concatenate([r.difficult for r in dataset.records])
    assert (len(labels), int(difficult.sum())) == (687, 71)
    expected = {"dog": (193, 2, 155), "cat": (139, 0, 129), "car": (98, 15, 54), "person": (127, 17, 71)}
    for name, numbers in expected.items():
        k = dataset.classes.index(name)
        images = sum((r.labels == k).any() for r in dataset.records)
        assert (int((labels == k).sum()), int(difficult[labels == k].sum()), images) == numbers


def test_detections_are_scored_without_image_files(data: Path, tmp_path: Path) -> None:
    """The XML states their sizes."""
    source = data / "voc2012-catdogcar/VOCdevkit/VOC2012"
    for part in ("Annotations", "ImageSets"):
        shutil.copytree(source / part, tmp_path / part)
    blind = open_dataset(tmp_path, split="val", require_images=False)
    seen = open_dataset(source, split="val")
    assert not blind.findings and len(blind) == len(seen) == 146
    for a, b in zip(blind.records, seen.records, strict=True):
        assert (a.id, a.width, a.height) == (b.id, b.width, b.height) and (a.boxes == b.boxes).all()
    assert {f.code for f in open_dataset(tmp_path, split="val").findings} == {"image-missing"}


# ---------------------------------------------------------------------------------------- what other tools write
CORNERS = "<xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax>"
POLYGON = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((4, 5), (20, 5), (20, 30), (4, 30)))


def one(body: str, head: str = "") -> str:
    return f"<annotation>{head}<object><name>cat</name>{body}</object></annotation>"


VARIANTS: dict[str, tuple[list[str], str | bytes]] = {
    "capital tags": ([], one(f"<bndbox>{CORNERS}</bndbox>").title().replace("Cat", "cat")),
    "a namespace": ([], one(f"<bndbox>{CORNERS}</bndbox>").replace("<annotation", "<annotation xmlns='http://x.org/v'")),
    "a prefix": (
        [],
        re.sub("<(/?)", r"<\1v:", one(f"<bndbox>{CORNERS}</bndbox>")).replace("tion>", "tion xmlns:v='u'>", 1),
    ),
    "attributes": ([], one('<bndbox xmin="5" ymin="6" xmax="20" ymax="30"/>')),
    "blanks in corners": ([], one(f"<bndbox>{CORNERS}</bndbox>").replace(">5<", ">\n 5 <")),
    "blanks in the name": ([], one(f"<bndbox>{CORNERS}</bndbox>").replace("cat", "\n cat\n")),
    "byte order mark": ([], one(f"<bndbox>{CORNERS}</bndbox>").encode("utf-8-sig")),
    "UTF-16": ([], one(f"<bndbox>{CORNERS}</bndbox>").encode("utf-16")),
    "decimal comma": (["note decimal-comma"], one(f"<bndbox>{CORNERS.replace('>5<', '>5,0<')}</bndbox>")),
    "objects inside an element": (
        ["note object-nested"],
        re.sub("(<object>.*</object>)", r"<objects>\1</objects>", one(f"<bndbox>{CORNERS}</bndbox>")),
    ),
    "box inside an element": ([], one(f"<shape><bndbox>{CORNERS}</bndbox></shape>")),
    "the same corner twice": ([], one(f"<bndbox>{CORNERS}<xmin>5</xmin></bndbox>")),
    "LabelMe's polygon": (["note box-around-polygon"], one(f"<deleted>0</deleted><polygon>{POLYGON}</polygon>")),
    "Roboflow's polygon": (
        ["note box-around-polygon"],
        one("<polygon><x1>4</x1><y1>5</y1><x2>20</x2><y2>5</y2><x3>20</x3><y3>30</y3></polygon>"),
    ),
    "a polygon beside the box": ([], one(f"<bndbox>{CORNERS}</bndbox><polygon>{POLYGON}</polygon>")),
    "roLabelImg": (
        ["note box-around-rotated"],
        one("<robndbox><cx>12</cx><cy>17.5</cy><w>16</w><h>25</h><angle>0</angle></robndbox>"),
    ),
    "roLabelImg, turned": (
        ["note box-around-rotated"],
        one("<robndbox><cx>12</cx><cy>17.5</cy><w>25</w><h>16</h><angle>1.5707963267948966</angle></robndbox>"),
    ),
    "two boxes": (
        ["note boxes-in-object"],
        one(f"<bndbox>{CORNERS}</bndbox><bndbox>{CORNERS.replace('5', '7')}</bndbox>"),
    ),
    "deleted (LabelMe)": (
        ["note object-deleted"],
        one(f"<bndbox>{CORNERS}</bndbox>", "<object><name>ghost</name><deleted>1</deleted></object>"),
    ),
    "an object in an object": (
        ["warning object-in-object"],
        one(f"<bndbox>{CORNERS}</bndbox><object><name>dog</name><bndbox>{CORNERS}</bndbox></object>"),
    ),
    "a part": ([], one(f"<bndbox>{CORNERS}</bndbox><part><name>head</name><bndbox>{CORNERS}</bndbox></part>")),
}  # fmt: skip


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_are_read_and_told_once(tmp_path: Path, what: str) -> None:
    expected, text = VARIANTS[what]
    dataset = spoil(tmp_path, text)
    assert codes(dataset) == expected and dataset.classes == ("cat", "dog")
    boxes = boxes_of(dataset, "a")
    assert np.allclose(boxes[0], [4, 5, 20, 30]) and len(boxes) == (2 if what == "two boxes" else 1)
    assert dataset.records[0].labels.tolist() == [0] * len(boxes)


def test_several_boxes_in_an_object_are_told_once_for_all_files(tmp_path: Path) -> None:
    voc(tmp_path)
    text = VARIANTS["two boxes"][1]
    for name in "ab":
        (tmp_path / "Annotations" / f"{name}.xml").write_text(str(text))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["note boxes-in-object"] and "2 objects" in dataset.findings[0].message
    assert [len(r) for r in dataset.records] == [2, 2, 0, 2]


CONFLICTS = {
    "class-unknown|class-missing": f"<object><name>cat</name><name>dog</name><bndbox>{CORNERS}</bndbox></object>",
    "box-not-number": one(f"<bndbox>{CORNERS}<xmin>9</xmin></bndbox>"),
    "box-not-number ": one("<polygon><pt><x>4</x><y>5</y></pt></polygon>"),
    "box-not-number  ": one("<robndbox><cx>12</cx></robndbox>"),
    "flag-invalid": one(f"<difficult>0</difficult><difficult>1</difficult><bndbox>{CORNERS}</bndbox>"),
    "size-invalid": one(
        f"<bndbox>{CORNERS}</bndbox>", "<size><width>64</width><width>70</width><height>48</height></size>"
    ),
    "annotation-unreadable": xml([]) + xml([]),
}


@pytest.mark.parametrize("what", [w for w in CONFLICTS if "|" not in w])
def test_contradictions_are_told(tmp_path: Path, what: str) -> None:
    assert [f.code for f in spoil(tmp_path, CONFLICTS[what]).findings] == [what.strip()]


def test_two_names_of_one_object_are_no_class(tmp_path: Path) -> None:
    text = f"<annotation>{CONFLICTS['class-unknown|class-missing']}</annotation>"
    dataset = spoil(tmp_path, text)
    assert [f.code for f in dataset.findings] == ["class-missing"] and dataset.classes == ("cat", "dog")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "classes.txt").write_text("cat\ndog\n")
    assert [f.code for f in spoil(tmp_path / "2", text).findings] == ["class-missing"]


def test_entities_of_html_are_characters(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml([("caf&eacute; &amp; bar", 1, 1, 9, 9)]))
    assert "café & bar" in dataset.classes and not dataset.findings


def test_files_without_or_with_odd_file_names(tmp_path: Path) -> None:
    for name in ("", "a", "A.JPG", "/x/y/a.jpg", "C:\\x\\a.jpg", "elsewhere.png"):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        dataset = spoil(tmp_path / "set", xml(BOXES["a"], name=name))
        assert len(dataset) == 4 and not dataset.findings
    dataset = spoil(tmp_path / "2", xml(BOXES["a"], name="b.jpg"))
    assert codes(dataset) == ["note filename-differs"] and dataset.records[0].path.name == "a.jpg"


@pytest.mark.parametrize(
    ("image_name", "code"),
    [
        ("A.JPG", "name-capitals"),
        ("a%20.jpg", "name-decoded"),
        ("1a2b3c4d-a.jpg", "name-upload"),
        ("a_jpg.rf.0123456789abcdef.jpg", "name-upload"),
    ],
)
def test_images_found_by_a_normal_form_of_the_stem(tmp_path: Path, image_name: str, code: str) -> None:
    voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / image_name)
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == [f"note {code}"] and len(dataset) == 4


def test_names_in_split_files_found_by_a_normal_form(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("A\nC:\\x\\B.PNG\n")
    dataset = open_dataset(tmp_path, split="train")
    assert [r.id for r in dataset.records] == ["a", "b"]
    assert codes(dataset) == ["note name-capitals"] and "2 of its names" in dataset.findings[0].message


def test_two_annotations_of_one_image(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    for folder, boxes in (("first", BOXES["a"]), ("second", BOXES["a"])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.xml").write_text(xml(boxes))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["warning annotation-repeated"] and len(dataset) == 1
    (tmp_path / "second" / "a.xml").write_text(xml(BOXES["b"]))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["error annotation-ambiguous"]
    assert all(f"{folder}/a.xml" in str(dataset.findings[0]) for folder in ("first", "second"))


def test_several_annotations_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(f"<annotations>{xml([])}{xml([])}</annotations>")
    with pytest.raises(Unreadable, match="2 <annotation> in one file"):
        read_file(tmp_path / "a.xml")


@pytest.mark.parametrize(("splits", "seed"), [(True, 1), (False, 2)])
def test_random_edits_change_no_number_of_objects_in_silence(tmp_path: Path, splits: bool, seed: int) -> None:
    assert not silent_changes(voc(tmp_path / "set", splits), 350, seed)


def test_boxes_outside_of_objects_and_bare_files_are_told(tmp_path: Path) -> None:
    dataset = spoil(tmp_path, xml(BOXES["a"]).replace("object>", "objekt>"))
    assert codes(dataset) == ["warning object-misnamed"] and "<objekt>" in dataset.findings[0].message
    assert codes(spoil(tmp_path / "2", f"<annotation><bndbox>{CORNERS}</bndbox></annotation>")) == [
        "warning object-misnamed"
    ]
    assert codes(spoil(tmp_path / "3", "<annotation/>")) == ["warning annotation-empty"]


def test_split_files_that_differ_by_the_capitals_of_their_extension(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.TXT").write_text("a\n")
    assert codes(open_dataset(tmp_path)) == ["error split-repeated", "note annotation-unlisted"]


def test_annotations_named_after_the_whole_file_name(tmp_path: Path) -> None:
    voc(tmp_path)
    for path in list((tmp_path / "Annotations").iterdir()):
        path.rename(path.with_name(f"{path.stem}.jpg.xml"))
    dataset = open_dataset(tmp_path, split="train")
    assert len(dataset) == 2 and codes(dataset) == ["note name-extension"]
