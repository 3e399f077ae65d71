"""No way to a model scores the images that trained it without saying so."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import foveal
from foveal import presets
from foveal.checkpoints.export import export_model
from foveal.checkpoints.load import import_model
from foveal.cli.main import main
from foveal.data.open import open_dataset
from foveal.data.records.trained_on import image_hashes, unpack
from foveal.data.synthetic.shapes import make_shapes
from foveal.parts.resizing import Resize

QUIET: dict[str, Any] = {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "precision": "32", "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` without splits, ``moved`` the same elsewhere, ``run`` trained on 4 of its 5 images, and its copies."""
    place = tmp_path_factory.mktemp("trained-on")
    make_shapes(place / "shapes", images=6, size=(64, 64), format="coco", masks=False)  # 5 to train, 1 to validate
    (place / "data").mkdir()
    shutil.copytree(place / "shapes" / "train", place / "data" / "images")
    shutil.copy(place / "shapes" / "annotations" / "instances_train.json", place / "data" / "annotations.json")
    shutil.copytree(place / "data", place / "moved")
    spec: Any = presets.retinanet_mini
    foveal.train(replace(spec, input=Resize(64, 64)), data=place / "data", out=place / "run", **QUIET)
    shutil.copytree(place / "run", place / "copy")
    (place / "copy" / "run.json").unlink()
    _other_forms(place)
    shutil.copytree(place / "run", place / "resumed")
    foveal.train(data=place / "moved", out=place / "resumed", resume=True, accept=["data"], **QUIET | {"epochs": 2})
    export_model(place / "run", place / "file.safetensors")
    export_model(place / "run", place / "hub", "hf")
    import_model(place / "file.safetensors", place / "imported")
    foveal.train(place / "file.safetensors", data=place / "shapes", limit=1, out=place / "tuned", **QUIET)
    return place


def _other_forms(place: Path) -> None:
    """The images of ``data`` under other names, as a YOLO folder, as a VOC folder with lists, and linked."""
    document = json.loads((place / "data" / "annotations.json").read_text())
    names = {image["file_name"]: f"photo-{image['id']:05}.png" for image in document["images"]}
    for form in ("renamed", "yolo/images", "voc/JPEGImages", "linked"):
        (place / form).mkdir(parents=True)
    for old, new in names.items():
        for form in ("renamed", "yolo/images", "voc/JPEGImages"):
            shutil.copy(place / "data" / "images" / old, place / form / new)
        (place / "linked" / old).symlink_to(place / "data" / "images" / old)
    shutil.copy(place / "data" / "annotations.json", place / "linked" / "annotations.json")
    for image in document["images"]:
        image["file_name"] = names[image["file_name"]]
    (place / "renamed" / "annotations.json").write_text(json.dumps(document))
    classes = [category["name"] for category in document["categories"]]
    ids = [category["id"] for category in document["categories"]]
    (place / "yolo" / "labels").mkdir()
    (place / "yolo" / "classes.txt").write_text("\n".join(classes))
    (place / "voc" / "Annotations").mkdir()
    for image in document["images"]:
        stem, w, h = Path(image["file_name"]).stem, image["width"], image["height"]
        lines, objects = [], []
        for annotation in document["annotations"]:
            if annotation["image_id"] == image["id"]:
                x, y, width, height = annotation["bbox"]
                k = ids.index(annotation["category_id"])
                lines.append(f"{k} {(x + width / 2) / w} {(y + height / 2) / h} {width / w} {height / h}")
                corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
                objects.append(f"<object><name>{classes[k]}</name><bndbox>{corners}</bndbox></object>")
        (place / "yolo" / "labels" / f"{stem}.txt").write_text("\n".join(lines))
        size = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{image['file_name']}</filename>{size}{''.join(objects)}</annotation>"
        (place / "voc" / "Annotations" / f"{stem}.xml").write_text(xml)
    (place / "voc" / "ImageSets" / "Main").mkdir(parents=True)
    stems = [Path(name).stem for name in names.values()]
    (place / "voc" / "ImageSets" / "Main" / "val.txt").write_text("\n".join(stems))


WAYS = {
    "the folder at another path": ["eval", "run", "--data", "moved"],
    "the JSON": ["eval", "run", "--data", "data/annotations.json"],
    "the JSON at another path": ["eval", "run", "--data", "moved/annotations.json"],
    "images under other names": ["eval", "run", "--data", "renamed/annotations.json"],
    "links to the images": ["eval", "run", "--data", "linked/annotations.json"],
    "a YOLO folder": ["eval", "run", "--data", "yolo"],
    "ImageSets of a VOC folder": ["eval", "run", "--data", "voc"],
    "a run without run.json": ["eval", "copy", "--data", "moved"],
    "a run resumed at a new path": ["eval", "resumed", "--data", "data"],
    "an exported file": ["eval", "file.safetensors", "--data", "data"],
    "a folder of Hugging Face": ["eval", "hub", "--data", "data"],
    "a run that began with the weights": ["eval", "tuned", "--data", "data"],
    "a checkpoint": ["eval", "run/checkpoints/last", "--data", "moved"],
    "inspect": ["inspect", "run", "--data", "moved", "--out", "pages"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_training_images_is_told(
    place: Path, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line: left out where others remain, else scored, and said either way."""
    monkeypatch.chdir(place)
    assert main([*WAYS[way], "--device", "cpu"]) == 0
    assert "of 5 images trained this model" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["moved", "moved/annotations.json", "data"])
@pytest.mark.parametrize("model", ["run", "copy", "file.safetensors", "hub", "imported", "tuned"])
def test_images_that_trained_are_left_out(place: Path, model: str, data: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("foveal").propagate = True
    results = foveal.evaluate(foveal.load(place / model, device="cpu", precision="32"), data=place / data)
    assert results.to_dict()["images"] == 1
    assert "4 of 5 images trained this model" in caplog.text and "the other 1 are scored" in caplog.text


def test_images_that_are_asked_for_are_scored_and_told(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = foveal.load(place / "run", device="cpu", precision="32")
    results = foveal.evaluate(detector, data=place / "shapes", split="train")
    assert results.to_dict()["images"] == 5
    assert "4 of 5 images trained this model" in caplog.text and "better than those of images" in caplog.text
    caplog.clear()
    assert foveal.evaluate(detector, data=place / "shapes", split="val").to_dict()["images"] == 1
    assert "trained this model" not in caplog.text


def test_the_images_of_the_weights_before_count(place: Path) -> None:
    """A run from other weights has seen what those have seen."""
    shapes = set(image_hashes(open_dataset(place / "shapes", split="train").records))
    run, tuned = (unpack(foveal.load(place / name, device="cpu").trained_on) for name in ("run", "tuned"))
    assert len(run) == 4 and run < shapes and run <= tuned <= shapes
