"""Downloads from a local HTTP server: resuming, rejection, never a damaged file in the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

from foveal.cli.main import main
from foveal.errors import FovealError, UsageError
from foveal.weights import cache as published
from foveal.weights import download
from foveal.weights.catalogue import Part

CONTENT = bytes(range(256)) * 9000  # more than two blocks
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"small-{SHA[:8]}.pth"


@dataclass
class Server:
    """Injected server errors, and the requests it received."""

    url: str = ""
    content: bytes = CONTENT
    cut: list[int] = field(default_factory=list)  # bytes after which each of the next connections ends
    ranges: bool = True  # whether it supports them
    length: int | None = None  # what it reports instead of the true length
    status: int = 200
    asked: list[str | None] = field(default_factory=list)  # the Range of each request


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            start = int(asked[6:-1]) if asked and server.ranges else 0
            if server.status != 200:
                self.send_error(server.status)
                return
            if start >= len(server.content) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            rest = server.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
            self.send_header("Content-Length", str(len(rest) if server.length is None else server.length))
            self.end_headers()
            self.wfile.write(rest[: server.cut.pop(0)] if server.cut else rest)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}/{NAME}"
        yield server
        http.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """It serves the file of ``accurate``; the cache is a temporary folder, and retries do not wait."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with serving(Server()) as found:
        entry = published.PUBLISHED["fasterrcnn_resnet50_fpn_v2"]
        monkeypatch.setitem(published.PUBLISHED, entry.name, replace(entry, url=found.url))
        yield found


def cached() -> list[str]:
    folder = published.weights_folder()
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_interrupted_download_resumes(server: Server) -> None:
    server.cut = [1_000_000, 500_000]
    seen: list[tuple[int, int]] = []
    path = published.fetch("accurate", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert cached() == [NAME]


def test_next_command_resumes_the_download(server: Server) -> None:
    server.cut = [1_000_000, 0]
    with pytest.raises(FovealError, match=r"broke after 1000000 of 2304000.*resume after 1,000,000 bytes"):
        published.fetch("accurate")
    assert cached() == [NAME + ".part"]
    with pytest.raises(FovealError, match="not in the cache yet"):  # and it is not used as the file
        published.published_file("accurate")
    server.cut, server.asked = [], []
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000000-"]
    assert cached() == [NAME]


def test_server_without_range_support_restarts_the_download(server: Server) -> None:
    server.cut, server.ranges = [1_000_000], False
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert cached() == [NAME]


@pytest.mark.parametrize("here", [CONTENT, CONTENT + b"more", b"x" * 2000, b"x" * len(CONTENT)])
def test_any_partial_file_is_completed_correctly(server: Server, here: bytes) -> None:
    """All of it (killed before the rename), too much, and the start or the whole of another file."""
    published.weights_folder().mkdir(parents=True)
    (published.weights_folder() / (NAME + ".part")).write_bytes(here)
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert cached() == [NAME]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x", b"<html>Sign in</html>", b""])
def test_wrong_content_is_rejected_and_removed(server: Server, content: bytes) -> None:
    server.content = content
    with pytest.raises(FovealError, match=rf"is not {NAME}: its SHA-256 starts with .*different file was deleted"):
        published.fetch("accurate")
    assert cached() == []


def test_a_wrong_length(server: Server) -> None:
    server.length = len(CONTENT) + 10  # more is announced than sent; asked for the remainder, the server reports none
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT)}-"]
    (published.weights_folder() / NAME).unlink()
    server.length = len(CONTENT) - 10  # less: what comes is not the file
    with pytest.raises(FovealError, match="SHA-256"):
        published.fetch("accurate")
    assert cached() == []


def test_transient_server_errors_and_missing_files(server: Server) -> None:
    server.status = 503
    with pytest.raises(FovealError, match="503"):
        published.fetch("accurate")
    assert len(server.asked) == 5
    server.status, server.asked = 404, []
    with pytest.raises(FovealError, match=r"404.*Without a network: download http"):
        published.fetch("accurate")
    assert len(server.asked) == 1
    assert cached() == []


def test_a_damaged_file_in_the_cache_is_never_used(server: Server) -> None:
    path = published.fetch("accurate")
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(FovealError, match="Delete it and fetch it again"):
        published.published_file("accurate")
    with pytest.raises(FovealError, match="Delete it and fetch it again"):
        published.fetch("accurate", offline=True)
    assert published.fetch("accurate").read_bytes() == CONTENT


def locked(part: Path) -> IO[bytes]:
    """As another process that has just started: its file is open, locked and empty."""
    fcntl = pytest.importorskip("fcntl", reason="no locks of this kind here")
    part.parent.mkdir(parents=True, exist_ok=True)
    file = part.open("ab")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_concurrent_downloads_do_not_interfere(server: Server) -> None:
    """The second is rejected and does not touch the first one's file, also while it is still empty."""
    part = published.weights_folder() / (NAME + ".part")
    with locked(part) as file:
        with pytest.raises(FovealError, match="is being fetched by another process"):
            published.fetch("accurate")
        assert os.path.samestat(os.fstat(file.fileno()), part.stat())
    assert published.fetch("accurate").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["done", "failed", "elsewhere"])
