"""Label Studio's ML backend protocol, with requests as Label Studio sends them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.server import Server, serving, small_model
from tests.serving.test_serve import photo

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn"):
    pytest.importorskip(needed)

CONFIG = """<View><Image name="img" value="$picture"/>
<RectangleLabels name="boxes" toName="img"><Label value="Cat"/><Label value="dog"/></RectangleLabels></View>"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio") / "root"
    (folder / "upload/7").mkdir(parents=True)
    (folder / "pets").mkdir()
    (folder / "pets/a photo.jpg").write_bytes(photo(2, (160, 120)))
    (folder / "upload/7/1a2b-up.jpg").write_bytes(photo(3, (160, 120)))
    (folder / "pets/notes.jpg").write_text("no image")
    (folder.parent / "secret.jpg").write_bytes(photo(4))
    (folder / "pets/link.jpg").symlink_to(folder.parent / "secret.jpg")
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    model = small_model(root.parent / "small.onnx")
    with serving(model, "--labelstudio-root", root, "--labelstudio-score", ".1", "--key", "secret") as running:
        yield running


def ask(server: Server, route: str, **sent: Any) -> tuple[int, Any]:
    login = base64.b64encode(b"labelstudio:secret").decode()  # how Label Studio sends a key
    body = json.dumps(sent).encode()
    status, _, content = server.ask(f"/labelstudio/{route}", body, Authorization=f"Basic {login}")
    return status, json.loads(content)


def predicted(server: Server, *addresses: str, config: str = CONFIG) -> tuple[int, Any]:
    tasks = [{"id": k, "data": {"picture": address}} for k, address in enumerate(addresses)]
    return ask(server, "predict", tasks=tasks, label_config=config, project="7.1", params={"login": None})


def test_health_setup_and_the_key(server: Server) -> None:
    assert server.ask("/labelstudio/health")[0] == 401
    status, _, content = server.ask("/labelstudio/health", Authorization="Bearer secret")
    assert status == 200 and json.loads(content)["status"] == "UP"
    status, answer = ask(server, "setup", project="7", schema=CONFIG, extra_params="")
    assert status == 200 and answer["model_version"].startswith("small ") and not answer["classes_without_label"]
    assert ask(server, "webhook", action="ANNOTATION_CREATED")[0] == 200


def test_boxes_come_back_in_percent(server: Server, root: Path) -> None:
    addresses = ["/data/local-files/?d=pets/a%20photo.jpg", "/data/upload/7/1a2b-up.jpg"]
    addresses.append("data:image/jpeg;base64," + base64.b64encode(photo(5, (160, 120))).decode())
    status, answer = predicted(server, *addresses)
    assert status == 200 and len(answer["results"]) == 3
    for seed, prediction in zip((2, 3, 5), answer["results"], strict=True):
        _, _, content = server.ask("/predict?score=.1", photo(seed, (160, 120)), Authorization="Bearer secret")
        found = json.loads(content)["detections"]
        assert len(found) == len(prediction["result"]) >= 1
        for detection, region in zip(found, prediction["result"], strict=True):
            value = region["value"]
            assert region["from_name"] == "boxes" and region["to_name"] == "img" and region["type"] == "rectanglelabels"
            assert (region["original_width"], region["original_height"]) == (160, 120)
            box = [value["x"] * 1.6, value["y"] * 1.2]
            box += [box[0] + value["width"] * 1.6, box[1] + value["height"] * 1.2]
            assert box == pytest.approx(detection["box"], abs=0.1)
            assert value["rectanglelabels"][0].lower() == detection["label"]
        assert prediction["model_version"].startswith("small ") and 0 < prediction["score"] <= 1


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("/data/local-files/?d=../secret.jpg", 404, "no_such_image"),
        ("/data/local-files/?d=pets/../../secret.jpg", 404, "no_such_image"),
        ("/data/local-files/?d=%2e%2e/secret.jpg", 404, "no_such_image"),
        ("/data/local-files/?d=pets/link.jpg", 404, "no_such_image"),
        ("/data/local-files/?d=/etc/passwd", 404, "no_such_image"),
        ("/etc/passwd", 404, "no_such_image"),
        ("/data/local-files/?d=pets", 404, "no_such_image"),
        ("/data/local-files/?d=pets%00.jpg", 422, "bad_address"),
        ("http://169.254.169.254/latest/meta-data", 422, "not_fetched"),
        ("//example.org/x.jpg", 422, "not_fetched"),
        ("file:///etc/passwd", 422, "not_fetched"),
        ("s3://bucket/x.jpg", 422, "not_fetched"),
        ("/data/local-files/?d=pets/notes.jpg", 415, "not_an_image"),
        ("data:image/png;base64,!!!", 415, "not_an_image"),
    ],
)
def test_nothing_outside_the_folder_is_read(server: Server, address: str, status: int, code: str) -> None:
    found, answer = predicted(server, address)
    assert (found, answer["code"]) == (status, code)


def test_one_bad_image_leaves_the_others(server: Server) -> None:
    status, answer = predicted(server, "/data/local-files/?d=gone.jpg", "/data/local-files/?d=pets/a photo.jpg")
    assert status == 200 and [bool(p["result"]) for p in answer["results"]] == [False, True]


def test_names_that_do_not_match_are_said(server: Server) -> None:
    other = CONFIG.replace("Cat", "horse").replace("dog", "cow")
    for route in ("setup", "predict"):
        status, answer = ask(server, route, schema=other, label_config=other, tasks=[])
        assert status == 422 and "cat, dog" in answer["message"] and "horse, cow" in answer["message"]
    status, answer = ask(server, "setup", schema=CONFIG.replace("dog", "cow"))
    assert status == 200 and answer["classes_without_label"] == ["dog"]
    assert ask(server, "setup", schema="<View/>")[0] == 422
    assert ask(server, "predict", tasks={}, label_config=CONFIG)[0] == 400
