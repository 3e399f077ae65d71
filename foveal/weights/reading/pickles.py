"""Reads pickles of PyTorch and NumPy without importing or executing anything that they name.

PyTorch's own reader (``weights_only=True``) comes first. What it refuses, because objects of other packages lie beside
the weights, is read again by an unpickler in which every such object is an :class:`Inert`.
"""

from __future__ import annotations

import argparse
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FovealError
from .entries import Inert
from .kinds import AGAIN, first_line

CODE_FIX = "Save the weights alone, with torch.save(model.state_dict(), ...), where the file comes from"
_LEGACY = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's form before 1.6
# no weights file needs these: a file that names one of them is not read any further
_HARMFUL = {
    *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "ctypes", "importlib", "runpy", "pty", "code"),
    *("webbrowser", "pickle", "_pickle", "marshal", "commands", "asyncio", "tempfile", "urllib", "requests", "bdb"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.open", "builtins.input"),
    *("io.open", "_io.open", "_io.FileIO", "io.FileIO", "codecs.open", "torch.load", "numpy.load", "runpy.run_path"),
    *("builtins.breakpoint", "builtins.execfile", "builtins.delattr", "builtins.setattr"),
}
_PLAIN: Mapping[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.slice": slice,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.str": str,
    "builtins.bool": bool,
    "torch.Size": tuple,
}
_STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class HarmfulPickle(Exception):
    """A pickle that names a function which no weights file needs."""


def read_pickle(path: Path) -> Any:
    """The content of a pickle: plain values, tensors, and :class:`Inert` objects. Raises :class:`FovealError`."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            first = None if is_zip else _Restricted(file).load()
        if not is_zip and first != _LEGACY:
            return arrays_as_tensors(first)
        try:
            # torchvision's and other training scripts save their argparse namespace with the weights; it is plain data
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return arrays_as_tensors(_read_zip(path) if is_zip else _read_legacy(path))
    except HarmfulPickle as error:
        raise FovealError(f"contains code ({error}), which is never executed", path=path, fix=CODE_FIX) from None
    except Exception as error:  # unpicklers raise almost anything for a damaged file
        reason = f"is truncated, damaged or not a PyTorch file ({first_line(error)})"
        raise FovealError(reason, path=path, fix=AGAIN) from error


def arrays_as_tensors(value: Any, depth: int = 6) -> Any:
    """``value`` with the NumPy arrays in its mappings and sequences as tensors, in place."""
    if isinstance(value, _Array):
        return value.tensor()
    if depth == 0:
        return value
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = arrays_as_tensors(item, depth - 1)
    elif isinstance(value, list):
        value[:] = [arrays_as_tensors(item, depth - 1) for item in value]
    elif type(value) is tuple:
        return tuple(arrays_as_tensors(item, depth - 1) for item in value)
    return value


# ----------------------------------------------------------------------------------------- the unpickler
class _Restricted(pickle.Unpickler):
    """Builds plain values, arrays and tensors; anything else becomes an :class:`Inert`."""

    def __init__(self, file: IO[bytes], storage: Callable[[torch.dtype, str, int], Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.storage = storage
        # made anew for each file: a pickle may set attributes of what it names
        self.known: dict[str, Any] = {**_PLAIN, **_numpy_names(), **_torch_names()}

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if whole in self.known:
            return self.known[whole]
        if module.startswith("torch") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module.split(".")[0] in _HARMFUL or whole in _HARMFUL:
            raise HarmfulPickle(whole)
        self.known[whole] = type("Inert", (Inert,), {"name": whole})
        return self.known[whole]

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]  # the class of a whole network, with its source: an Inert
        if self.storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError(f"a reference of an unknown form ({str(pid)[:40]})")
        _, dtype, key, _, count = pid[:5]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("a storage of an unknown form")
        view = pid[5] if len(pid) > 5 else None  # the old form: a part of another storage
        whole = self.storage(dtype, key, count)
        return whole[view[1] : view[1] + view[2]] if isinstance(view, tuple) else whole


def _torch_names() -> dict[str, Any]:
    def rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        return torch.as_strided(storage, size, stride, offset + storage.storage_offset())

    def parameter(data: Any, *_: Any) -> Any:
        return data

    return {
        "torch._utils._rebuild_tensor": rebuilt,
        "torch._utils._rebuild_tensor_v2": rebuilt,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
    }


def _numpy_names() -> dict[str, Any]:
    def reconstruct(*_: Any) -> _Array:
        return _Array()

    def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, dtype, order == "F", data))
        return array

    def scalar(dtype: Any, data: Any = b"") -> Any:
        value = _Array()
        value.__setstate__((1, (), dtype, False, data))
        return None if value.value is None else value.value.item()

    def encode(text: str, *_: Any) -> bytes:
        return text.encode("latin1")

    def some_bytes(*content: Any) -> bytes:  # never a number of them
        return bytes(content[0]) if content and isinstance(content[0], bytes | bytearray | list | tuple) else b""

    found: dict[str, Any] = {"numpy.ndarray": _Array, "numpy.dtype": _Dtype, "_codecs.encode": encode}
    found |= {"builtins.bytes": some_bytes, "builtins.bytearray": some_bytes}
    for core in ("core", "_core"):
        found[f"numpy.{core}.multiarray._reconstruct"] = reconstruct
        found[f"numpy.{core}.multiarray.scalar"] = scalar
        found[f"numpy.{core}.numeric._frombuffer"] = from_buffer
    return found


class _Dtype:
    """A NumPy dtype in a pickle: of numbers or truth values; None for any other."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        text = str(code)
        self.code = text if len(text) < 4 and text.lstrip("<>=|")[:1] in ("f", "i", "u", "b") else ""
        self.is_big = False

    def __setstate__(self, state: Any) -> None:
        self.is_big = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"

    @property
    def value(self) -> np.dtype[Any] | None:
        return np.dtype(self.code).newbyteorder(">" if self.is_big else "<") if self.code else None


