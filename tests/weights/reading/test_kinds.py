"""Files that are no weights are named by what they are, with what to do, in one line."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import foveal
from foveal.cli.main import main
from foveal.errors import FovealError
from foveal.weights.open import read_weights
from foveal.weights.reading.kinds import kind_of

DATA = np.random.default_rng(0).bytes(4000)


def varint(number: int) -> bytes:
    out = b""
    while True:
        byte, number = number & 127, number >> 7
        out += bytes([byte | (128 if number else 0)])
        if not number:
            return out


def part(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


GRAPH = part(1, part(1, "x") + part(2, "y") + part(4, "Conv")) + part(2, "main") + part(5, part(8, "w") + part(9, DATA))
NODE = part(1, "image_tensor") + part(2, "Placeholder")
CAFFE = part(1, part(1, "conv1") + part(2, "Convolution") + part(7, part(5, DATA)))


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("model.pth")
        info.size = len(DATA)
        archive.addfile(info, io.BytesIO(DATA))
    return buffer.getvalue()


GOOD = saved({"a.weight": torch.ones(1000)})
ORIGINAL, UNPACK, AGAIN = "that it was made from", "Unpack it", "again"
# name: content, what it is, what to do
FILES: dict[str, tuple[bytes, str, str]] = {
    "a.onnx": (part(1, 8) + part(2, "pytorch") + part(3, "2.1") + part(7, GRAPH), "an ONNX network", ORIGINAL),
    "renamed.pth": (part(1, 7) + part(7, GRAPH) + part(8, part(2, 13)), "an ONNX network", ORIGINAL),
    "a.engine": (b"ftrt" + DATA, "a TensorRT engine", ORIGINAL),
    "b.engine": (struct.pack("<i", 9) + b'{"a": 12}' + b"ftrt" + DATA, "a TensorRT engine", ORIGINAL),
    "c.engine": (DATA, "a TensorRT engine", ORIGINAL),
    "old.caffemodel": (part(1, "VGG") + part(2, part(4, "conv1") + DATA), "a Caffe network", ORIGINAL),
    "new.caffemodel": (part(1, "CaffeNet") + part(100, CAFFE), "a Caffe network", ORIGINAL),
    "a.prototxt": (b'name: "VGG"\nlayer {\n  name: "c"\n}\n', "a Caffe network without weights", "PyTorch"),
    "a.pb": (part(1, NODE) + part(1, NODE) + part(4, part(1, 27)), "a TensorFlow graph", ORIGINAL),
    "saved_model.pb": (part(1, 1) + part(2, part(1, part(4, "serve")) + DATA), "a TensorFlow model", ORIGINAL),
    "model.data-00000-of-00001": (DATA, "a TensorFlow checkpoint", ORIGINAL),
    "a.tflite": (struct.pack("<I", 28) + b"TFL3" + DATA, "a TensorFlow Lite model", ORIGINAL),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + DATA, "an HDF5 file, as Keras writes", "PyTorch"),
    "a.keras": (zipped(**{"config.json": "{}", "model.weights.h5": "x"}), "a Keras model", "PyTorch"),
    "a.mlmodel": (part(1, 4) + part(2, part(1, part(1, "image"))) + part(500, DATA), "a Core ML", ORIGINAL),
    "a.npz": (npz(), "a NumPy archive", "tensors"),
    "a.npy": (b"\x93NUMPY" + DATA, "a NumPy array", ".pth"),
    "a.zip": (zipped(**{"a/readme.txt": "x", "b.jpg": "y"}), "a zip archive of a/readme.txt, b.jpg", ".pth"),
    "around.zip": (zipped(**{"models/best.pth": "x"}), "a zip archive with models/best.pth in it", "give models/best"),
    "none.zip": (zipped(), "an empty zip archive", ".pth"),
    "a.mar": (zipped(**{"MAR-INF/MANIFEST.json": "{}", "m.pth": "x"}), "a TorchServe archive", UNPACK),
    "a.docx": (zipped(**{"[Content_Types].xml": "x"}), "an Office document", ".pth"),
    "a.pt2": (zipped(**{"archive/archive_format": "pt2"}), "a program of torch.export", "state_dict"),
    "a.tar": (tar(), "a tar archive", UNPACK),
    "a.tar.gz": (b"\x1f\x8b\x08" + DATA, "a gzip archive", UNPACK),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + DATA, "a 7-Zip archive", UNPACK),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer", "git lfs pull"),
    "page.pth": (b"\n <!DOCTYPE html><html>", "a web page", AGAIN),
    "denied.pth": (b'<?xml version="1.0"?><Error/>', "a web page", AGAIN),
    "answer.pth": (b'{"error": "not found"}', "a JSON text", AGAIN),
    "openvino.xml": (b'<?xml version="1.0"?>\n<net name="m">', "an OpenVINO network", ORIGINAL),
    "a.param": (b"7767517\n75 83\n", "an ncnn network", ORIGINAL),
    "a.params": (b"\x12\x01\0\0\0\0\0\0" + DATA, "an MXNet parameter file", ORIGINAL),
    "a.gguf": (b"GGUF" + DATA, "a GGUF file", ".pth"),
    "a.cfg": (b"[net]\nwidth=416\n", "a Darknet cfg", "foveal train FILE.cfg"),
    "a.py": (b"model = dict(type='RetinaNet')\n", "a Python file", ".pth"),
    "a.yaml": (b"MODEL:\n  META_ARCHITECTURE: x\n", "a YAML file", ".pth"),
    "photo.pth": (b"\xff\xd8\xff\xe0" + DATA, "a JPEG image", ".pth"),
    "cut.pth": (GOOD[: len(GOOD) // 2], "truncated, damaged or not a PyTorch file", AGAIN),
    "end.pth": (GOOD[:-10], "truncated, damaged or not a PyTorch file", AGAIN),
    "empty.pth": (b"", "an empty file", AGAIN),
    "noise.pth": (DATA, "of an unknown format", ".pth"),
    "short.safetensors": (b"\x10\0\0", "a truncated safetensors file", AGAIN),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_named_with_what_to_do(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, what, fix = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert main(["weights", "import", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and output.startswith(f"foveal: {tmp_path / name}: is ")
    assert what in output and fix in output, output


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def programs(folder: Path) -> list[tuple[Path, str]]:
    """Files of whole networks, and what is said about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Small()).save(folder / "script.pt")  # type: ignore[no-untyped-call]
        torch.jit.trace(Small(), torch.ones(1, 2)).save(folder / "traced.pt")  # type: ignore[no-untyped-call]
    torch.save(Small(), folder / "whole.pth")
    torch.save(Small(), folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "model": Small(), "ema": Small()}, folder / "yolo.pt")
    script = "is a TorchScript program, which contains code.*state_dict"
    code = r"contains code \([\w.]*Small\), which is never executed.*state_dict"
    return [(folder / n, w) for n, w in zip(("script.pt", "traced.pt"), (script,) * 2, strict=True)] + [
        (folder / n, code) for n in ("whole.pth", "old.pth", "yolo.pt")
    ]


