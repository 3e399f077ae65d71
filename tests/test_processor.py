"""FOVEAL_TEST_BF16 decides the automatic precision, in this process and in subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foveal.runtime.precision import choose
from tests.processor import sitecustomize

CODE = """
import sys, foveal
assert "torch" not in sys.modules
import torch
from foveal.runtime.precision import choose
print(choose(None, torch.device("cpu")))
"""


def chosen(environment: dict[str, str]) -> str:
    """The precision that a subprocess chooses."""
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def test_subprocesses_choose_the_same_precision() -> None:
    assert chosen(dict(os.environ)) == choose(None, torch.device("cpu"))


@pytest.mark.parametrize(("asked", "precision"), [("1", "bf16"), ("0", "32")])
def test_precision_on_another_cpu(asked: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(sitecustomize.__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("FOVEAL_TEST_BF16", asked)
    assert chosen(dict(os.environ)) == precision
    monkeypatch.setattr("foveal.runtime.precision.cpu_flags", sitecustomize.cpu_flags)
    assert choose(None, torch.device("cpu")) == precision
