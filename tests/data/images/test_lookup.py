"""Images found by any name that an annotation may use, and names that fit several files or none."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from foveal.data.images.load import EXTENSIONS
from foveal.data.images.lookup import NameMatch, NameTable, Wanted


def table(*files: str) -> NameTable:
    return NameTable([Path("/set", file) for file in files], EXTENSIONS, [Path("/set")])


def found(match: NameMatch) -> tuple[list[str], str]:
    return [path.relative_to("/set").as_posix() for path in match.paths], match.way.code


NFC, NFD = (unicodedata.normalize(form, "Größe_é_1.jpg") for form in ("NFC", "NFD"))
SPELLINGS = [
    # name in the annotation, file, way
    ("a.jpg", "images/a.jpg", ""),
    ("images/a.jpg", "images/a.jpg", ""),
    ("./images//a.jpg", "images/a.jpg", ""),
    ("../images/a.jpg", "images/a.jpg", ""),
    ("/home/somebody/set/a.jpg", "images/a.jpg", ""),
    ("C:\\data\\a.jpg", "images/a.jpg", ""),
    ("\\\\?\\C:\\data\\a.jpg", "images/a.jpg", ""),
    ("\\\\server\\share\\a.jpg", "images/a.jpg", ""),
    ("https://example.org/x/a.jpg?size=big", "images/a.jpg", ""),
    ("s3://bucket/x/a.jpg", "images/a.jpg", ""),
    ("file:///C:/x/a.jpg", "images/a.jpg", ""),
    ("..\\..\\label-studio\\media\\upload\\4\\a.jpg", "images/a.jpg", ""),
    ("/data/local-files/?d=project%2Fimages%2Fa.jpg", "images/a.jpg", "name-address"),
    ("/data/local-files/?d=project/images/a.jpg", "images/a.jpg", ""),
    ("/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQveC9hLmpwZw==", "images/a.jpg", "name-address"),  # s3://bucket/x/a.jpg
    ("https://example.org/show?file=x/a.jpg&size=9", "images/a.jpg", "name-address"),
    ("https://example.org/x/a.jpg#1", "images/a.jpg", "name-address"),
    ("train2017/a.jpg", "images/a.jpg", "name-folder"),
    ("images%2Fa.jpg", "images/a.jpg", "name-decoded"),
    ("images/foto%20n%C2%BA%200.jpg", "images/foto nº 0.jpg", "name-decoded"),
    ("foto%2520n%25C2%25BA%25200.jpg", "images/foto nº 0.jpg", "name-decoded"),
    ("foto%20n%BA%200.jpg", "images/foto nº 0.jpg", "name-decoded"),  # Latin-1
    ("a b.jpg", "images/a%20b.jpg", "name-decoded"),  # the file itself was saved encoded
    ("a.jpg ", "images/a.jpg", "name-decoded"),
    ('"a.jpg"', "images/a.jpg", "name-decoded"),
    ("a &amp; b.jpg", "images/a & b.jpg", "name-decoded"),
    ("C:a.jpg", "images/a.jpg", "name-decoded"),
    (NFD, f"images/{NFC}", "name-unicode"),
    (NFC, f"images/{NFD}", "name-unicode"),
    (NFC, f"images/{NFC.encode().decode('cp1252')}", "name-unicode"),  # an archive unpacked in another encoding
    (NFC, f"images/{NFC.encode('latin-1').decode('utf-8', 'surrogateescape')}", "name-unicode"),
    ("Größe.jpg", "images/Gr#U00f6#U00dfe.jpg", "name-unicode"),
    ("IMG_000.JPG", "images/img_000.jpg", "name-capitals"),
    ("img_000.jpg", "images/IMG_000.JPG", "name-capitals"),
    ("STRASSE.jpg", "images/straße.jpg", "name-capitals"),
    ("ａ.jpg", "images/a.jpg", "name-capitals"),  # a full-width letter
    ("a\u200b.jpg", "images/a.jpg", "name-capitals"),  # a zero-width space
    ("a.png", "images/a.jpg", "name-extension"),
    ("a.jpeg", "images/a.jpg", "name-extension"),
    ("a", "images/a.jpg", "name-extension"),
    ("a.jpg", "images/a.jpg.jpg", "name-extension"),
    ("A.png", "images/a.jpg", "name-extension"),
    ("/data/upload/3/1a2b3c4d-a.jpg", "images/a.jpg", "name-upload"),
    ("a.jpg", "images/1a2b3c4d-a.jpg", "name-upload"),
    ("a.jpg", "images/1a2b3c4d__project%5Cimages%5Ca.jpg", "name-decoded"),
    ("a.jpg", "images/a_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "name-upload"),
    ("a_JPG.rf.0123456789abcdef0123456789abcdef.jpg", "images/a.JPG", "name-upload"),
    ("a b+c.jpg", "images/a_b-c.jpg", "name-separators"),
    ("Größe é.jpg", "images/Große_e.jpg", "name-separators"),
    ("IMG 1.JPG", "images/IMG-1_JPG.rf.0123456789abcdef.jpg", "name-separators"),
]


@pytest.mark.parametrize(("name", "file", "way"), SPELLINGS)
def test_every_spelling(name: str, file: str, way: str) -> None:
    match = table(file, "images/other.jpg", "other/z.png").find(name)
    assert found(match) == ([file], way)
    assert match.way.phrase or not way


@pytest.mark.parametrize(
    "name", ["b.jpg", "a\0.jpg", "", "..", "/", "a", "%", "%2F", "images/", "?d=", "data:image/png;base64,iVBORw0KGgo="]
)
def test_names_of_nothing(name: str) -> None:
    assert table("images/x.jpg").find(name) == NameMatch()


def test_the_longest_end_of_the_path_decides() -> None:
    files = table("train/a.jpg", "val/a.jpg", "val/x/a.jpg", "Été/a.jpg")
    assert found(files.find("val/a.jpg")) == (["val/a.jpg"], "")
    assert found(files.find("C:\\set\\val\\x\\a.jpg")) == (["val/x/a.jpg"], "")
    assert found(files.find("VAL/a.jpg")) == (["val/a.jpg"], "")
    assert found(files.find("%C3%89t%C3%A9/a.jpg")) == (["Été/a.jpg"], "")
    assert found(files.find("a.jpg", prefer="train")) == (["train/a.jpg"], "")
    assert len(files.find("a.jpg").paths) == 4
    many = table(*(f"clip{k}/000001.jpg" for k in range(20)))
    assert found(many.find("x/clip7/000001.jpg")) == (["clip7/000001.jpg"], "")


def test_a_file_directly_in_the_root_is_meant_and_the_others_are_told() -> None:
    match = table("a.jpg", "small/a.jpg").find("a.jpg")
    assert found(match) == (["a.jpg"], "") and match.passed == (Path("/set/small/a.jpg"),)


def test_a_folder_of_images_is_meant_and_not_one_of_masks() -> None:
    match = table("images/a.png", "masks/a.png").find("a.png")
    assert found(match) == (["images/a.png"], "") and match.passed == (Path("/set/masks/a.png"),)


def test_a_frame_of_another_video_is_not_taken() -> None:
    files = table("clip1/2.jpg", "clip2/1.jpg", "clip2/2.jpg")
    match = files.find("clip1/1.jpg")
    assert match.paths == () and match.near == Path("/set/clip2/1.jpg")


def test_a_file_goes_to_the_name_that_fits_best() -> None:
    files = table("x/a.jpg")
    first, second = files.match([Wanted("x/a.png"), Wanted("x/a.jpg")])
    assert found(second) == (["x/a.jpg"], "") and first == NameMatch(near=Path("/set/x/a.jpg"))
    folded, other = files.match([Wanted("a.png"), Wanted("A.jpg")])
    assert found(other) == (["x/a.jpg"], "name-capitals") and not folded.paths
    assert files.match([Wanted("A.jpg")], taken=[Path("/set/x/a.jpg")])[0].paths == ()
    far, near = files.match([Wanted("/old/y/a.jpg"), Wanted("x/a.jpg")])
    assert near.paths and not far.paths


def test_ambiguity_names_all() -> None:
    assert found(table("a.jpg", "a.png").find("a.bmp")) == (["a.jpg", "a.png"], "name-extension")
    assert found(table("x/A.jpg", "x/a.jpg").find("x/a.png")) == (["x/a.jpg"], "name-extension")
    assert found(table("x/Ab.jpg", "x/aB.jpg").find("ab.jpg")) == (["x/Ab.jpg", "x/aB.jpg"], "name-capitals")
    one, two = table("a.jpg").match([Wanted("A.jpg"), Wanted("a.JPG")])
    assert one.rivals == ("a.JPG",) and two.rivals == ("A.jpg",)
    augmented = table("a_jpg.rf.01234567.jpg", "a_jpg.rf.89abcdef.jpg").find("a.jpg")
    assert len(augmented.paths) == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("20240102-cam.jpg", "20240101-cam.jpg"),  # dates, not hashes
        ("11112222-a.jpg", "33334444-a.jpg"),
        ("a_jpg.rf.0123456789abcdef.jpg", "a_jpg.rf.fedcba9876543210.jpg"),  # another augmentation
        ("20240102-cam 1.jpg", "20240101-cam_1.jpg"),
        ("frame_-5.jpg", "frame_5.jpg"),
        ("offset -1.5.png", "offset_1.5.png"),
    ],
)
def test_names_of_other_files(name: str, file: str) -> None:
    assert not table(f"images/{file}", "images/z.jpg").find(name).paths


def test_stems() -> None:
    """As VOC's ids and as the names of label files."""
    files = table(
        "images/v1.2.jpg", "images/B.JPG", f"images/{NFD}", "images/photo.jpg", "images/c_jpg.rf.01234567.jpg"
    )
    wanted = [Wanted(stem, folders=()) for stem in ("v1.2", "b", NFC[:-4], "photo.jpg", "c", "v1")]
    assert [found(m) for m in files.match(wanted)] == [
        (["images/v1.2.jpg"], ""),
        (["images/B.JPG"], "name-capitals"),
        ([f"images/{NFD}"], "name-unicode"),
        (["images/photo.jpg"], "name-extension"),
        (["images/c_jpg.rf.01234567.jpg"], "name-upload"),
        ([], ""),
    ]
    labels = NameTable([Path("/set/labels/img_1.txt"), Path("/set/labels/img_2.txt")], frozenset({".txt"}))
    (match,) = labels.match([Wanted("IMG_1", folders=("labels",))])
    assert match.paths == (Path("/set/labels/img_1.txt"),)
    nearest = table("train/a.jpg", "val/a.jpg").match([Wanted("a", folders=("set", "val"))])
    assert found(nearest[0]) == (["val/a.jpg"], "")


def test_ten_thousand_names_are_each_found() -> None:
    files = table(*(f"images/{k // 1000}/IMG_{k}.JPG" for k in range(10_000)))
    matches = files.match([Wanted(f"images/{k // 1000}/img_{k}.png") for k in range(10_000)])
    assert [m.paths[0].name for m in matches] == [f"IMG_{k}.JPG" for k in range(10_000)]
