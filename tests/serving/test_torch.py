"""A detector of torch behind the server: a folder with its weights, and its answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.checkpoints.content import Content
from foveal.checkpoints.folder import save
from foveal.checkpoints.huggingface import write_hub_folder
from foveal.checkpoints.load import load
from foveal.config.show import spec_to_json
from foveal.data.images.load import decode
from foveal.serving import models
from tests.serving.server import serving
from tests.serving.test_serve import photo

for needed in ("starlette", "uvicorn"):
    pytest.importorskip(needed)


def test_a_folder_is_served(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = presets.get("ssd_mini")
    detector = spec.build(["cat", "dog"])
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(1.5)  # scores that differ
    write_hub_folder(tmp_path / "first", spec, ("cat", "dog"), detector.state_dict())
    body = photo(1, (160, 120))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the server's process: random weights give scores so close that others reorder them
    try:
        expected = load(tmp_path / "first", device="cpu").predict_arrays([decode(body)])[0].above(0.05).to_list()
    finally:
        torch.set_num_threads(threads)
    with serving(tmp_path / "first", "--device", "cpu", torch=True) as server:
        answer = server.json("/predict?score=.05", body)
        info = server.json("/info")["models"][0]
    found = answer["detections"]
    assert len(found) == len(expected) > 0 and answer["model"] == "first"
    assert [d["label"] for d in found] == [d["label"] for d in expected]
    assert np.abs(np.array([d["box"] for d in found]) - [d["box"] for d in expected]).max() < 1e-3
    assert info["runtime"] == "torch" and len(info["sha256"]) == 64 and str(tmp_path) not in json.dumps(info)


def test_the_digest_of_a_run_is_that_of_its_best_checkpoint(tmp_path: Path) -> None:
    """Of the weights that answer, though a newer checkpoint lies beside them."""
    spec = presets.get("ssd_mini")
    stored = {"spec": spec_to_json(spec)["spec"], "classes": ["cat", "dog"], "versions": {}}
    for step in (1, 2):
        torch.manual_seed(step)
        state = spec.build(["cat", "dog"]).state_dict()
        content = Content(model=state, raw={}, optimizer={}, state={"step": step, "best": 1}, spec=stored)
        save(tmp_path / "first" / "checkpoints", step, content)
    (served,) = models.open_models([tmp_path / "first"], device="cpu")
    best = (tmp_path / "first" / "checkpoints" / "step-1" / "model.safetensors").read_bytes()
    assert served.facts["sha256"] == hashlib.sha256(best).hexdigest()
