"""``foveal.load``: what it accepts, and that the inference form predicts the same as the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.content import Content
from foveal.checkpoints.export import export_model
from foveal.checkpoints.folder import load_checkpoint, point, save
from foveal.checkpoints.initial import load_weights
from foveal.checkpoints.load import import_model, load, ready
from foveal.cli.main import main
from foveal.config.show import show
from foveal.errors import FovealError
from foveal.parts.resizing import Resize

SPEC = replace(presets.retinanet_mini, input=Resize(96, 160))


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    built = SPEC.build(["a", "b"]).train()
    built([torch.rand(3, 96, 128)] * 2)  # non-trivial batch norm statistics
    g = torch.Generator().manual_seed(1)
    for name, p in built.named_parameters():
        if "cls_logits" in name:
            p.data += torch.randn(p.shape, generator=g) * (0.5 if p.dim() > 1 else 2.0)
    return built.eval()


@pytest.fixture()
def image_array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture()
def run(detector: Detector, tmp_path: Path) -> Path:
    described = {"spec": show(SPEC), "classes": ["a", "b"], "versions": {}}
    save(tmp_path / "run" / "checkpoints", 3, Content(detector.state_dict(), {}, {}, {"step": 3}, described))
    point(tmp_path / "run" / "checkpoints", "best", 3)
    return tmp_path / "run"


def test_inference_form_gives_the_same_predictions(detector: Detector, image_array: np.ndarray) -> None:
    plain = detector.predict_arrays([image_array])[0]
    quick = ready(detector, "cpu", "32").predict_arrays([image_array])[0]
    assert len(plain) == len(quick) > 0
    torch.testing.assert_close(quick.scores, plain.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(quick.boxes, plain.boxes, rtol=0, atol=1e-2)


def test_bf16_predictions_are_close(detector: Detector, image_array: np.ndarray) -> None:
    half = ready(detector, "cpu", "bf16")
    assert next(half.parameters()).dtype == torch.bfloat16
    plain, found = detector.predict_arrays([image_array])[0], half.predict_arrays([image_array])[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert abs(float(plain.scores[0]) - float(found.scores[0])) < 0.05


def test_run_checkpoint_and_exported_file_load_the_same_detector(
    run: Path, image_array: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "one.safetensors"
    assert main(["weights", "export", str(run), "--out", str(file)]) == 0
    predictions = [
        load(p, precision="32").predict_arrays([image_array])[0] for p in (run, run / "checkpoints" / "step-3", file)
    ]
    assert all(torch.equal(a.boxes, predictions[0].boxes) and a.names == ("a", "b") for a in predictions)


def test_export_and_import_as_functions(run: Path, image_array: np.ndarray, tmp_path: Path) -> None:
    written, remarks = export_model(run, tmp_path / "one.safetensors")
    assert written == [tmp_path / "one.safetensors"] and remarks == []
    spec, names = import_model(written[0], tmp_path / "imported")
    assert names == ("a", "b") and spec == load_checkpoint(run).spec.with_pixels()
    first, second = (load(p, precision="32").predict_arrays([image_array])[0] for p in (run, tmp_path / "imported"))
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)
    with pytest.raises(FovealError, match="exists already"):
        import_model(written[0], tmp_path / "imported")


def test_export_accepts_what_load_accepts_and_reports_unwritable_paths(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert main(["weights", "export", str(run), "--out", str(one)]) == 0
    assert main(["weights", "export", str(one), "--out", str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert main(["weights", "export", "accurate", "--out", str(tmp_path / "three.safetensors")]) in (0, 1)
    output = capsys.readouterr().err
    assert not output or "weights fetch accurate" in output, "an alias is known"
    assert main(["weights", "export", str(run), "--out", f"{tmp_path}/{'n' * 300}.safetensors"]) == 1


def test_safetensors_write_errors_are_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    assert main(["weights", "export", str(run), "--out", str(tmp_path / "x.safetensors")]) == 1
    output = capsys.readouterr().err
    assert "x.safetensors: cannot be written" in output
    assert "Traceback" not in output


def test_training_starts_from_any_loadable_model(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    assert main(["weights", "export", str(run), "--out", str(file)]) == 0
    fresh = [load_checkpoint(run).spec.build(("a", "b")) for _ in range(3)]
    for detector, source in zip(fresh, (run, run / "checkpoints" / "step-3", file), strict=True):
        assert load_weights(detector, source).new == {}
        assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), fresh[0].parameters(), strict=True))
    with pytest.raises(FovealError, match="no such run, checkpoint, weights file or alias"):
        load_weights(fresh[0], tmp_path / "none")


def test_overrides_change_the_spec_before_it_is_built(run: Path, image_array: np.ndarray) -> None:
    few = load(run, overrides=["task.suppress.top=2"])
    assert len(few.predict_arrays([image_array])[0]) == 2


def test_predict_accepts_common_image_types(run: Path, image_array: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    loaded = load(run, precision="32")
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(image_array).save(folder / "one.png")
    want = loaded.predict(image_array)
    for source in (folder / "one.png", str(folder / "one.png"), Image.fromarray(image_array)):
        assert torch.equal(loaded.predict(source).boxes, want.boxes)
    assert [len(d) for d in loaded.predict(folder)] == [len(want)] == [len(d) for d in loaded.predict([image_array])]


def test_invalid_models_are_rejected_by_name(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="no such run"):
        load(tmp_path / "nothing")
    text = tmp_path / "best.pt"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FovealError, match=r"best\.pt"):
        load(text)
    alien = tmp_path / "alien.safetensors"
    save_file({"a": torch.zeros(1)}, alien)
    with pytest.raises(FovealError, match="alien"):
        load(alien)
    for words in ("x", "[]", "{}", '{"classes": 3}', '{"classes": [3]}'):
        save_file({"a": torch.zeros(1)}, alien, {"foveal": words})
        with pytest.raises(FovealError, match=r"alien.*entry 'foveal'"):
            load(alien)
    with pytest.raises(FovealError, match="RetinaNet"):
        load(run, overrides=["head.depth=3"])
