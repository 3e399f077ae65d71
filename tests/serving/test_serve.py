"""A server in a process of its own, without torch: its answers, its limits, and how it ends."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.cli.main import main
from foveal.inference.predict import predict
from tests.serving.server import Server, serving, small_model, until

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn"):
    pytest.importorskip(needed)


POST = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def photo(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) // 2 + np.uint8(10 * (seed % 12))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("serve") / "small.onnx")


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes some tenths of a second an image."""
    return small_model(tmp_path_factory.mktemp("serve") / "slow.onnx", work=80)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model) as running:
        yield running


def test_an_answer_is_an_entry_of_predict_json(server: Server, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo(3))
    done = predict(model, file, score=0.1)
    answer = server.json("/predict?score=.1", file.read_bytes())
    assert answer.pop("ms") > 0 and answer.pop("model") == "small"
    expected = json.loads(json.dumps(done.images[0].to_dict()))
    assert answer == {**expected, "image": "image"} and len(answer["detections"]) == 2
    assert len(server.json("/predict?score=0&top=1", photo(3))["detections"]) == 1
    assert [d["label"] for d in server.json("/predict?score=0&classes=dog", photo(3))["detections"]] == ["dog"]


def test_what_it_says_of_itself(server: Server, model: Path) -> None:
    info = server.json("/info")
    assert info["models"][0]["classes"] == ["cat", "dog"] and info["models"][0]["proof"]["proved"] is True
    assert len(info["models"][0]["sha256"]) == 64 and str(model.parent) not in json.dumps(info)
    assert server.ask("/livez")[0] == server.ask("/readyz")[0] == 200
    server.json("/predict", photo())
    assert b'foveal_requests_total{path="/predict",status="200"}' in server.ask("/metrics")[2]


def test_the_page_needs_nothing_else(server: Server) -> None:
    status, headers, page = server.ask("/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    parts = [server.ask(f"/static/{name}") for name in ("serve.css", "serve.js", "formats.js")]
    assert all(part[0] == 200 for part in parts)
    text = b"".join([page, *(part[2] for part in parts)])
    assert (
        len(text) <= 150_000 and b"https://" not in text and b"http://" not in text.replace(b"http://www.w3.org", b"")
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/predict", b"not an image", 415, "not_an_image"),
        ("/predict", b"", 400, "no_body"),
        ("/predict", photo()[:200], 415, "not_an_image"),
        ("/predict?score=2", photo(), 400, "bad_score"),
        ("/predict?score=nan", photo(), 400, "bad_score"),
        ("/predict?top=-1", photo(), 400, "bad_top"),
        ("/predict?classes=horse", photo(), 400, "unknown_class"),
        ("/predict?url=http://example.org/x.jpg", photo(), 400, "unknown_parameter"),
        ("/predict?model=/etc/passwd", photo(), 400, "unknown_model"),
        ("/../../etc/passwd", None, 404, "no_such_route"),
        ("/static/../serve.js", None, 404, "no_such_route"),
        ("/predict", None, 405, "wrong_method"),
    ],
)
def test_bad_requests(server: Server, path: str, body: bytes | None, status: int, code: str) -> None:
    found, headers, content = server.ask(path, body)
    assert (found, json.loads(content)["code"]) == (status, code)
    assert headers["content-type"] == "application/json" and headers["x-content-type-options"] == "nosniff"
    assert b"/tmp" not in content and b"Traceback" not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "evil.example:8000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_pages_of_other_sites_get_nothing(server: Server, headers: dict[str, str]) -> None:
    for path, body in (("/predict", photo()), ("/info", None), ("/", None)):
        assert server.ask(path, body, **headers)[0] == 403


