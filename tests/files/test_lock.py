"""The lock of a folder, among real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from foveal.files import lock
from foveal.files.atomic import CannotWrite
from foveal.files.lock import LOCK, FolderInUse, locked

HOLDER = """
import sys
from pathlib import Path
from foveal.files.lock import locked
with locked(Path(sys.argv[1]), "a training run"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that has the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("system", [True, False])
def test_a_second_process_is_refused_until_the_first_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: bool
) -> None:
    """``system``: by the system's locks; else as on a disk without them, by the host and process in the file."""
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    if not system:
        monkeypatch.setattr(lock, "fcntl", None)
    folder = tmp_path / "runs" / "a"
    process = holder(folder)
    try:
        message = rf"a training run \(process {process.pid} on {socket.gethostname()}, since 20.*works on this folder"
        with pytest.raises(FolderInUse, match=message), locked(folder, "a test"):
            pass
        with locked(tmp_path / "b", "a test"):  # another one
            pass
    finally:
        process.communicate("")
    with locked(folder, "a test"):
        assert (folder / LOCK).exists()
    assert not (tmp_path / "runs").exists()  # both were made for the lock, and stayed empty


@pytest.mark.parametrize("system", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: bool
) -> None:
    if not system:
        monkeypatch.setattr(lock, "fcntl", None)
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK).exists()
    (tmp_path / "kept").write_text("")
    with locked(tmp_path, "a test"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_without_the_systems_locks_another_host_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / LOCK).write_text('{"host": "elsewhere", "process": 1, "since": 0, "what": "a training run"}')
    with pytest.raises(FolderInUse, match=r"process 1 on elsewhere.*if it does not run any more, remove .*\.lock"):
        locked(tmp_path, "a test").__enter__()
    (tmp_path / LOCK).write_text("damaged")
    with locked(tmp_path, "a test"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="file/run: cannot be written"), locked(tmp_path / "file/run", "a test"):
        pass
