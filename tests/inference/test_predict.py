"""Prediction on files: sources, names of drawings, JSON, bad images. The detector is a stub with known detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.assembly.detector import Detector
from foveal.errors import FovealError, UsageError
from foveal.inference.predict import PredictedImages, predict
from foveal.types import Detections


class Known:
    """Finds a cat as large as the image with score .9, and a dog of one pixel with score .4."""

    classes = ("cat", "dog")
    device = torch.device("cpu")
    source = None  # proposals are not used

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict_arrays(
        self, arrays: Sequence[np.ndarray[Any, Any]], batch: int | None = None, proposals: Any = None
    ) -> list[Detections]:
        self.calls.append(len(arrays))
        return [
            Detections(
                torch.tensor([[0.0, 0.0, float(a.shape[1]), float(a.shape[0])], [1.0, 1.0, 2.0, 2.0]]),
                torch.tensor([0.9, 0.4]),
                torch.tensor([0, 1]),
                self.classes,
            )
            for a in arrays
        ]


def run(sources: Any, **options: Any) -> PredictedImages:
    return predict(cast(Detector, Known()), sources, **options)


def write_image(path: Path, width: int = 30, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "teal").save(path)
    return path


def test_json_has_the_stable_schema(tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png")
    run(photo, json=tmp_path / "deep" / "found.json", score=0.4)
    (entry,) = json.loads((tmp_path / "deep" / "found.json").read_text())
    assert entry["image"] == str(photo)
    assert (entry["width"], entry["height"]) == (30, 20)
    assert entry["detections"][0] == {"label": "cat", "score": pytest.approx(0.9), "box": [0.0, 0.0, 30.0, 20.0]}
    assert [d["label"] for d in entry["detections"]] == ["cat", "dog"]


def test_limit_uses_the_first_images(tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
    done = run(tmp_path, limit=2)
    assert [Path(entry.image).name for entry in done.images] == ["a.png", "b.png"]


def test_score_and_classes_filter_detections(tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png")
    assert run(photo).images[0].detections.labels.tolist() == [0]
    assert run(photo, score=0.1, classes=["dog"]).images[0].detections.labels.tolist() == [1]
    with pytest.raises(UsageError, match=r"'cow'.*cat, dog"):
        run(photo, classes=["cow"])
    with pytest.raises(UsageError, match="score is 50"):
        run(photo, score=50)


def test_drawings_keep_their_folders_and_never_land_in_the_data_folder(tmp_path: Path) -> None:
    files = [write_image(tmp_path / n) for n in ("a/x.png", "b/x.png", "a/x.jpg", "a/x-2.png", "c/X.png", "c/b_x.bmp")]
    done = run(files, out=tmp_path / "out")
    names = [entry.drawing.relative_to(tmp_path / "out").as_posix() for entry in done.images if entry.drawing]
    assert names == ["a/x.png.jpg", "b/x.jpg", "a/x.jpg", "a/x-2.jpg", "c/X.jpg", "c/b_x.jpg"]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")) == sorted(
        names
    )
    with pytest.raises(FovealError, match="the source images are in this folder"):
        run(files, out=tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["x-2.png", "x.jpg", "x.png"]


def test_bad_images_are_named_and_skipped_or_rejected_alone(tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    done = run([bad, good, tmp_path / "missing.png"])
    assert [p.image for p in done.images] == [str(good)]
    assert [Path(str(e.path)).name for e in done.skipped] == ["bad.jpg", "missing.png"]
    with pytest.raises(FovealError, match=r"bad\.jpg"):
        run(bad)
    with pytest.raises(FovealError, match=r"none of the 2 images.*bad\.jpg.*missing\.png"):
        run([bad, tmp_path / "missing.png"])


def test_images_are_decoded_ahead_in_batches(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", 20 + i) for i in range(11)]
    known = Known()
    seen: list[tuple[int, int]] = []
    done = predict(cast(Detector, known), files, batch=4, progress=lambda n, total: seen.append((n, total)))
    assert known.calls == [4, 4, 3]
    assert [entry.width for entry in done.images] == list(range(20, 31))
    assert seen == [(i, 11) for i in range(1, 12)]