def test_another_process_finishes_while_this_one_opens_the_file(
    how: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock that is got then is on the finished file, or on one that was removed: neither is written to. (The server
    has no range support: resuming would start by truncating the file.)"""
    server.ranges = False
    place = published.weights_folder() / NAME
    part = place.with_name(NAME + ".part")
    take, calls = download._lock, []

    def late(file: IO[bytes], path: Path) -> None:
        if not calls:
            calls.append(path)
            if how == "done":
                part.write_bytes(CONTENT)
                os.replace(part, place)
            else:
                part.unlink()
            if how == "elsewhere":
                part.write_bytes(CONTENT[:1000])  # a third process restarted it and was interrupted
        take(file, path)

    monkeypatch.setattr(download, "_lock", late)
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert cached() == [NAME]
    assert len(server.asked) == (0 if how == "done" else 1)


def test_file_system_without_locks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no locks of this kind here")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert published.fetch("accurate").read_bytes() == CONTENT
    assert cached() == [NAME]


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "accurate", "--offline"]) == 1
    output = capsys.readouterr().err
    assert "not in the cache yet" in output and "Without a network" in output
    assert server.asked == []
    assert main(["weights", "fetch", "accurate"]) == 0
    said_ = capsys.readouterr()
    assert said_.out.strip().endswith(NAME)
    assert "licence: " in said_.err and "data: COCO train2017" in said_.err
    server.asked = []
    monkeypatch.setenv("FOVEAL_OFFLINE", "1")
    assert main(["weights", "fetch", "accurate"]) == 0
    assert server.asked == []


def test_url_with_hash(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    plain = server.url.replace(NAME, "model.pth")
    assert main(["weights", "fetch", plain]) == 2
    assert "--sha256" in capsys.readouterr().err
    assert main(["weights", "fetch", plain, "--sha256", "0" * 64]) == 1
    assert cached() == []
    assert main(["weights", "fetch", plain, "--sha256", SHA.upper()]) == 0
    assert Path(capsys.readouterr().out.strip()).name == f"model-{SHA[:8]}.pth"
    assert main(["weights", "fetch", server.url]) == 0  # its name ends with the digits
    assert cached() == [f"model-{SHA[:8]}.pth", NAME]
    assert main(["weights", "fetch", plain, "--sha256", SHA, "--offline"]) == 0
    assert main(["weights", "fetch", "accurate", "--sha256", SHA]) == 2
    with pytest.raises(UsageError, match="name of a file"):
        published.fetch_url("http://127.0.0.1/", SHA)
    with pytest.raises(UsageError, match="is not an address"):
        published.fetch_url("http://[x/model.pth", SHA)
    with pytest.raises(UsageError, match="not a SHA-256"):
        published.fetch_url(plain, "xyz")


def test_all_files_of_a_darknet_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = published.PUBLISHED["yolov3-tiny"]
    base = server.url.rsplit("/", 1)[0]
    parts = {"cfg": Part(f"{base}/tiny.cfg", SHA), "names": Part(f"{base}/coco.names", SHA)}
    monkeypatch.setitem(published.PUBLISHED, entry.name, replace(entry, url=f"{base}/t.weights", digest=SHA, **parts))
    published.fetch("yolov3-tiny")
    assert cached() == ["coco.names", "t.weights", "tiny.cfg"]
    assert [p.name for p in published.published_files("yolov3-tiny")] == ["t.weights", "tiny.cfg", "coco.names"]


def test_nearest_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "acurate"]) == 2
    assert "Did you mean accurate" in capsys.readouterr().err
    assert main(["weights", "list", "detr_resnet5"]) == 2
    assert "detr_resnet50" in capsys.readouterr().err


def test_model_card_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "detr_r50"]) == 0
    output = capsys.readouterr().out
    for line in ("what: detr_r50", "score: 42.0 COCO box AP (COCO val2017)", "licence: Apache-2.0", "data: COCO"):
        assert line in output
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"detr_resnet101_dc5 +- +detr_r101_dc5 +232 +44.9 COCO box AP", listed)
    assert re.search(r"yolov3-tiny +- +its cfg +34 +- ", listed)
    for entry in published.PUBLISHED.values():
        assert entry.licence and entry.data and entry.source, entry.name


def test_timms_names() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    entry = published.find_published("timm/resnet18.a1_in1k")
    assert entry.file.endswith(f"-{entry.sha256}.pth") and entry.licence == "apache-2.0"
    with pytest.raises(UsageError, match=r"resnet18\.a1_in2k.*Did you mean"):
        published.find_published("timm/resnet18.a1_in2k")
