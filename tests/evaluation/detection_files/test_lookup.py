"""Images of a file of detections are found by the rules that find those of annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.evaluation.detection_files.lookup import ImageNames

FILES = ("/set/train/a.jpg", "/set/val/a.jpg", "/set/val/Foto n\u00ba 1.png", "/set/val/img_2.jpg")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("C:\\x\\val\\a.jpg", 1),
        ("train/a.jpg", 0),
        ("train/a", 0),
        ("Foto%20n%C2%BA%201.png", 2),
        ("foto n\u00ba 1", 2),
        ("/data/local-files/?d=val%2Fimg_2.jpg", 3),
        ("1a2b3c4d-img_2.jpg", 3),
        ("img_2_jpg.rf.0123456789abcdef.jpg", 3),
        ("IMG-2.png", 3),
        ("s3://bucket/img_2.jpg?token=1", 3),
    ],
)
def test_names_in_any_form(name: str, found: int) -> None:
    assert ImageNames(range(4), FILES).find(Path("f.json"), [name]).tolist() == [found]


@pytest.mark.parametrize(("name", "words"), [("a.jpg", "may be"), ("train/img_2.jpg", "not in the dataset")])
def test_what_is_in_doubt_is_refused(name: str, words: str) -> None:
    """Also an image of another folder, where the named one is here."""
    with pytest.raises(FovealError, match=words):
        ImageNames(range(4), FILES).find(Path("f.json"), [name])
