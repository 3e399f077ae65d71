"""Detections as annotations: foveal's readers read what is written, and names that do not match are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.open import open_dataset
from foveal.data.writing.label_studio import read_label_config
from foveal.errors import FovealError, UsageError
from foveal.inference.annotations import AnnotationWriter
from foveal.inference.predict import PredictedImages, Prediction
from foveal.types import Detections

CLASSES = ("cat", "big dog")
CONFIG = """<View><Header value="Pets"/><Image name="img" value="$photo"/>
<Choices name="ok" toName="img"><Choice value="good"/></Choices>
<RectangleLabels name="pets" toName="img"><Label value="Cat"/><Label value="Animal" predicted_values="cow, big dog"/>
</RectangleLabels></View>"""


def found_in(tmp_path: Path, seed: int = 0) -> PredictedImages:
    """Detections at random locations in three images of odd names and sizes; the third has none."""
    rng = np.random.default_rng(seed)
    done = PredictedImages()
    for name, size in (("a photo.jpg", (101, 67)), ("ü#1.png", (640, 481)), ("none.jpg", (33, 44))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).save(path)
        count = 0 if name.startswith("none") else 9
        corners = np.sort(rng.random((count, 2, 2)), 1) * size
        corners[:, 1] = np.maximum(corners[:, 1], np.minimum(corners[:, 0] + 3, size))
        corners[:, 0] = np.minimum(corners[:, 0], corners[:, 1] - 3).clip(0)
        boxes = torch.tensor(corners.reshape(count, 4), dtype=torch.float32)
        scores, labels = torch.linspace(0.9, 0.5, count), torch.tensor(rng.integers(0, 2, count))
        done.images.append(Prediction(str(path), *size, Detections(boxes, scores, labels, CLASSES)))
    return done


def compare(done: PredictedImages, path: Path, **options: Any) -> list[str]:
    """The codes of findings of the reader, after checking that it reads each box within .1 pixels."""
    dataset = open_dataset(path, **options)
    records = {record.path.name: record for record in dataset.records}
    assert len(records) == 3
    for image in done.images:
        record = records[Path(image.image).name]
        assert (record.width, record.height) == (image.width, image.height)
        names = [dataset.classes[k] for k in record.labels]
        expected = image.detections.to_list()
        assert names == [d["label"] for d in expected]
        wanted = np.array([d["box"] for d in expected]).reshape(-1, 4)
        assert np.abs(record.boxes - wanted).max(initial=0) < 0.1
    return [finding.code for finding in dataset.findings if finding.severity != "note"]


@pytest.mark.parametrize("format", ["cvat", "coco", "yolo", "voc"])
@pytest.mark.parametrize("link", [False, True])
def test_folders_are_read_again(tmp_path: Path, format: Any, link: bool) -> None:
    done = found_in(tmp_path)
    written = AnnotationWriter(tmp_path / "out", format, link=link).write(done, CLASSES)
    assert (written.images, written.objects, written.unknown) == (3, 18, ())
    assert compare(done, tmp_path / "out") == []
    with pytest.raises(FovealError, match="exists already"):
        AnnotationWriter(tmp_path / "out", format)


def test_tasks_of_label_studio_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = found_in(tmp_path)
    written = AnnotationWriter(Path("tasks.json"), "labelstudio", version="first").write(done, CLASSES)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"] == {"image": "/data/local-files/?d=photos/a%20photo.jpg"}
    prediction = tasks[0]["predictions"][0]
    assert prediction["model_version"] == "first" and prediction["score"] == pytest.approx(0.7)
    assert len({region["id"] for region in prediction["result"]}) == 9
    assert tasks[2]["predictions"][0]["result"] == []
    assert compare(done, tmp_path) == ["predictions-used"]
    config = read_label_config((tmp_path / "tasks.xml").read_text(), "tasks.xml")
    assert written.config == Path("tasks.xml") and config.labels == CLASSES
    assert (config.from_name, config.to_name, config.key) == ("label", "image", "image")


def test_names_of_a_label_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``predicted_values`` and other capitals match; a class without a label is left out and told."""
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path / "photos"))
    (tmp_path / "project.xml").write_text(CONFIG)
    done = found_in(tmp_path)
    writer = AnnotationWriter(tmp_path / "tasks.json", "labelstudio", tmp_path / "project.xml")
    assert writer.label_of(["cat", "big dog", "bird"]) == {"cat": "Cat", "big dog": "Animal", "bird": None}
    writer.write(done, CLASSES)
    (first, *_) = json.loads((tmp_path / "tasks.json").read_text())
    assert first["data"] == {"photo": "/data/local-files/?d=a%20photo.jpg"}
    region = first["predictions"][0]["result"][0]
    assert (region["from_name"], region["to_name"], region["type"]) == ("pets", "img", "rectanglelabels")
    assert (region["original_width"], region["original_height"]) == (101, 67)
    labels = {r["value"]["rectanglelabels"][0] for task in [first] for r in task["predictions"][0]["result"]}
    assert labels == {"Cat", "Animal"}

    (tmp_path / "cats.xml").write_text(CONFIG.replace(' predicted_values="cow, big dog"', ""))
    some = AnnotationWriter(tmp_path / "some.json", "labelstudio", tmp_path / "cats.xml").write(done, CLASSES)
    dogs = sum(d["label"] == "big dog" for image in done.images for d in image.detections.to_list())
    assert some.unknown == ("big dog",) and (some.objects, some.left_out) == (18 - dogs, dogs) and dogs > 0


def test_the_order_of_given_labels_is_kept(tmp_path: Path) -> None:
    done = found_in(tmp_path)
    (tmp_path / "labels.json").write_text('[{"name": "big dog", "attributes": []}, {"name": "cat"}, {"name": "bird"}]')
    AnnotationWriter(tmp_path / "out", "yolo", tmp_path / "labels.json").write(done, CLASSES)
    assert open_dataset(tmp_path / "out").classes == ("big dog", "cat", "bird")
    assert compare(done, tmp_path / "out") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<View><Image name='i' value='$i'/></View>", "no <RectangleLabels>"),
        ("{}", "not XML"),
        ("<View><Image name='i'/><RectangleLabels name='r' toName='i'><Label value='cats'/></RectangleLabels></View>",
         r"no label for any class of the detector \(cat, big dog\)\. Did you mean cats"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><View>&b;</View>", "not XML"),
    ],
)  # fmt: skip
def test_configurations_that_fit_nothing_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.xml").write_text(text)
    with pytest.raises(FovealError, match=said):
        AnnotationWriter(tmp_path / "tasks.json", "labelstudio", tmp_path / "config.xml").label_of(CLASSES)
    assert not (tmp_path / "tasks.json").exists()


def test_images_beside_the_document_root_and_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = found_in(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(FovealError, match=r"is not below .*elsewhere"):
        AnnotationWriter(tmp_path / "tasks.json", "labelstudio").write(done, CLASSES)
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path))
    AnnotationWriter(tmp_path / "tasks.json", "labelstudio", prefix="https://example.org/").write(done, CLASSES)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "https://example.org/photos/%C3%BC%231.png"
    with pytest.raises(UsageError, match="labelstudio alone"):
        AnnotationWriter(tmp_path / "out", "coco", prefix="https://example.org/")
