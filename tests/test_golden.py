"""Stored runs can be read and give unchanged predictions: refactoring changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from foveal.checkpoints.load import load
from foveal.config.parse import parse_spec
from foveal.training.run import train
from tests.golden.make import FAMILIES, HERE, RESUMABLE, answers, image, shapes


def close(name: str, found: Tensor, expected: Tensor) -> bool:
    """Bit for bit on the CPU that wrote them, with as many threads. The order of additions of another one moves raw
    predictions by up to 1.2e-6 of the largest (at least of 1) and boxes by up to 1.3e-6: measured with oneDNN and ATen
    held to SSE4.1 and AVX2, on Intel and AMD, with one thread and two."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    largest = max(1.0, float(expected.abs().max()))
    return bool((found - expected).abs().max() <= 2e-6 * largest)


def test_every_family_has_a_stored_run() -> None:
    assert len(FAMILIES) == 16
    assert {p.parent.name for p in HERE.glob("*/run.json")} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_stored_run_predictions_are_unchanged(name: str) -> None:
    with safe_open(HERE / name / "expected.safetensors", "pt") as file:
        seed = int(file.metadata()["seed"])
    expected = load_file(HERE / name / "expected.safetensors")
    found = answers(load(HERE / name, device="cpu", precision="32"), image(seed))
    assert found.keys() == expected.keys() and len(expected["boxes"]) >= 12
    assert [key for key in expected if not close(key, found[key], expected[key])] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_stored_run_is_small_and_names_no_machine(name: str) -> None:
    checkpoint = (HERE / name / "checkpoints" / "best").resolve()
    assert sum(p.stat().st_size for p in checkpoint.iterdir()) < 200_000
    run_json = json.loads((HERE / name / "run.json").read_text())
    assert run_json["arguments"]["data"] == "data/shapes" and parse_spec(run_json["spec"])


def test_stored_run_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(HERE / RESUMABLE, out, symlinks=True)
    assert not (out / "results.json").exists()
    data = shapes(tmp_path / "shapes")
    threads = torch.get_num_threads()
    try:
        train(out, data=data, out=out, seed=1, resume=True, device="cpu", workers=0, progress=False, tensorboard=False)
    finally:
        torch.set_num_threads(threads)  # the run's own
    assert json.loads((out / "results.json").read_text())["steps"] == 6
    assert (out / "checkpoints" / "last").resolve().name == "step-6"