class _Array:
    """A NumPy array in a pickle. Only arrays of numbers or truth values have a ``value``."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        dtype = dtype.value if isinstance(dtype, _Dtype) else None
        if isinstance(data, str):
            data = data.encode("latin1")
        if dtype is not None and isinstance(data, bytes | bytearray):
            order: Any = "F" if is_fortran else "C"
            self.value = np.frombuffer(data, dtype).reshape(shape, order=order)

    def tensor(self) -> Tensor | None:
        if self.value is None:
            return None
        native = self.value.astype(self.value.dtype.newbyteorder("="), copy=True)
        return torch.from_numpy(np.ascontiguousarray(native).reshape(self.value.shape))


# ------------------------------------------------------------------------------------- PyTorch's two forms
def _read_zip(path: Path) -> Any:
    """Since 1.6: a zip of ``NAME/data.pkl`` and ``NAME/data/KEY``, the bytes of a storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (main,) = (name for name in names if name.endswith("data.pkl") and name.count("/") <= 1)
        folder = main.removesuffix("data.pkl")
        if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
            raise pickle.UnpicklingError("big-endian tensors")
        loaded: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, _: int) -> Tensor:
            if key not in loaded:
                data = bytearray(archive.read(f"{folder}data/{key}"))
                loaded[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return loaded[key]

        return _Restricted(io.BytesIO(archive.read(main)), storage).load()


def _read_legacy(path: Path) -> Any:
    """Before 1.6: pickles of a magic number, a version, the system, the content and the keys; then the storages."""
    size = path.stat().st_size
    loaded: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in loaded:
            if not 0 <= count * dtype.itemsize <= size:
                raise pickle.UnpicklingError(f"a storage of {count} numbers in a file of {size} bytes")
            loaded[key] = torch.zeros(count, dtype=dtype)
        return loaded[key]

    with path.open("rb") as file:
        for _ in range(3):
            _Restricted(file).load()
        content = _Restricted(file, storage).load()
        for key in _Restricted(file).load():
            tensor = loaded[key]
            count = int.from_bytes(file.read(8), "little")
            data = bytearray(file.read(tensor.numel() * tensor.dtype.itemsize))
            if count != tensor.numel() or len(data) < tensor.numel() * tensor.dtype.itemsize:
                raise pickle.UnpicklingError("the file ends within a storage")
            if data:
                tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype))
    return content
