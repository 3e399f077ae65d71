"""Files that are there instead of others are named with what to do, whatever reads them; oddities of JSON are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.data.recognition.recognize import recognize
from foveal.errors import FovealError
from foveal.files.reading import JsonOddities, Unreadable, read_json, read_lines, read_text, read_xml, read_yaml

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:25ae77\nsize 9901\n"


@pytest.mark.parametrize("read", [read_json, read_lines, read_text, read_xml, read_yaml])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b"\r\n"])
def test_pointers_of_git_lfs(tmp_path: Path, read: Callable[[Path], Any], lead: bytes) -> None:
    (tmp_path / "a").write_bytes(lead + POINTER)
    with pytest.raises(Unreadable, match="git-lfs pointer") as caught:
        read(tmp_path / "a")
    assert caught.value.fix == "Run: git lfs pull"


@pytest.mark.parametrize("name", ["a.xml", "a.json", "sub/instances_train.json", "data.yaml", "more.yml"])
def test_a_folder_of_pointers_is_no_data_set_and_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(POINTER)
    try:
        findings = recognize(tmp_path).read().findings
        assert any("git-lfs" in f.message and "git lfs pull" in f.fix for f in findings)
    except FovealError as error:
        assert "git-lfs" in error.message and "git lfs pull" in error.fix and Path(name).name in str(error)


def test_keys_that_an_object_has_twice(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1], "b": {"x": 1, "x": 1}, "a": [2]}')
    oddities = JsonOddities()
    assert read_json(tmp_path / "a.json", oddities) == {"a": [2], "b": {"x": 1}}
    assert oddities.repeated == [("a", [1], [2])] and not oddities.guessed


def test_a_guessed_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "Größe"}'.encode("latin-1"))
    oddities = JsonOddities()
    assert read_json(tmp_path / "a.json", oddities) == {"a": "Größe"} and oddities.guessed
