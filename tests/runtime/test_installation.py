from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveal.cli.main import main
from foveal.runtime import installation
from foveal.runtime.precision import cpu_flags


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["packages"]["torch"] == installation.version("torch")
    assert told["machine"]["threads"] == torch.get_num_threads() and told["machine"]["cores"] >= 1
    assert set(told["machine"]["features"]) <= cpu_flags()
    assert "timm" in told["extras"]["pretrained"] and "test" not in told["extras"]


def test_version_and_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"foveal {installation.version('foveal')}\n"
    assert main(["--version", "--yaml"]) == 2
    assert "--json" in capsys.readouterr().err


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "torch":
            raise OSError("libtorch_cpu.so: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    told = installation.describe_installation()
    assert "libtorch_cpu.so" in told["machine"]["error"] and told["packages"]["torch"]
