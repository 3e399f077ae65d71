"""A dataset is the same, however its path is given: absolute, relative, ``.``, from elsewhere, with ``--images``."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.data.convert import convert
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.data.writing.writers import WRITERS


def plain_yolo(folder: Path) -> None:
    """Without its yaml: what labeling tools write."""
    convert(folder.parent / "shapes", folder, "yolo")
    names = [line.split(": ", 1)[1] for line in (folder / "data.yaml").read_text().splitlines() if line[:2] == "  "]
    (folder / "labels" / "classes.txt").write_text("\n".join(name.strip('"') for name in names) + "\n")
    (folder / "data.yaml").unlink()


def darknet(folder: Path) -> None:
    """``obj.data``, ``obj.names``, ``train.txt``, with images and labels in one folder."""
    convert(folder.parent / "shapes", folder, "yolo")
    lines = (folder / "data.yaml").read_text().splitlines()
    names = [line.split(": ", 1)[1].strip('"') for line in lines if line[:2] == "  "]
    (folder / "obj").mkdir()
    for path in [*folder.glob("images/*/*"), *folder.glob("labels/*/*")]:
        path.rename(folder / "obj" / path.name)
    (folder / "obj.names").write_text("\n".join(names) + "\n")
    images = sorted(p.name for p in (folder / "obj").iterdir() if p.suffix != ".txt")
    (folder / "train.txt").write_text("".join(f"data/obj/{name}\n" for name in images))
    (folder / "obj.data").write_text(
        f"classes = {len(names)}\ntrain = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\n"
    )
    (folder / "data.yaml").unlink()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_shapes(home / "shapes", images=8, size=(96, 96), masks=False)
    for name in WRITERS:
        convert(home / "shapes", home / name, name)  # type: ignore[arg-type]
    plain_yolo(home / "plain")
    darknet(home / "darknet")
    return home


def contents(dataset: Dataset) -> tuple[object, ...]:
    boxes = sorted(
        (r.path.name, dataset.classes[k], *box)
        for r in dataset.records
        for k, box in zip(r.labels.tolist(), r.boxes.round(6).tolist(), strict=True)
    )
    assert all(r.path.is_file() for r in dataset.records)
    return len(dataset), boxes, sorted({f.code for f in dataset.findings if f.severity != "note"})


@pytest.mark.parametrize("name", [*WRITERS, "plain", "darknet"])
def test_the_way_a_path_is_written_changes_nothing(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / name
    expected = contents(open_dataset(folder))
    assert expected[0] == 8
    assert len(expected[1]) > 8  # type: ignore[arg-type]
    below = next(p for p in sorted(folder.rglob("*")) if p.is_dir())
    for here, path in (
        (home, name),
        (home, f"./{name}/"),
        (folder, "."),
        (below, ".." if below.parent == folder else "../.."),
        (home / "shapes", f"../{name}"),
    ):
        monkeypatch.chdir(here)
        assert contents(open_dataset(path)) == expected, (here, path)
        for images in (folder, Path(path)):
            assert contents(open_dataset(path, images=images)) == expected, (here, path, images)
