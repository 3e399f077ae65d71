"""Files are complete or absent, whatever the system refuses; links, devices and long names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.files.atomic import CannotWrite, atomic_file, atomic_folder, write_bytes, write_json, write_text

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


def refuse(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC, after: int = 0) -> None:
    """Writes of more than ``after`` bytes fail, and name no file: so do those of a full disk."""
    write = Path.write_bytes

    def failing(self: Path, data: bytes) -> int:
        if len(data) <= after:
            return write(self, data)
        write(self, data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", failing)


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "old.json", [1])
    refuse(monkeypatch)
    for name in ("old.json", "new.json", "deep/er/new.json"):
        with pytest.raises(CannotWrite) as error:
            write_text(tmp_path / name, "[1, 2, 3]")
        assert str(error.value) == (
            f"{tmp_path / name}: cannot be written (No space left on device). Free some space, or choose another place"
        )
    assert (tmp_path / "old.json").read_text() == "[\n 1\n]\n"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["old.json"]


def test_other_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match=rf"{tmp_path / 'file'}: is a file, not a folder"):
        write_bytes(tmp_path / "file" / "x.json", b"x")
    for target, reason in (
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(CannotWrite, match=rf"{target}.*: cannot be written \({reason}\)"):
            write_bytes(target, b"x")


def test_an_interruption_removes_the_part(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "x") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "y") as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@full
def test_devices_are_written_to_and_never_replaced() -> None:
    before = os.stat(FULL)
    with pytest.raises(CannotWrite, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_text(FULL, "x")
    assert os.stat(FULL).st_rdev == before.st_rdev
    write_text(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text() == "new"


@pytest.mark.parametrize("letter", ["x", "é", "猫", "😀", "\udcff"])
def test_names_of_255_bytes(letter: str, tmp_path: Path) -> None:
    name = letter * (255 // len(os.fsencode(letter)))
    write_text(tmp_path / name, "x")
    with atomic_folder(tmp_path / "f" / name) as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "f" / name / "a").read_text() == "x"


@pytest.mark.parametrize(
    "name", ["a b", "a'b\"c", "%s%n", "[x]", "-v", "#1", "x=1", "dot.", " lead", "a\nb", "~", "$HOME"]
)
def test_names_that_are_special_elsewhere(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name / name, "x")
    assert (tmp_path / name / name).read_text() == "x"


def test_the_error_of_a_copy_names_the_target(tmp_path: Path) -> None:
    """Python names the source first where a disk becomes full in the middle of a copy."""
    with pytest.raises(FovealError) as error, atomic_folder(tmp_path / "out") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", "in/a.jpg", None, str(folder / "images" / "a.jpg"))
    assert str(error.value).startswith(f"{tmp_path / 'out' / 'images' / 'a.jpg'}: cannot be written")
    assert not (tmp_path / "out").exists()
