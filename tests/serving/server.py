"""Real server processes for tests, and a small ONNX detector whose answers depend on the image."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# torch cannot be imported: an exported file must be served without it
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from foveal.cli.main import run; run()"


def small_model(path: Path, classes: Sequence[str] = ("cat", "dog"), work: int = 0) -> Path:
    """A file in the form of ``foveal export``: two boxes, whose place and scores follow the mean of the pixels.

    ``work``: matrix products (384 x 384) of every image, for a detector that takes its time.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto as T
    from onnx import helper, numpy_helper

    constants = {
        "axes": np.array([1, 2, 3]), "flat": np.array([-1, 1]), "deep": np.array([-1, 1, 1]),
        "half": np.array([[1, 0.5]], np.float32), "places": np.array([[[2, 3, 12, 14], [5, 1, 20, 18]]], np.float32),
        "classes": np.array([[0, 1]]), "zero": np.zeros(1, np.float32), "big": np.full((384, 384), 1e-3, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean4"], keepdims=1),
        helper.make_node("Reshape", ["mean4", "flat"], ["mean"]),
        helper.make_node("Reshape", ["mean4", "deep"], ["shift"]),
    ]
    last = "shift"
    if work:
        nodes.append(helper.make_node("Add", ["big", "shift"], ["work0"]))
        nodes += [helper.make_node("MatMul", [f"work{k}", "big"], [f"work{k + 1}"]) for k in range(work)]
        nodes += [
            helper.make_node("ReduceMax", [f"work{work}"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "zero"], ["nothing"]),
            helper.make_node("Add", ["shift", "nothing"], ["shifted"]),
        ]
        last = "shifted"
    nodes += [
        helper.make_node("Add", ["places", last], ["boxes"]),
        helper.make_node("Sigmoid", ["mean"], ["score"]),
        helper.make_node("Mul", ["score", "half"], ["scores"]),
        helper.make_node("Greater", ["scores", "zero"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["ones"], to=T.INT64),
        helper.make_node("Mul", ["ones", "classes"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("pixels", T.FLOAT, ["batch", 3, "height", "width"]),
            helper.make_tensor_value_info("sizes", T.INT64, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info(name, kind, ["batch", 2, *([4] if name == "boxes" else [])])
            for name, kind in (("boxes", T.FLOAT), ("scores", T.FLOAT), ("labels", T.INT64), ("valid", T.BOOL))
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rule = {"rule": "Resize", "short": 32, "long": 64, "multiple": 8, "mean": [0.5] * 3, "std": [0.2] * 3}
    proof = {"proved": True, "images": 50, "boxes": 100, "matched": 100, "worst_pixels": 1e-4, "worst_score": 1e-6}
    meta = {"schema": 1, "classes": list(classes), "input": {**rule, "padding": [0.5] * 3}, "score": 0.05}
    helper.set_model_props(model, {"foveal": json.dumps({**meta, "proof": proof})})
    onnx.save(model, path)
    return path


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str]

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, body, names)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str, body: bytes | None = None, **headers: str) -> Any:
        status, _, content = self.ask(path, body, **headers)
        assert status == 200, content
        return json.loads(content)

    def end(self) -> tuple[int, str]:
        """SIGTERM; the exit status, and what stood on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def serving(*words: str | Path, torch: bool = False) -> Iterator[Server]:
    """A server on a free port. At the end it must leave with status 0 and without a traceback."""
    start = ["-m", "foveal"] if torch else ["-c", WITHOUT_TORCH]
    command = [sys.executable, *start, "serve", *map(str, words), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=os.environ.get("TMPDIR", "/tmp"),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), process.communicate(timeout=30)
        server = Server(process, int(line.rsplit(":", 1)[1]), [line])
        yield server
        status, errors = server.end()
        assert status == 0 and "Traceback" not in errors, errors
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=30)


def until(true: Any, seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())
