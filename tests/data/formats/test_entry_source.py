"""What the formats of other annotation tools have in common: the same set, and the same findings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.data.convert import convert
from foveal.data.open import open_dataset, split_pair
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError
from tests.helpers.data_sets import BOXES, image, state
from tests.helpers.tool_formats import FORMAT_OF, MAKERS

KINDS = list(MAKERS)


def content(dataset: Dataset, digits: int = 4) -> dict[str, list[tuple[object, ...]]]:
    return {
        r.path.stem.rpartition("-")[2]: [
            (dataset.classes[k], *box) for k, box in zip(r.labels, r.boxes.round(digits).tolist(), strict=True)
        ]
        for r in dataset.records
    }


def codes(dataset: Dataset) -> list[str]:
    return sorted(f"{f.severity} {f.code}" for f in dataset.findings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_dataset_in_every_format(tmp_path: Path, kind: str) -> None:
    root = MAKERS[kind](tmp_path / "set")
    before = state(root)
    dataset = open_dataset(root)
    assert dataset.format == FORMAT_OF.get(kind, kind) and dataset.classes == ("cat", "dog") and dataset.splits == ()
    assert content(dataset) == BOXES and not dataset.findings
    assert state(root) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_take_it(tmp_path: Path, kind: str) -> None:
    root = MAKERS[kind](tmp_path / "set")
    assert cli.main(["doctor", str(root), "--strict"]) == 0
    assert cli.main(["data", "convert", str(root), "--to", "coco", "--out", str(tmp_path / "coco")]) == 0
    again = open_dataset(tmp_path / "coco")
    assert content(again) == BOXES and not again.findings
    train, valid, note = split_pair(root)
    assert (len(train), len(valid)) == (3, 1) and note.startswith("no splits")


@pytest.mark.parametrize("kind", KINDS)
def test_the_annotation_file_alone(tmp_path: Path, kind: str) -> None:
    root = MAKERS[kind](tmp_path / "set")
    (file,) = [p for p in root.iterdir() if p.suffix in (".json", ".xml", ".csv") and p.stem != "b"][:1]
    dataset = open_dataset(file)
    assert len(dataset) == (1 if kind == "labelme" else 4) and not dataset.findings
    (tmp_path / "photos").mkdir()
    for path in [*root.rglob("*.jpg")]:
        shutil.move(path, tmp_path / "photos")
    assert codes(open_dataset(file)) == ["warning image-missing"] * len(dataset)
    again = open_dataset(file, images=tmp_path / "photos")
    assert len(again) == len(dataset) and not again.findings
    assert len(open_dataset(root, images=tmp_path / "photos")) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_no_file_names_is_told(tmp_path: Path, kind: str) -> None:
    root = MAKERS[kind](tmp_path / "set")
    image(root / "more" / "extra.jpg")
    dataset = open_dataset(root)
    assert content(dataset) == BOXES and codes(dataset) == ["warning annotation-missing"]
    assert "1 image," in dataset.findings[0].message and "extra.jpg" in dataset.findings[0].message


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "labelme"])
def test_splits_by_folder(tmp_path: Path, kind: str) -> None:
    for split in ("train", "valid"):
        root = MAKERS[kind](tmp_path / split)
        if split == "valid":
            for path in root.rglob("*.jpg"):
                image(path, seed=sum(path.name.encode()) + 1)
    dataset = open_dataset(tmp_path)
    assert dataset.splits == ("train", "val") and len(dataset) == 8 and not dataset.findings
    one = open_dataset(tmp_path, split="valid")
    assert content(one) == BOXES and all("valid" in r.path.parts for r in one.records)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_an_error(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        pytest.skip("a table that ends early is a shorter table")
    root = MAKERS[kind](tmp_path / "set")
    file = sorted(p for p in root.iterdir() if p.suffix in (".json", ".xml"))[0]
    text = file.read_text()
    file.write_text(text[: len(text) * 2 // 3])
    dataset = open_dataset(root)
    assert codes(dataset)[0] == "error annotation-unreadable" and dataset.findings[0].path == str(file)


@pytest.mark.parametrize("kind", KINDS)
def test_without_images(tmp_path: Path, kind: str) -> None:
    """Detections are evaluated against annotations alone, where the format states the sizes."""
    root = MAKERS[kind](tmp_path / "set")
    for path in [*root.rglob("*.jpg")]:
        path.unlink()
    dataset = open_dataset(root, require_images=False)
    stated = {"labelme": 4, "cvat": 4, "csv": 4}.get(kind, 0)
    if kind in ("label-studio", "json-min"):
        stated = 3  # an image without regions has no size
    assert len(dataset) == stated


@pytest.mark.parametrize("first", KINDS)
def test_two_formats_in_one_folder_are_named(tmp_path: Path, first: str) -> None:
    other = "cvat" if first != "cvat" else "createml"
    MAKERS[first](tmp_path / "set")
    MAKERS[other](tmp_path / "set" / "b")
    if first == "csv":
        dataset = open_dataset(tmp_path / "set")
        assert dataset.format == "cvat" and not [f for f in dataset.findings if f.severity == "error"]
        return
    with pytest.raises(FovealError, match=r"holds 2 datasets: .*; .*Give one of them"):
        open_dataset(tmp_path / "set")


def test_formats_are_no_silent_negatives(tmp_path: Path) -> None:
    """An image with several entries keeps all of its objects, or says which are not used."""
    root = MAKERS["csv"](tmp_path / "set")
    text = (root / "_annotations.csv").read_text()
    (root / "_annotations.csv").write_text(text.replace("a.jpg,64,48,dog", "./a.jpg,64,48,dog"))
    dataset = open_dataset(root)
    assert content(dataset) == BOXES and codes(dataset) == ["note image-repeated"]
    (root / "copy.csv").write_text(text)
    assert codes(open_dataset(root)).count("warning image-repeated") == 4


def test_convert_names_the_source_format(tmp_path: Path) -> None:
    written = convert(MAKERS["labelme"](tmp_path / "a"), tmp_path / "b", "voc")
    assert (written.images, written.objects) == (4, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_names_in_two_folders(tmp_path: Path, kind: str) -> None:
    """An image beside its annotation is the one that is meant."""
    for n, camera in enumerate(("cam1", "cam2")):
        for path in MAKERS[kind](tmp_path / camera).rglob("*.jpg"):
            image(path, seed=n)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 8 and sum(map(len, dataset.records)) == 10
    assert not [f for f in dataset.findings if f.severity != "note"]
