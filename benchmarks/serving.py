"""A running `foveal serve` under load and abuse: answers, times, memory, and the same detector in this process."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEAD = "POST /predict?score=.05 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n"
SCENES = ("start", "overhead", "load", "overload", "slow", "disconnects", "malformed", "uploads", "sigterm")


# --------------------------------------------------------------------------------------------- server, client
@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[str]
    port: int
    seconds: float  # from the start to the first 200 of /readyz

    def resident(self) -> float:
        """MB of memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1e3

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def inside(self) -> int:
        text = asyncio.run(
            request(self.port, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        )[1]
        return int(text.decode().split("\nfoveal_inside ")[1].split()[0])


@contextmanager
def running(model: str, *options: str) -> Iterator[Running]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "foveal", "serve", model, "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        while True:
            status, _ = asyncio.run(request(port, b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
            if status == 200:
                break
        yield Running(process, port, time.perf_counter() - started)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "the server did not leave with status 0"


class Connection:
    """One connection that stays open, and is opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: Any = None
        self.writer: Any = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer; status 0: the connection ended without one."""
        if self.writer is None or self.writer.is_closing() or self.reader.at_eof():
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            self.writer.write(HEAD.format(len(body)).encode() + body)
            status, head, content = await answer(self.reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""
        if b"connection: close" in head.lower():
            self.close()
        return status, content

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    return int(head.split()[1]), head, await reader.readexactly(length)


async def request(port: int, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    status, _, body = await answer(reader)
    writer.close()
    return status, body


# --------------------------------------------------------------------------------------------------- results
@dataclass
class Tally:
    """Seconds of the answers, by status."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0  # answers that are not those of this process

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def text(self) -> str:
        counts = ", ".join(f"{status or 'no answer'}: {len(s)}" for status, s in sorted(self.seconds.items()))
        return f"{counts}; other answers than in this process: {self.wrong}"


def ms(seconds: Sequence[float], share: float) -> float:
    """The quantile of some times, in ms."""
    ordered = sorted(seconds)
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def photos(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs of 640 x 480 with smooth shapes, about as large as photos."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=85)
        found.append(out.getvalue())
    return found


class Serial:
    """The same detector in this process."""

    def __init__(self, model: str) -> None:
        from foveal.inference.exported import open_exported
        from foveal.serving.models import Asked, ServedModel

        self.model, self.asked = ServedModel("model", open_exported(model, 1), {}), Asked(0.05)

    def answer(self, data: bytes) -> Any:
        return json.loads(self.model.answer(data, self.asked, 64_000_000))["detections"]


async def closed_loop(port: int, bodies: Sequence[bytes], expected: dict[bytes, Any], clients: int) -> Tally:
    """``clients`` that each ask again as soon as they are answered, until every body is sent."""
    tally, rest = Tally(), iter(bodies)

    async def client() -> None:
        connection = Connection(port)
        for body in rest:
            began = time.perf_counter()
            status, content = await connection.post(body)
            tally.add(status, time.perf_counter() - began)
            if status == 200 and body in expected:
                tally.wrong += json.loads(content)["detections"] != expected[body]
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return tally


# ----------------------------------------------------------------------------------------------------- scenes
def start(args: argparse.Namespace) -> None:
    for model in (args.model, *([args.torch] if args.torch else [])):
        times = []
        for _ in range(args.rounds):
            with running(model) as server:
                times.append(server.seconds)
        print(f"start to ready, {Path(model).suffix or 'run'}: median {statistics.median(times):.2f} s of {len(times)}")


def overhead(args: argparse.Namespace) -> None:
    serial, (body,) = Serial(args.model), photos(1)

    async def over_http(port: int) -> list[float]:
        connection, times = Connection(port), []
        for _ in range(args.timed):
            began = time.perf_counter()
            status, _ = await connection.post(body)
            times.append(time.perf_counter() - began)
            assert status == 200
            began, busy = time.perf_counter(), time.process_time()
            serial.answer(body)
            own.append(time.perf_counter() - began)
            processor.append(time.process_time() - busy)
        connection.close()
        return times

    own: list[float] = []
    processor: list[float] = []
    with running(args.model) as server:
        asyncio.run(closed_loop(server.port, [body] * 5, {}, 1))
        before = server.processor()
        http = asyncio.run(over_http(server.port))
        used = 1e3 * (server.processor() - before) / args.timed
    a, b = ms(http, 0.5), ms(own, 0.5)
    print(f"p50 of {args.timed} interleaved: HTTP {a:.2f} ms, in process {b:.2f} ms, difference {a - b:.2f} ms")
    print(f"  processor time a request: server {used:.2f} ms, in process {1e3 * statistics.mean(processor):.2f} ms")


def load(args: argparse.Namespace) -> None:
    serial, good = Serial(args.model), photos(16)
    expected: dict[bytes, Any] = {body: serial.answer(body) for body in good}
    rng = random.Random(0)
    bad = [b"no image", good[0][:500], b"\xff\xd8\xff" + bytes(3000)]
    bodies = [rng.choice(bad if k % 100 == 50 else good) for k in range(args.requests)]
    with running(args.model, "--waiting", str(args.clients)) as server:
        asyncio.run(closed_loop(server.port, bodies[: max(1, args.requests // 10)], expected, args.clients))
        before, began = server.resident(), time.perf_counter()
        tally = asyncio.run(closed_loop(server.port, bodies, expected, args.clients))
        seconds, after = time.perf_counter() - began, server.resident()
    good_times = tally.seconds.get(200, [])
    print(f"{args.clients} clients, {args.requests} requests, 1 % bad: {tally.text()}")
    rate = args.requests / seconds
    print(f"  {rate:.0f} requests/s, p50 {ms(good_times, 0.5):.0f} ms, p99 {ms(good_times, 0.99):.0f} ms")
    print(f"  memory {before:.0f} -> {after:.0f} MB ({100 * (after / before - 1):+.1f} %)")


def overload(args: argparse.Namespace) -> None:
    """Requests at four times the rate that the server manages, whether they are answered or not."""
    good = photos(16)

    async def offered(port: int, rate: float, count: int) -> Tally:
        tally = Tally()

        async def one(k: int) -> None:
            connection = Connection(port)
            began = time.perf_counter()
            status, _ = await connection.post(good[k % 16])
            tally.add(status, time.perf_counter() - began)
            connection.close()

        tasks, began = [], time.perf_counter()
        for k in range(count):
            await asyncio.sleep(max(0.0, began + k / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(k)))
        await asyncio.gather(*tasks)
        return tally

    with running(args.model) as server:
        count, began = max(64, args.requests // 10), time.perf_counter()
        full = asyncio.run(closed_loop(server.port, [good[k % 16] for k in range(count)], {}, 32))
        rate = count / (time.perf_counter() - began)
        tally = asyncio.run(offered(server.port, 4 * rate, 4 * count))
    served, refused = tally.seconds.get(200, []), tally.seconds.get(503, [])
    print(f"32 clients alone: {rate:.0f} requests/s, p99 {ms(full.seconds.get(200, []), 0.99):.0f} ms")
    print(f"{4 * rate:.0f} requests/s offered: {tally.text().split(';')[0]}")
    print(f"  accepted p99 {ms(served, 0.99):.0f} ms; 503 p50 {ms(refused, 0.5):.1f}, p99 {ms(refused, 0.99):.1f} ms")


def slow(args: argparse.Namespace) -> None:
    """Sockets that send a byte of their headers, or of their body, every half second."""
    good = photos(4)
    bodies = [good[k % 4] for k in range(args.timed)]

    async def dripping(port: int, k: int) -> None:
        text = HEAD.format(20_000).encode() if k % 2 else b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.5)
        except ConnectionError:
            pass

    async def both(port: int) -> tuple[Tally, Tally]:
        alone = await closed_loop(port, bodies, {}, 2)
        attack = [asyncio.create_task(dripping(port, k)) for k in range(args.sockets)]
        await asyncio.sleep(1)
        beside = await closed_loop(port, bodies, {}, 2)
        for task in attack:
            task.cancel()
        return alone, beside

    with running(args.model) as server:
        alone, beside = asyncio.run(both(server.port))
    print(f"{args.sockets} slow sockets: {beside.text().split(';')[0]}")
    print(
        f"  p99 of good requests {ms(alone.seconds[200], 0.99):.0f} -> {ms(beside.seconds.get(200, []), 0.99):.0f} ms"
    )


def disconnects(args: argparse.Namespace) -> None:
    (body,) = photos(1)
    with running(args.model, "--waiting", "200") as server:
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(args.leavers)]
        for one in sockets:
            one.sendall(HEAD.format(len(body)).encode() + body)
        most = server.inside()
        for one in sockets:
            one.close()
        began = time.perf_counter()
        while left := server.inside():
            if time.perf_counter() - began > 10:
                break
        seconds = time.perf_counter() - began
        status, _ = asyncio.run(Connection(server.port).post(body))
    what = f"{left} inside after {1e3 * seconds:.0f} ms; next answer {status}"
    print(f"{args.leavers} clients leave ({most} inside): {what}")


def malformed(args: argparse.Namespace) -> None:
    rng, good = random.Random(1), photos(4)
    png = io.BytesIO()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(png, "PNG")
    sources = [*good, png.getvalue()]

    def one() -> bytes:
        data = bytearray(rng.choice(sources))
        kind = rng.randrange(5)
        if kind == 0:
            return rng.randbytes(rng.randrange(1, 4000))
        if kind == 1:
            return bytes(data[: rng.randrange(1, len(data))])
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(min(len(data), 2000 if kind == 2 else len(data)))] = rng.randrange(256)
        return bytes(data) if kind < 4 else bomb(rng.randrange(1, 60000))

    bodies = [one() for _ in range(args.bodies)]
    with running(args.model) as server:
        asyncio.run(closed_loop(server.port, bodies[:200], {}, 8))
        before = server.resident()
        tally = asyncio.run(closed_loop(server.port, bodies, {}, 8))
        after = server.resident()
    counts = tally.text().split(";")[0]
    print(f"{args.bodies} malformed bodies: {counts}; memory {before:.0f} -> {after:.0f} MB")


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels, and has none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = side.to_bytes(4, "big")
    header = chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(3000))) + chunk(b"IEND", b"")


def uploads(args: argparse.Namespace) -> None:
    """Large bodies at once, and one that says it is a picture of 3,600 million pixels."""
    large = photos(1)[0] + bytes(args.upload_mb * 1_000_000 - 200_000)

    async def at_once(server: Running) -> tuple[Tally, float]:
        most = 0.0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, server.resident())
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        tally = await closed_loop(server.port, [large] * 32, {}, 32)
        watching.cancel()
        return tally, most

    with running(args.model) as server:
        asyncio.run(closed_loop(server.port, photos(2), {}, 1))
        before = server.resident()
        tally, most = asyncio.run(at_once(server))
        after = server.resident()
        status, _ = asyncio.run(Connection(server.port).post(bomb(60_000)))
        bombed = server.resident()
    print(
        f"32 uploads of {args.upload_mb} MB at once: {tally.text().split(';')[0]}; memory {before:.0f} -> {most:.0f} MB"
    )
    print(f"  a picture of 3,600 Mpx: {status}, memory {after:.0f} -> {bombed:.0f} MB")


def sigterm(args: argparse.Namespace) -> None:
    """The signal while clients ask; a request is lost if its connection ends before the answer."""
    (body,) = photos(1)
    tally = Tally()

    async def client(port: int) -> None:
        connection = Connection(port)
        while True:
            try:
                status, _ = await connection.post(body)
            except ConnectionRefusedError:
                return
            tally.add(status, 0.0)
            if status != 200:
                return

    async def clients(server: Running) -> None:
        tasks = [asyncio.create_task(client(server.port)) for _ in range(args.clients)]
        await asyncio.sleep(args.seconds)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)

    with running(args.model, "--waiting", str(args.clients)) as server:
        asyncio.run(clients(server))
    print(f"SIGTERM under {args.clients} clients: {tally.text().split(';')[0]}")


def random_model(folder: str) -> str:
    """A small detector with random weights, exported without a proof."""
    import torch

    from foveal import presets
    from foveal.export.graph import Graph, axes_of
    from foveal.export.onnx_model import to_onnx
    from foveal.export.write import add_metadata, metadata_of

    torch.manual_seed(0)
    detector = presets.get("ssd_mini").build(["cat", "dog"]).eval()
    axes = axes_of(detector, None, None)
    proto = to_onnx(Graph(detector), axes)
    add_metadata(proto, metadata_of(detector, axes))
    path = Path(folder, "random.onnx")
    path.write_bytes(proto.SerializeToString())
    return str(path)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--model", help="file of foveal export; default: ssd_mini with random weights")
    p.add_argument("--torch", help="a run or checkpoint whose start is timed too")
    p.add_argument("--only", default="", help=f"scenes, with commas between them: {', '.join(SCENES)}")
    for name, value, text in (
        ("clients", 32, "clients of load and sigterm"), ("requests", 10_000, "requests of load"),
        ("timed", 200, "requests of overhead and slow"), ("sockets", 200, "slow sockets"),
        ("leavers", 100, "clients that leave"), ("bodies", 10_000, "malformed bodies"),
        ("upload-mb", 19, "MB of a large body"), ("rounds", 5, "starts"),
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=value, help=text)
    p.add_argument("--seconds", type=float, default=2.0, help="of load before SIGTERM")
    args = p.parse_args()
    print(f"# python {platform.python_version()}, {os.cpu_count()} cores, one thread of ONNX Runtime", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        args.model = args.model or random_model(folder)
        for scene in SCENES:
            if not args.only or scene in args.only.split(","):
                globals()[scene](args)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