def test_the_servers_own_page_may_ask(server: Server) -> None:
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", f"[::1]:{server.port}"):
        assert (
            server.ask("/predict", photo(), Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")[0] == 200
        )


def test_limits_of_an_image(model: Path) -> None:
    with serving(model, "--max-body", ".1", "--max-pixels", ".01") as server:
        assert server.ask("/predict", photo())[0] == 200
        status, _, content = server.ask("/predict", photo(0, (128, 96)))
        assert status == 413 and b"128 x 96" in content
        assert raw(server, f"{POST}Content-Length: {10**9}\r\n\r\n").startswith(b"HTTP/1.1 413")
        chunks = "".join(f"4000\r\n{'x' * 0x4000}\r\n" for _ in range(8))
        answer = raw(server, f"{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")
        assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def raw(server: Server, text: str, seconds: float = 10.0) -> bytes:
    """What comes back for bytes on a socket until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(text.encode("latin-1"))
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except (ConnectionResetError, TimeoutError):
            pass
        return found


@pytest.mark.parametrize(
    "text",
    [
        f"{POST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        f"{POST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        f"{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        f"{POST}Content-Length: +3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + "a" * 100_000 + "\r\n\r\n",
    ],
)
def test_smuggling_and_malformed_requests(server: Server, text: str) -> None:
    answer = raw(server, text)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.split()[1] in (b"400", b"403", b"431", b"501"), answer[:200]


def test_slow_headers(server: Server) -> None:
    started = time.monotonic()
    answer = raw(server, "GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", 20)
    assert answer.startswith(b"HTTP/1.1 408") and 4 < time.monotonic() - started < 8


def asking(server: Server, count: int, found: list[int]) -> list[threading.Thread]:
    """So many requests at once; all of them wait or run when this returns."""
    threads = [threading.Thread(target=lambda: found.append(server.ask("/predict", photo())[0])) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert until(lambda: f"foveal_inside {count}\n".encode() in server.ask("/metrics")[2])
    return threads


def test_a_full_queue_answers_at_once(slow_model: Path) -> None:
    with serving(slow_model, "--waiting", "2") as server:
        accepted: list[int] = []
        threads = asking(server, 3, accepted)
        for _ in range(4):
            started = time.monotonic()
            status, headers, content = server.ask("/predict", photo())
            seconds = time.monotonic() - started
            assert status == 503 and json.loads(content)["code"] == "busy" and int(headers["retry-after"]) >= 1
            assert seconds < 0.25  # 50 ms on an idle machine: benchmarks/serving.py
        for thread in threads:
            thread.join()
        assert accepted == [200] * 3


def test_a_client_that_leaves_gives_its_place_back(slow_model: Path) -> None:
    with serving(slow_model, "--waiting", "2") as server:
        body = photo()
        head = f"{POST}Content-Length: {len(body)}\r\n\r\n".encode()
        for _ in range(3):
            sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
            for one in sockets:
                one.sendall(head + body)
            assert until(lambda: b"foveal_inside 3\n" in server.ask("/metrics")[2])
            assert server.ask("/predict", body)[0] == 503
            for one in sockets:
                one.close()
            assert until(lambda: b"foveal_inside 0\n" in server.ask("/metrics")[2], 1)


def test_an_answer_that_takes_too_long(slow_model: Path) -> None:
    with serving(slow_model, "--answer-time", ".02") as server:
        status, headers, content = server.ask("/predict", photo())
        assert status == 504 and json.loads(content)["code"] == "too_late" and "retry-after" in headers


def test_more_connections_than_allowed(model: Path) -> None:
    """The one that has had no request for longest makes room, so idle sockets keep nobody out."""
    with serving(model, "--connections", "4") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        assert all(server.ask("/predict", photo())[0] == 200 for _ in range(3))
        closed = 0
        for one in idle:
            one.settimeout(0.2)
            try:
                closed += one.recv(1) == b""
            except ConnectionResetError:
                closed += 1
            except TimeoutError:
                pass
            one.close()
        assert closed >= 8


def test_two_requests_on_one_connection(server: Server) -> None:
    body = photo(7)
    one = f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body
    last = one.replace(b"Host:", b"Connection: close\r\nHost:", 1)
    answer = raw(server, (one + one + last).decode("latin-1"))  # pipelined
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_rate_and_key(model: Path) -> None:
    with serving(model, "--rate", "5", "--key", "secret") as server:
        assert server.ask("/")[0] == server.ask("/livez")[0] == 200
        status, headers, _ = server.ask("/info")
        assert status == 401 and headers["www-authenticate"] == "Bearer"
        assert server.ask("/info", Authorization="Bearer wrong")[0] == 401
        asked = [server.ask("/info", Authorization="Bearer secret") for _ in range(7)]
        assert [status for status, _, _ in asked] == [200] * 5 + [429] * 2 and "retry-after" in asked[-1][1]


def test_sigterm_loses_no_answer(slow_model: Path) -> None:
    with serving(slow_model) as server:
        found: list[int] = []
        threads = asking(server, 5, found)
        server.process.terminate()
        time.sleep(0.1)
        assert server.ask("/readyz")[0] == 503 and server.ask("/predict", photo())[0] == 503
        for thread in threads:
            thread.join()
        assert found == [200] * 5
        assert server.process.wait(10) == 0


# -------------------------------------------------------------------------------------------- bad commands
def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Status and the one line of a command."""
    status = main(["serve", *map(str, words)])
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1, text
    return status, text


def test_what_cannot_be_served(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = refused(capsys, model, "--port", str(port))
        assert status == 1 and str(port) in text and "--port" in text
    assert refused(capsys, tmp_path / "gone.onnx", "--port", "0")[0] == 1
    other = small_model(tmp_path / "other.onnx", ("cat", "horse"))
    status, text = refused(capsys, model, other, "--port", "0")
    assert status == 1 and "dog, horse" in text
    for name, content in (("damaged.onnx", model.read_bytes()[:300]), ("text.onnx", b"hello")):
        (tmp_path / name).write_bytes(content)
        status, text = refused(capsys, tmp_path / name, "--port", "0")
        assert status == 1 and name in text
    assert refused(capsys, model, "--host", "0.0.0.0", "--port", "0")[0] == 2
