"""The README's commands, on a small generated dataset and with a short time limit, otherwise unchanged."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from foveal.cli.main import main
from foveal.data.synthetic.shapes import make_shapes

README = Path(__file__).resolve().parents[1] / "README.md"
SHORTER = {"--max-time 15m": "--max-time 12s", "--max-time 20m": "--max-time 12s --limit 8", "max_time=900": "epochs=1"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands() -> list[list[str]]:
    """The lines that begin with ``foveal``, continued lines joined, comments removed."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("foveal ")]


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_shapes(tmp_path / "my-photos", splits={"train": 8, "val": 4}, size=(96, 96), masks=False)
    (tmp_path / "holiday").mkdir()
    source_image = next((tmp_path / "my-photos" / "JPEGImages").iterdir())
    (tmp_path / "holiday" / "beach.jpg").write_bytes(source_image.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(source_image.read_bytes())
    return tmp_path


def test_readme_commands(place: Path, data: Path) -> None:
    found = commands()
    assert [c[0] for c in found] == [
        "doctor",
        "train",
        "eval",
        "predict",
        "models",
        "train",
        "compare",
        "train",
        "predict",
    ]
    for command in found:
        words = [word.replace("DATA/", f"{data}/") for word in command]
        if words[0] == "train" and "--max-time" not in words:
            words += ["--epochs", "1"]
        assert main(words) == 0, " ".join(command)
    assert (place / "found.json").is_file() and list((place / "drawn").iterdir())


def test_readme_python_example(place: Path) -> None:
    (code,) = blocks("python")
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["scores"].protocol.name.startswith("voc10")  # type: ignore[attr-defined]
