"""Names of drawings: folders where names clash, any length, and nothing of the user's replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from foveal.assembly.detector import Detector
from foveal.errors import FovealError
from foveal.inference.predict import MARK, PredictedImages, drawing_names, predict
from tests.inference.test_predict import Known, write_image


def run(sources: Any, out: Path) -> PredictedImages:
    return predict(cast(Detector, Known()), sources, out=out)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["d/a.jpg", "d/b.png"], ["a.jpg", "b.jpg"]),
        (["d/a.jpg", "e/b.png"], ["a.jpg", "b.jpg"]),
        (["one/same.jpg", "two/same.jpg", "two/same.png"], ["one/same.jpg", "two/same.jpg", "two/same.png.jpg"]),
        (["same.png", "same.jpg"], ["same.png.jpg", "same.jpg"]),
        (["d/1/2/a.jpg", "d/1/3/a.jpg", "d/b.jpg"], ["1/2/a.jpg", "1/3/a.jpg", "b.jpg"]),
        (["A.jpg", "a.jpg"], ["A.jpg", "a-2.jpg"]),
        (["caf\u00e9.jpg", "cafe\u0301.jpg"], ["caf\u00e9.jpg", "cafe\u0301-2.jpg"]),
        (["a.png", "a.bmp", "a.png.jpg"], ["a.png.jpg", "a.bmp.jpg", "a.png-2.jpg"]),
        (["../x/a.jpg", "../y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["/tmp/x/a.jpg", "/var/a.jpg"], ["tmp/x/a.jpg", "var/a.jpg"]),
        ([".hidden", "noending"], [".hidden.jpg", "noending.jpg"]),
        (["a.b.c.jpg"], ["a.b.c.jpg"]),
    ],
)
def test_names(files: list[str], names: list[str]) -> None:
    assert drawing_names(files) == names


@pytest.mark.parametrize("ending", ["", ".jpg", ".png", ".webp"])
@pytest.mark.parametrize("letter", ["x", "é", "猫", "\udcff"])
def test_names_of_255_bytes(ending: str, letter: str, tmp_path: Path) -> None:
    width = len(os.fsencode(letter))
    stems = [letter * ((254 - len(ending)) // width) + number for number in "12"]
    names = drawing_names([stem + ending for stem in stems])
    assert len(set(names)) == 2
    for name in names:
        assert len(os.fsencode(name)) <= 255 and name.endswith(".jpg")
        (tmp_path / name).write_text("")


def test_nothing_but_drawings_is_replaced(tmp_path: Path) -> None:
    photo = write_image(tmp_path / "in" / "dog.png")
    out = tmp_path / "out"
    for _ in range(2):  # a drawing is
        (entry,) = run([photo], out).images
        assert entry.drawing == out / "dog.jpg"
        with Image.open(entry.drawing) as image:
            assert image.info["comment"] == MARK
    mine = write_image(tmp_path / "holiday" / "dog.jpg")
    before = mine.read_bytes()
    with pytest.raises(FovealError, match=r"dog\.jpg: exists, and is no drawing of foveal's"):
        run([photo], tmp_path / "holiday")
    assert mine.read_bytes() == before


def test_drawings_in_folders_never_replace_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [write_image(Path(name)) for name in ("one/same.jpg", "two/same.jpg")]
    before = [path.read_bytes() for path in files]
    with pytest.raises(FovealError, match="the drawings would replace the source images"):
        run(files, Path("."))
    assert [path.read_bytes() for path in files] == before


def test_two_names_of_the_longest_kind_get_two_drawings(tmp_path: Path) -> None:
    """The number that tells them apart was cut off with the rest of the name, again and again."""
    stem = "n" * 251
    names = drawing_names([f"{stem}.png", f"{stem}.bmp", f"{stem}.gif", f"{stem}.jpg"])
    assert len(set(names)) == 4 and all(len(name) <= 255 and name.endswith(".jpg") for name in names)
    files = [str(write_image(tmp_path / "in" / name)) for name in (f"{stem}.png", f"{stem}.bmp", "short.png")]
    done = run(files, tmp_path / "out")
    assert len(done.images) == 3 and not done.skipped and len(list((tmp_path / "out").rglob("*.jpg"))) == 3


def test_a_name_that_the_disk_refuses_costs_one_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT has no colon in names, others no byte that is not UTF-8: the other images are drawn."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if ":" in os.path.basename(target):
            raise OSError(errno.EINVAL, "Invalid argument", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    files = [str(write_image(tmp_path / "in" / name)) for name in ("12:30.png", "good.png")]
    done = run(files, tmp_path / "out")
    assert [image.drawing for image in done.images] == [None, tmp_path / "out" / "good.jpg"]
    assert [f"{error.path}: {error.message}" for error in done.skipped] == [
        f"{files[0]}: has no drawing: {tmp_path / 'out' / '12:30.jpg'} cannot be written (Invalid argument)"
    ]
