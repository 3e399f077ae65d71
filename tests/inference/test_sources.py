"""The images that a call names: folders, patterns, lists, and what is no image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foveal.errors import FovealError, UsageError
from foveal.inference.predict import find_sources
from foveal.inference.sources import literal_folders, read_list
from tests.inference.test_predict import run, write_image


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(*names: str) -> list[str]:
    return [str(write_image(Path(name))) for name in names]


def test_files_folders_and_patterns(here: Path) -> None:
    one, two = images("d/1.png", "d/e/2.png")
    Path("d/notes.txt").write_text("no image")
    assert find_sources(["d"]) == [one]
    assert find_sources(["d/**/*.png", one]) == [one, two]
    assert find_sources(["d/**"]) == [one, two]
    (odd,) = images("what[1].png")
    assert find_sources([odd]) == [odd]
    assert find_sources(["gone.jpg"]) == ["gone.jpg"], "loading names it"


def test_each_image_once_however_it_is_written(here: Path) -> None:
    (one,) = images("d/1.png")
    told: list[str] = []
    assert find_sources([one, f"./{one}", "d", str(here / one)], told=told.append) == [one]
    assert told == ["3 of the 4 names are repeats; each image is used once"]


# --------------------------------------------------------------------------------------------------- patterns
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("[examples]/*a*.jpg", ["[examples]/a.jpg", "[examples]/what[1].jpg"]),
        ("[examples]/a.*", ["[examples]/a.jpg"]),
        ("./[examples]/a*.jpg", ["./[examples]/a.jpg"]),
        ("{here}/[examples]/a*.jpg", ["{here}/[examples]/a.jpg"]),
        ("[examples]/what[1]*.jpg", ["[examples]/what[1].jpg"]),
        ("*/what[1]*", ["[examples]/what[1].jpg"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("what?/a*", ["what?/a.jpg"]),
        ("sta*r/*.jpg", ["sta*r/a.jpg"]),
        ("*", ["a.jpg", "b.jpg"]),
    ],
)
def test_folders_with_brackets_in_their_names_are_no_pattern(here: Path, pattern: str, found: list[str]) -> None:
    images("[examples]/a.jpg", "[examples]/what[1].jpg", "a.jpg", "b.jpg", "e/a.jpg", "what?/a.jpg", "sta*r/a.jpg")
    images("whatx/a.jpg", "stair/a.jpg")
    assert find_sources([pattern.replace("{here}", str(here))]) == [f.replace("{here}", str(here)) for f in found]


def test_the_literal_part_of_a_pattern(here: Path) -> None:
    Path("[a]/b").mkdir(parents=True)
    assert literal_folders("[a]/b/*.jpg") == "[[]a]/b/*.jpg"
    assert literal_folders("[a]/[b]/*.jpg") == "[[]a]/[b]/*.jpg"
    assert literal_folders("*.jpg") == "*.jpg"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("d/*.gif", r"d/\*\.gif: no image matches this pattern$"),
        ("d*", r"it matches 2 other files or folders, such as d$"),
        ("empty", "empty: no image in this folder. Give another folder"),
        ("above", r"above: no image in this folder; there are some in folders below, such as above/in/1\.png"),
    ],
)
def test_folders_and_patterns_without_images(here: Path, source: str, words: str) -> None:
    images("above/in/1.png")
    for name in ("d", "empty"):
        Path(name).mkdir()
    Path("d.txt").write_text("x")
    with pytest.raises(FovealError, match=words):
        find_sources([source])


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/a.jpg",
        "http://x/a.jpg?b=[1]",
        "s3://bucket/a.jpg",
        "ftp://x/*.jpg",
        "rtsp://camera/1",
        "gs:/b/a",
    ],
)
def test_addresses_are_not_fetched(here: Path, address: str) -> None:
    for source in (address, Path(address)):
        with pytest.raises(FovealError, match="is an address, and images are not fetched"):
            find_sources([source])


def test_addresses_of_files_are_paths(here: Path) -> None:
    (one,) = images("a b.jpg")
    assert find_sources([f"file://{here}/a%20b.jpg"]) == [str(here / one)]


# ------------------------------------------------------------------------------------------------------ lists
@pytest.mark.parametrize(
    "text",
    [
        b"in/a.jpg\nin/b c.jpg\n",
        b"\xef\xbb\xbfin/a.jpg\r\n\r\nin/b c.jpg\r\n",
        b"# the two\nin/a.jpg\n   \n  in/b c.jpg",
        b'"in/a.jpg"\n\'in/b c.jpg\'\n',
        b"./in/a.jpg\rin//b c.jpg\r",
        b"in\\a.jpg\nin\\b c.jpg\n",
        b"in/a.jpg\0in/b c.jpg\0",
        "in/a.jpg\nin/b c.jpg\n".encode("utf-16"),
        b"{here}/lists/in/a.jpg\n{here}/lists/in/b c.jpg\n",
        b"lists/in/a.jpg\nlists/in/b c.jpg\n",
        b"in/a.jpg\nin/b c.jpg\nin/a.jpg\n",
    ],
    ids=["plain", "windows", "comments", "quotes", "mac", "backslashes", "find -print0", "utf-16", "whole", "current",
         "repeated"],
)  # fmt: skip
def test_lists(here: Path, text: bytes) -> None:
    images("lists/in/a.jpg", "lists/in/b c.jpg")
    for name in ("all.txt", "all.LST", "all.list"):
        Path("lists", name).write_bytes(text.replace(b"{here}", os.fsencode(here)))
        found = find_sources([f"lists/{name}"])
        assert [os.path.relpath(path) for path in found] == ["lists/in/a.jpg", "lists/in/b c.jpg"]


def test_names_of_a_list_that_look_like_something_else(here: Path) -> None:
    names = [b"#1.jpg", b"caf\xe9.jpg", b" lead.jpg", b"x=1.jpg", b"-v.jpg", b"%20.jpg", b"*.jpg"]
    for name in names:
        write_image(here / os.fsdecode(name))
    Path("all.txt").write_bytes(b"\n".join(names))
    assert [os.fsencode(os.path.relpath(path)) for path in find_sources(["all.txt"])] == names


def test_missing_images_of_a_list_are_skipped_and_named(here: Path) -> None:
    images("a.jpg")
    Path("all.txt").write_text("a.jpg\ngone.jpg\n")
    done = run("all.txt")
    assert [entry.image for entry in done.images] == ["a.jpg"]
    assert [str(error) for error in done.skipped] == ["gone.jpg: no such file"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "all.txt: names no image. Write the path of an image a line"),
        ("# nothing\n\n", "all.txt: names no image"),
        ("0 0.5 0.5 0.1 0.1\n1 .2 .2 .1 .1\n", "none of its 2 lines names a file that exists .*'0 0.5 0.5 0.1 0.1'"),
        ("a.jpg\nhttps://example.com/a.jpg\n", "all.txt: line 2: https://example.com/a.jpg is an address"),
        ("both.jpg\n", "line 1: both.jpg may be lists/both.jpg or the one in the current folder. Write whole paths"),
    ],
)
def test_lists_that_are_refused(here: Path, text: str, words: str) -> None:
    images("a.jpg", "both.jpg", "lists/both.jpg")
    Path("lists/all.txt").write_text(text)
    with pytest.raises(FovealError, match=words):
        find_sources(["lists/all.txt"])


def test_names_on_standard_input(here: Path) -> None:
    images("a.jpg")
    assert read_list(b"./a.jpg\n", "standard input", Path()) == ["a.jpg"]
    with pytest.raises(FovealError, match="standard input: names no image"):
        read_list(b"", "standard input", Path())
    with pytest.raises(UsageError, match="no image is given"):
        find_sources([])


# ------------------------------------------------------------------------------------------- no image at all
@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.mp4", b"\0\0\0\x20ftypisom" + bytes(9), "a video"),
        ("a.avi", b"RIFF\0\0\0\0AVI LIST", "a video"),
        ("a.mkv", b"\x1aE\xdf\xa3\x01\0\0\0", "a video"),
        ("a.mpg", b"\0\0\1\xba!", "a video"),
        ("a.jpg", b"RIFF\0\0\0\0AVI LIST", "a video"),
        ("a.pdf", b"%PDF-1.7\n", "a PDF document"),
        ("a.zip", b"PK\x03\x04\x14\0", "a compressed file"),
        ("a.json", b'[{"image": "a.jpg"}]', "the detections of foveal predict"),
        ("a.json", b'{"a": 1}', "a text file"),
        ("a.html", b"<!DOCTYPE html>", "an HTML page"),
        ("a.svg", b"<svg></svg>", "an SVG drawing"),
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(9), "a HEIC photo"),
        ("a.jpg", b"", "an empty file"),
    ],
)
def test_other_files_are_named_for_what_they_are(here: Path, name: str, data: bytes, what: str) -> None:
    Path(name).write_bytes(data)
    with pytest.raises(FovealError, match=f"{name}: {what}"):
        run(name)
