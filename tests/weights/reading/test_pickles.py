"""Pickles are read without importing or executing what they name."""

from __future__ import annotations

import collections
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveal.errors import FovealError
from foveal.weights.open import read_state
from foveal.weights.reading.pickles import Inert, read_pickle

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.ones(2, dtype=torch.float16),
    "b": torch.arange(4, dtype=torch.bfloat16)[1:3],
    "count": torch.tensor(3),
    "none": torch.zeros(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
    "flags": torch.tensor([True, False]),
}


class Config(dict[str, Any]):
    """A class that a script saves with its weights."""


class Pair:
    def __init__(self) -> None:
        self.values = {"x": 1}
        self.items: list[int] = []


class Names(list[str]):
    pass


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_weights_beside_objects_are_read(zipped: bool, protocol: int, tmp_path: Path) -> None:
    """Objects of a script's own classes, of dict and list subclasses and of partial functions are left alone."""
    beside = {
        "config": Config(lr=0.1, inner=Config(a=1)),
        "callbacks": [Pair(), Pair()],
        "names": Names(["a"]),
        "default": collections.defaultdict(list, a=[1]),
        "call": functools.partial(max, 1),
        "path": Path("x"),
        "array": np.ones(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(
        {"state_dict": STATE, **beside},
        tmp_path / "w.ckpt",
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    assert same(read_state(tmp_path / "w.ckpt"), STATE)
    content = read_pickle(tmp_path / "w.ckpt")
    assert isinstance(content["callbacks"][0], Inert) and content["callbacks"][0].name.endswith("Pair")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_arrays_are_read(protocol: int, tmp_path: Path) -> None:
    arrays = {k: v.float().numpy() for k, v in STATE.items()}
    arrays["big"] = np.arange(3, dtype=">f4")
    arrays["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {"model": arrays, "__author__": "somebody", "scalar": np.float32(2), "words": np.array(["a"], object)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_state(tmp_path / "w.pkl")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array), name
    assert read_pickle(tmp_path / "w.pkl")["scalar"] == 2


class Command:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("form", ["plain", "zip", "legacy"])
@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("touch touched",)),
        (eval, ("open('touched', 'w')",)),
        (exec, ("open('touched', 'w')",)),
        (open, ("touched", "w")),
        (__import__, ("touched",)),
        (pickle.loads, (b"",)),
    ],
)
def test_harmful_calls_are_refused_even_beside_weights(
    call: Any, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"a": torch.ones(2)}, "x": Command(*call)}
    if form == "plain":
        Path("w.pth").write_bytes(pickle.dumps({"x": Command(*call)}))
    else:
        torch.save(content, "w.pth", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(FovealError, match=r"contains code \([\w.]+\), which is never executed"):
        read_state("w.pth")
    assert not Path("touched").exists()


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    """A state that is set on a class or a function stays in its own file."""
    evil = b"cnumpy.core.multiarray\n_reconstruct\n}U\x01aK\x01sb."
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02" + evil)
    with pytest.raises(FovealError):
        read_state(tmp_path / "evil.pkl")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.ones(3)}, 2))
    assert read_state(tmp_path / "w.pkl")["a"].sum() == 3


def test_a_storage_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A huge storage in a small file, and a view beyond its end."""
    torch.save({"a": Pair(), "w": torch.ones(1000)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "w.pth").read_bytes()
    assert data.count(b"M\xe8\x03") >= 1
    (tmp_path / "w.pth").write_bytes(data.replace(b"M\xe8\x03", b"M\xff\xff"))
    with pytest.raises(FovealError, match="truncated, damaged"):
        read_state(tmp_path / "w.pth")
