"""Export of a Darknet detector trained on COCO: its proof, six planted faults, and prediction without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.assembly.detector import Detector
from foveal.checkpoints.load import find, ready
from foveal.config.overrides import override
from foveal.errors import FovealError, UsageError
from foveal.export.graph import axes_of
from foveal.export.proof import prove
from foveal.export.write import add_metadata, export_detector

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def detector(shared: Path) -> Detector:
    folder = shared / "data/weights/yolo-fastest"
    model = find(folder / "yolo-fastest-1.1.weights", cfg=folder / "yolo-fastest-1.1.cfg", names=folder / "coco.names")
    return model.build(override(model.spec(), ["task.suppress=NMS(iou=0.45)"]))


@pytest.fixture(scope="module")
def file(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model.onnx"
    proof = export_detector(detector, out)
    assert proof.images == 50 and proof.matched == proof.boxes > 100
    assert proof.worst_pixels <= 0.01 and proof.worst_score <= 1e-5 and proof.batches == (1, 2, 5)
    return out


def test_the_file_holds_what_others_need(file: Path, detector: Detector) -> None:
    model = onnx.load(file)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert list(json.loads(entries["names"]).values()) == list(detector.classes)
    assert json.loads(entries["foveal"])["proof"]["proved"] is True
    assert entries["task"] == "detect" and json.loads(entries["imgsz"]) == [320, 320]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert json.loads(file.with_name("model.onnx.proof.json").read_text())["boxes"] > 100


def _metadata(**changed: Any) -> Callable[[Any], None]:
    def plant(model: Any) -> None:
        metadata = json.loads(next(e.value for e in model.metadata_props if e.key == "foveal"))
        for key, value in changed.items():
            metadata[key] = value(metadata[key])
        add_metadata(model, metadata)

    return plant


def _constant(operator: str, index: int, old: float, new: float) -> Callable[[Any], None]:
    """Changes a constant input of the nodes of one operator."""

    def plant(model: Any) -> None:
        names = {node.input[index] for node in model.graph.node if node.op_type == operator}
        changed = 0
        for tensor in model.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor)
            if tensor.name in names and value.size == 1 and abs(float(value.item()) - old) < 1e-6:
                tensor.CopyFrom(onnx.numpy_helper.from_array(value * 0 + value.dtype.type(new), tensor.name))
                changed += 1
        assert changed

    return plant


def _frozen(model: Any) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (_metadata(input=lambda rule: rule | {"mean": [0.4, 0.45, 0.5]}), "mean or std"),
        (_metadata(input=lambda rule: rule | {"rule": "Stretch"}), "resize rule"),
        (_metadata(classes=lambda names: names[::-1]), "classes of the file"),
        (_metadata(score=lambda score: 0.3), "score threshold"),
        pytest.param(_constant("Greater", 1, 0.005, 0.2), "another score threshold", marks=pytest.mark.slow),
        (_constant("NonMaxSuppression", 3, 0.45, 0.9), "NMS at another IoU"),
        (_frozen, "batch of the file is fixed to 2"),
    ],
    ids=["mean", "resize", "classes", "score", "score in the graph", "NMS", "batch"],
)
def test_planted_faults_are_named(file: Path, detector: Detector, plant: Callable[[Any], None], named: str) -> None:
    model = onnx.load(file)
    plant(model)
    failures = prove(ready(detector, "cpu", "32"), model.SerializeToString()).failures
    assert any(named in failure for failure in failures), failures


def test_prediction_without_torch(file: Path, shared: Path) -> None:
    photo = next((shared / "data/photos").rglob("*.jpg"))
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "from foveal.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "predict", str(file), str(photo), "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["image"] == str(photo)


def test_bad_files_get_one_line(tmp_path: Path, file: Path, detector: Detector) -> None:
    from foveal.inference.exported import open_exported

    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FovealError, match="is damaged, or no ONNX model"):
        open_exported(damaged)
    model = onnx.load(file)
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(model.SerializeToString())
    with pytest.raises(FovealError, match="no metadata of foveal"):
        open_exported(foreign)
    with pytest.raises(FovealError, match="no such file"):
        open_exported(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="canvases of 320 x 320 alone"):
        axes_of(detector, size=(640, 640))
