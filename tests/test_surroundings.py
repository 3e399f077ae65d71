"""Unusual environments: no home folder, a terminal that is not UTF-8, folders of any name."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from foveal.cli.common import write_json
from foveal.cli.main import main
from foveal.errors import FovealError
from foveal.report.plots import lines
from foveal.training.loop.log import Log
from foveal.weights.cache import weights_folder
from tests.inference.test_predict import run as predict
from tests.inference.test_predict import write_image

ODD = os.fsdecode(b"caf\xe9")  # Linux names are bytes; Python shows those that are not UTF-8 as lone surrogates


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user id without an entry in the user database."""

    def unknown(number: int) -> Any:
        raise KeyError(number)

    for name in ("HOME", "FOVEAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_folder_must_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FovealError, match=r"home folder is not known.*FOVEAL_CACHE"):
        weights_folder()
    assert main(["weights", "fetch", "accurate", "--offline"]) == 1
    assert "FOVEAL_CACHE" in capsys.readouterr().err
    monkeypatch.setenv("FOVEAL_CACHE", "~/cache")
    with pytest.raises(FovealError, match=r"^~/cache: "):
        weights_folder()
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    assert weights_folder() == tmp_path


def test_cache_does_not_depend_on_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEAL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, place in (("cache", ".cache"), ("", ".cache"), ("~/x", "x"), (str(tmp_path / "y"), "y")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert weights_folder() == tmp_path / place / "foveal"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_on_standard_output_is_utf_8(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    write_json({"path": f"Straße/{ODD}"}, Path("-"))
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode("utf-8")) == {"path": f"Straße/{ODD}"}


def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk has only names in UTF-8")
    photo = write_image(folder / "photo.png")
    predict(photo, json=folder / "found.json")
    (entry,) = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert entry["image"] == str(photo)
    log = Log(folder, active=True)  # TensorBoard refuses the name; the other log is there
    log.write(step=1)
    log.close()
    assert json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8"))["step"] == 1
    assert lines({ODD: ([1.0, 2.0], [0.1, 0.2])}, title="t", x="x", y="y")[:4] == b"\x89PNG"