def test_whole_networks_are_refused_unexecuted(tmp_path: Path) -> None:
    for file, words in programs(tmp_path):
        with pytest.raises(FovealError, match=words):
            read_weights(file)


@pytest.mark.parametrize("door", [["weights", "import", "--out", "x"], ["predict", "photo.jpg"]])
def test_no_warning_of_a_library_reaches_the_screen(door: list[str], tmp_path: Path) -> None:
    """TorchScript, an old form of a whole network, and a pickle of another protocol: standard error has one line."""
    names = [file for file, _ in programs(tmp_path) if file.name in ("script.pt", "old.pth")]
    (tmp_path / "five.pkl").write_bytes(pickle.dumps({"a": np.ones(3)}, 5))
    torch.save({"a": torch.ones(3)}, tmp_path / "protocol.pth", pickle_protocol=4)
    for file in (*names, tmp_path / "five.pkl", tmp_path / "protocol.pth"):
        command = [sys.executable, "-m", "foveal", door[0], *door[1:2], str(file), *door[2:]]
        if door[0] == "predict":
            command = [sys.executable, "-m", "foveal", "predict", str(file), "photo.jpg"]
        environment = {**os.environ, "PYTHONPATH": str(Path(foveal.__file__).parents[1])}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"foveal: {file}: ")


def test_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "tf").mkdir()
    (tmp_path / "tf" / "saved_model.pb").touch()
    with pytest.raises(FovealError, match="is a TensorFlow model's folder"):
        kind_of(tmp_path / "tf")
    (tmp_path / "epoch_12.pth").touch()
    with pytest.raises(FovealError, match=r"Give one of its weights files: epoch_12\.pth"):
        foveal.load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["model.0.conv.weight", "model.24.m.0.weight"], "an Ultralytics YOLO"),
        (["backbone.backbone.stem.conv.conv.weight"], "a YOLOX"),
        (["backbone.stem.conv1.norm.weight", "roi_heads.res5.0.conv1.weight"], "a Detectron2 model of another kind"),
        (["backbone.conv1.weight", "bbox_head.conv_cls.weight"], "an MMDetection model of another kind"),
        (["transformer.encoder.layers.0.x", "transformer.level_embed"], "a transformer detector other than DETR"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["vision_model.embeddings.weight"], "a CLIP-like model"),
        (["fc.weight", "conv1.weight"], "a classification network"),
        (["roi_head.trunk.fc6.weight"], "a state of one of foveal's detectors without its spec"),
    ],
)
def test_states_of_other_models_are_named(keys: list[str], what: str, tmp_path: Path) -> None:
    torch.save({key: torch.ones(1) for key in keys}, tmp_path / "other.pth")
    with pytest.raises(FovealError, match=rf"other\.pth: is {re.escape(what)}.*Give one of"):
        foveal.load(tmp_path / "other.pth")


def test_random_bytes_are_never_a_crash(tmp_path: Path) -> None:
    """Each kind's file with random bytes changed, cut or added: read or refused by name."""
    rng, file = np.random.default_rng(1), tmp_path / "x.pth"
    edits: list[Callable[[bytearray], bytearray]] = [
        lambda b: b[: rng.integers(len(b) + 1)],
        lambda b: b + bytearray(rng.bytes(20)),
        lambda b: bytearray(rng.bytes(8)) + b[8:],
    ]
    contents = [content for content, _, _ in FILES.values()] + [GOOD, pickle.dumps({"model": {"a": np.ones(3)}})]
    for i in range(400):
        data = bytearray(contents[i % len(contents)])
        for at in rng.integers(0, max(1, len(data)), 3):
            data[at : at + 1] = rng.bytes(1) if data else b""
        file.write_bytes(edits[i % 3](data) if i % 4 else data)
        try:
            read_weights(file)
        except FovealError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)
