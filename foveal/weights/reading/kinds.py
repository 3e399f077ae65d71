"""The kind of a file by its content: weights that can be read, or what it is instead and what to do with it."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FovealError

GIVE = "Give a .pth file with a state dict, or a .safetensors file"
_ORIGINAL = "Give the .pth or .safetensors file that it was made from"
_UNPACK = "Unpack it, and give the .pth or .safetensors file that is in it"
AGAIN = "Download or copy it again"
_SAMPLE = 2048
WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl", ".safetensors", ".weights")
# of files that are meant as a model, whether or not they can be read
MODEL_SUFFIXES = (
    *(*WEIGHTS_SUFFIXES, ".th", ".pyth", ".bin", ".onnx", ".engine", ".plan", ".trt", ".caffemodel", ".prototxt"),
    *(".h5", ".hdf5", ".keras", ".tflite", ".pb", ".npz", ".npy", ".torchscript", ".pt2", ".pte", ".mar", ".mlmodel"),
    *(".pdparams", ".params", ".msgpack", ".gguf", ".t7", ".mat", ".rknn", ".hef", ".om", ".mnn", ".tar", ".cfg"),
)


@dataclass(frozen=True)
class FileKind:
    """What a file is: ``pytorch``, ``safetensors``, or a description; and what to do with one that is no weights."""

    name: str
    fix: str = GIVE

    @property
    def problem(self) -> str:
        """The sentence about a file that is no weights file."""
        return f"is {self.name}" + ("" if self.name.startswith(("truncated", "damaged")) else ", not a weights file")


_MAGIC: Sequence[tuple[bytes, str, str]] = (
    (b"\x89PNG", "a PNG image", GIVE),
    (b"\xff\xd8\xff", "a JPEG image", GIVE),
    (b"GIF8", "a GIF image", GIVE),
    (b"%PDF", "a PDF", GIVE),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes (.h5)", "Give a PyTorch file of the network, or train a preset"),
    (b"\x93NUMPY", "a NumPy array (.npy)", GIVE),
    (b"GGUF", "a GGUF file (llama.cpp)", GIVE),
    (b"ftrt", "a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL),
    (b"ptrt", "a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", GIVE),
    (b"SQLite format 3", "an SQLite database", GIVE),
    (b"\x7fELF", "a program or library", GIVE),
    (b"\x12\x01\0\0\0\0\0\0", "an MXNet parameter file (.params)", _ORIGINAL),
    (b"7767517", "an ncnn network (.param)", _ORIGINAL),
)
_OLD_PICKLES = (b"(dp", b"(lp", b"}q", b"ccopy_reg\n", b"ccollections\n", b"cnumpy")  # protocols 0 and 1
# the kind of a file without a mark of its own, by the ending of its name
_ENDINGS: Mapping[str, tuple[str, str]] = {
    ".engine": ("a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL),
    ".plan": ("a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL),
    ".trt": ("a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL),
    ".onnx": ("damaged, or not an ONNX file", _ORIGINAL),
    ".mlmodel": ("a Core ML model", _ORIGINAL),
    ".caffemodel": ("a damaged Caffe file", AGAIN),
    ".pb": ("a damaged TensorFlow graph", AGAIN),
    ".t7": ("a Lua Torch file", GIVE),
    ".rknn": ("a Rockchip model (.rknn)", _ORIGINAL),
    ".om": ("an Ascend model (.om)", _ORIGINAL),
    ".hef": ("a Hailo model (.hef)", _ORIGINAL),
    ".msgpack": ("a Flax checkpoint (.msgpack)", GIVE),
    ".mnn": ("an MNN model", _ORIGINAL),
}


def kind_of(path: str | Path) -> FileKind:
    """The kind of a file by its content. Raises :class:`FovealError` for a path that is no readable file."""
    path = Path(path)
    if not path.exists():
        raise FovealError("there is no such file", path=path)
    if path.is_dir():
        raise FovealError(f"is {folder_kind(path)}, not a weights file", path=path, fix="Give the file itself")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_SAMPLE)
            file.seek(max(0, size - 1024))
            tail = file.read()
    except OSError as error:
        raise FovealError(f"cannot be read ({error.strerror})", path=path) from error
    if not head:
        return FileKind("an empty file", AGAIN)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    if (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or head.startswith(_OLD_PICKLES):
        return FileKind("pytorch")
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < max(size, 2**20):
        return FileKind("safetensors")
    if path.suffix.lower() == ".safetensors" and size < 8:
        return FileKind("a truncated safetensors file", AGAIN)
    return _other(head, tail, size, path.suffix.lower())


def _other(head: bytes, tail: bytes, size: int, ending: str) -> FileKind:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text.lower()
    if head.startswith(b"version https://git-lfs"):
        fix = "Run `git lfs pull` in the repository that it came from"
        return FileKind("a git-lfs pointer (the real file was not downloaded)", fix)
    if b"<net " in lower and lower.startswith((b"<?xml", b"<net ")):
        return FileKind("an OpenVINO network (.xml)", _ORIGINAL)
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return FileKind("a web page (a download that went wrong?)", AGAIN)
    for magic, name, fix in _MAGIC:
        if text.startswith(magic):
            return FileKind(name, fix)
    if head[4:8] in (b"TFL3", b"ET12"):
        return FileKind("a TensorFlow Lite model" if head[4:8] == b"TFL3" else "an ExecuTorch program", _ORIGINAL)
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", _UNPACK)
    if b"ftrt" in head[:1024] or b"ptrt" in head[:1024]:  # behind a JSON text of its exporter
        return FileKind("a TensorRT engine, which fits one GPU and TensorRT alone", _ORIGINAL)
    if not head.strip(b"\0"):
        return FileKind("a file of zeros (a copy that was cut off?)", AGAIN)
    if b"\0" not in head and _is_text(head):
        return _text_kind(text)
    from .protobuf import protobuf_kind  # of use to files that cannot be read alone

    if kind := protobuf_kind(head, tail, size):
        return FileKind(kind, _ORIGINAL)
    major, minor, revision = struct.unpack("<3i", head[:12]) if len(head) >= 12 else (-1, -1, -1)
    if major == 0 and 0 <= minor <= 2 and 0 <= revision <= 10:
        fix = "Give its cfg as well: --cfg FILE.cfg; to train, FILE.cfg is the model and this file its --weights"
        return FileKind("a Darknet file (or something like it)", fix)
    if re.fullmatch(r"\.(data-\d+-of-\d+|index)", ending):
        return FileKind("a TensorFlow checkpoint", _ORIGINAL)
    return FileKind(*_ENDINGS.get(ending, ("of an unknown format", GIVE)))


def _text_kind(text: bytes) -> FileKind:
    """The kind of a text file."""
    words = text.decode("utf-8", "replace")
    if re.search(r"^\s*(layers?\s*\{|input_shape\s*\{|input_dim:|solver_mode:|train_net:)", words, re.MULTILINE):
        return FileKind("a Caffe network without weights (.prototxt)", "Give a PyTorch file with weights")
    if re.search(r"^\s*\[(net|network|convolutional)\]", words, re.MULTILINE):
        fix = "Give its .weights file as the model and this one as --cfg; to train it: foveal train FILE.cfg"
        return FileKind("a Darknet cfg, which has no weights", fix)
    if words.startswith("{") and '"modelTopology"' in words:
        return FileKind("a TensorFlow.js model", _ORIGINAL)
    if words.startswith("{") and '"model_type"' in words:
        return FileKind("the config.json of a model", "Give its folder or its weights file")
    if words.startswith(("import ", "from ", "model = ", "_base_")) or "\nmodel = dict(" in words:
        return FileKind("a Python file", GIVE)
    if re.search(r"^(MODEL|model|nc|names)\s*:", words, re.MULTILINE):
        return FileKind("a YAML file with settings", GIVE)
    if words.startswith(("{", "[")):
        return FileKind("a JSON text (the answer of a server?)", AGAIN)
    return FileKind("a text file")


def _zip_kind(path: Path) -> FileKind:
    """The kind of a zip by the names in it. A zip that ends too early has no list of names."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return FileKind("truncated, damaged or not a PyTorch file (the list of contents at its end is missing)", AGAIN)
    leaves = {name.rsplit("/", 1)[-1] for name in names}
    if any(name.count("/") <= 1 and name.endswith("data.pkl") for name in names):
        if "constants.pkl" in leaves or any("/code/" in name for name in names):
            return FileKind("a TorchScript program, which contains code", f"{_ORIGINAL}, with model.state_dict()")
        return FileKind("pytorch")
    if "serialized_exported_program.json" in leaves or "archive_format" in leaves:
        return FileKind("a program of torch.export, which contains code", f"{_ORIGINAL}, with model.state_dict()")
    if any(name.startswith("MAR-INF/") for name in names):
        return FileKind("a TorchServe archive (.mar)", _UNPACK)
    if any(leaf.endswith(".weights.h5") for leaf in leaves):
        return FileKind("a Keras model (.keras)", "Give a PyTorch file of the network, or train a preset")
    if leaves and all(leaf.endswith(".npy") for leaf in leaves):
        return FileKind("a NumPy archive (.npz)", "Save its arrays as tensors in a .pth file")
    if "[Content_Types].xml" in leaves:
        return FileKind("an Office document")
    files = [name for name in names if not name.endswith("/")]
    inside = next((name for name in files if name.lower().endswith(WEIGHTS_SUFFIXES)), None)
    if inside is not None:
        return FileKind(f"a zip archive with {inside} in it", f"Unpack it, and give {inside}")
    listed = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return FileKind(f"a zip archive of {listed}" if files else "an empty zip archive", GIVE)


def folder_kind(path: Path) -> str:
    """What a folder is."""
    if (path / "saved_model.pb").is_file():
        return "a TensorFlow model's folder"
    if path.suffix.lower() in (".mlpackage", ".mlmodelc"):
        return "a Core ML model's folder"
    if (path / "data.pkl").is_file() and (path / "data").is_dir():
        return "an unpacked PyTorch file"
    return "a folder"


def _is_text(head: bytes) -> bool:
    if any(byte < 9 or 13 < byte < 27 for byte in head):  # control characters
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _SAMPLE  # a character cut by the end of the sample
    return True


def first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__
