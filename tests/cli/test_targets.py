"""--json and --html take the next word; a word that means something else is told and never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.cli.targets import with_stdout
from foveal.errors import UsageError
from tests.helpers.data_sets import voc
from tests.inference.test_predict import write_image


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("d --json", "d --json -"),
        ("--json found", "--json found"),
        ("--json found.txt --html page", "--json found.txt --html page"),
        ("--json f.json --html p.html", "--json f.json --html p.html"),
        ("--json - d", "--json - d"),
        ("--json --html d", "--json - --html d"),
        ("--json -h", "--json - -h"),
        ("--json=found.txt d", "--json=found.txt d"),
        ("--json=- d", "--json=- d"),
        ("--json ./-x", "--json ./-x"),
        ("-- --json", "-- --json"),
        ("d --json --", "d --json - --"),
    ],
)
def test_the_rule(words: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_stdout(words.split()) == expected.split()


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("photo.jpg", "an image"),
        ("gone.PNG", "an image"),
        ("folder", "a folder"),
        ("input.short=600", "a setting"),
        ("*.json", "a pattern"),
        ("[r]esults.js?n", "a pattern"),
        ("[r]esults.json", "a pattern"),
        ("https://example.org/x.json", "an address"),
        ("accurate", "a model"),
        ("notes.txt", "a file that --json did not write"),
        ("page.html", "a file that --json did not write"),
        ("results.json", "an input of this command"),
        ("", "empty"),
    ],
)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_words_that_are_no_file_to_write(
    word: str, what: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photo.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "results.json").write_text("[]")
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    given = ["--json", word] if form == "two words" else [f"--json={word}"]
    with pytest.raises(UsageError) as error:
        with_stdout(["--detections", str(tmp_path / "results.json"), *given, "other"])
    assert str(error.value) == (
        f"--json takes the next word as the file to write, and {word!r} is {what}. "
        "Write --json - for the screen, or name a file after it"
    )
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    "name", ["findings", "findings.txt", "x=1.json", "a b.json", "[x].json", "[x]/found", "out/findings"]
)
def test_any_name_is_written_and_written_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "data")
    option = ["--json", name]
    if name.startswith("x="):  # a setting: told, unless it is a path
        assert cli.main(["doctor", "data", *option]) == 2
        option = ["--json", f"./{name}"]
    Path("[x]").mkdir()
    for _ in range(2):
        assert cli.main(["doctor", "data", *option]) == 0
        assert json.loads(Path(option[-1]).read_text()) == []
    assert capsys.readouterr().out


def test_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(voc(tmp_path / "data"))
    for words in (["--json", "-"], ["--json"], ["--json=-"]):
        assert cli.main(["doctor", data, *words]) == 0
        assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["doctor", data, "--html"]) == 0
    assert capsys.readouterr().out.startswith("<")
    assert cli.main(["doctor", data, "--html", "--json"]) == 2
    assert "cannot both be standard output" in capsys.readouterr().err
